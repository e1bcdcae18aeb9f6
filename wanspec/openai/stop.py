"""Stop sequences as OpenAI means them: of text, wherever tokens begin, and no part of the answer."""

from __future__ import annotations

from collections.abc import Sequence


class StopBuffer:
    """Lets text through up to the first stop sequence; text that may be the beginning of one is held back.

    Attributes:
        stopped: a stop sequence was found; nothing more comes.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; return what is certainly part of the answer."""
        if self.stopped:
            return ""
        text = self._held + text
        # The one that is whole first, so that the answer does not depend on the pieces in which it comes.
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back: the answer ended before it became a stop sequence."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with and that is not all of it."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
