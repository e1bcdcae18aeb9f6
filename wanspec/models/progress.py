"""How long work on models reports where it is."""

from __future__ import annotations

from typing import Protocol


class ProgressCallback(Protocol):
    """Called with the stage in words, and the done share of it from 0 to 1, or None where that is not known."""

    def __call__(self, stage: str, fraction: float | None) -> None:
        """Take note of the progress; must return at once."""


def ignore_progress(stage: str, fraction: float | None) -> None:
    """Do nothing: the callback of a caller who does not care."""
