"""Text to token ids and back, inside the endpoint: tokenizer, chat template, streaming without broken characters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from wanspec.errors import InvalidRequestError, ModelError

_REPLACEMENT = "\ufffd"


class TextCodec:
    """A model folder's tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        """Read them.

        Raises:
            ModelError: the folder has no usable tokenizer.json.
        """
        self._folder = folder
        self.tokenizer = load_tokenizer(folder)
        # A character of a token stands for at most four bytes of text.
        self.longest_token = 4 * max(map(len, self.tokenizer.get_vocab()))
        self.end_ids = _end_ids(folder)
        self.has_chat_template = _has_chat_template(folder)
        self._chat: Any = _load_chat(folder) if self.has_chat_template else None

    def encode(self, text: str, *, chat: bool) -> list[int]:
        """Turn a prompt into token ids.

        Args:
            text: the prompt.
            chat: wrap it as one user message in the model's chat template.

        Raises:
            InvalidRequestError: the model has no chat template, or the text gives no token.
        """
        if chat:
            return self.encode_chat([{"role": "user", "content": text}], "chat")
        return self._encode(text, "text_input", special_tokens=True)

    def encode_chat(self, messages: Sequence[Mapping[str, str]], field: str = "messages") -> list[int]:
        """Turn a conversation into the token ids that come before the assistant's next message.

        Args:
            messages: each with ``role`` and ``content``, as the model's chat template takes them.
            field: the input to name in errors.

        Raises:
            InvalidRequestError: the model has no chat template, or its template refuses the conversation.
        """
        if self._chat is None:
            raise InvalidRequestError(
                field,
                f"{self._folder.name} has no chat template; send plain text instead "
                "(text_input without chat, or /v1/completions)",
            )
        from jinja2 import TemplateError  # comes with transformers, which the template needed

        try:
            rendered = self._chat.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise InvalidRequestError(field, f"the model's chat template refuses it: {error}") from error
        return self._encode(rendered, field, special_tokens=False)  # the template has them

    def _encode(self, text: str, field: str, *, special_tokens: bool) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=special_tokens).ids
        if not ids:
            raise InvalidRequestError(field, "is empty; at least 1 token is needed")
        return ids

    def word(self, word: str) -> tuple[int, ...]:
        """Turn a stop word or a bad word into token ids, without special tokens."""
        return tuple(self.tokenizer.encode(word, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn token ids into text, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def stream(self, prompt: Sequence[int]) -> TextStream:
        """Begin to decode an answer that follows a prompt."""
        return TextStream(self.tokenizer, prompt)


class TextStream:
    """Decodes token ids as they come; text is held back while a UTF-8 character is incomplete."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # The last prompt tokens tell decoders that strip a leading space whether this is one.
        self._stream = DecodeStream(ids=list(prompt[-4:]), skip_special_tokens=True)
        self._pending: list[int] = []

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens; return the text that is complete."""
        pieces = []
        for token in tokens:
            self._pending.append(token)
            piece = self._stream.step(self._tokenizer, token)
            if piece:
                pieces.append(piece)
                self._pending.clear()
        return "".join(pieces)

    def flush(self) -> str:
        """Return what the last tokens hold although it is incomplete: each broken byte shows as U+FFFD."""
        rest: str = self._tokenizer.decode(self._pending, skip_special_tokens=True) if self._pending else ""
        self._pending.clear()
        return rest if _REPLACEMENT in rest else ""


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a model folder's tokenizer.

    Raises:
        ModelError: the folder has no usable tokenizer.json.
    """
    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{folder / 'tokenizer.json'}: {error}") from error


def special_token(folder: Path, tokenizer: Tokenizer, name: str) -> int | None:
    """Id of the token that tokenizer_config.json gives for ``eos_token`` or ``pad_token``; None where it has none.

    Raises:
        ModelError: the file is there, but cannot be read.
    """
    given = _read(folder / "tokenizer_config.json").get(name)
    content = given.get("content") if isinstance(given, dict) else given
    found: int | None = tokenizer.token_to_id(content) if isinstance(content, str) else None
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from error
    return values


def _end_ids(folder: Path) -> frozenset[int]:
    for name in ("generation_config.json", "config.json"):
        value = _read(folder / name).get("eos_token_id")
        if value is not None:
            return frozenset([value] if isinstance(value, int) else value)
    return frozenset()


def _has_chat_template(folder: Path) -> bool:
    return (folder / "chat_template.jinja").is_file() or "chat_template" in _read(folder / "tokenizer_config.json")


def _load_chat(folder: Path) -> Any:
    from transformers import AutoTokenizer  # seconds to import, so only where there is a template

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
