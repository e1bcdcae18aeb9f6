"""Token ids as text, for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from wanspec.report.timeline import UNKNOWN_TOKEN, Timeline
from wanspec.triton.text import TextStream

PROMPT_CHARACTERS = 4_000
"""Of a prompt, how much is shown."""


class Words:
    """What a tokenizer says of tokens; without one, nothing."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer

    @property
    def known(self) -> bool:
        """Whether there is a tokenizer."""
        return self._tokenizer is not None

    def pieces(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[str] | None:
        """The text of an answer, token by token; a character of several tokens comes with its last one.

        None without a tokenizer, and where tokens are not known.
        """
        if self._tokenizer is None or UNKNOWN_TOKEN in tokens:
            return None
        stream = TextStream(self._tokenizer, self._valid(prompt))
        pieces = [stream.push([token]) if self._is_valid(token) else "" for token in tokens]
        if pieces:
            pieces[-1] += stream.flush()
        return pieces

    def prompt(self, timeline: Timeline) -> str:
        """A prompt's text with its special tokens, shortened; as it was given if that is known."""
        text = timeline.prompt_text
        if not text and self._tokenizer is not None:
            # A token is a character at least, but for parts of one.
            ids = self._valid(timeline.prompt[: 2 * PROMPT_CHARACTERS])
            text = self._tokenizer.decode(ids, skip_special_tokens=False)
        more = len(text) - PROMPT_CHARACTERS
        return text if more <= 0 else f"{text[:PROMPT_CHARACTERS]} … ({more:,} characters more)"

    def each(self, tokens: Iterable[int]) -> dict[int, str]:
        """The text of single tokens."""
        if self._tokenizer is None:
            return {}
        return {
            token: self._tokenizer.decode([token], skip_special_tokens=False)
            for token in sorted(set(tokens))
            if self._is_valid(token)
        }

    def _is_valid(self, token: int) -> bool:
        return self._tokenizer is not None and self._tokenizer.id_to_token(token) is not None

    def _valid(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if self._is_valid(token)]
