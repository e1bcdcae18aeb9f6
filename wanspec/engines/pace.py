"""Stretch an engine's step to a stated duration, so that small models reproduce the timing of a large deployment."""

from __future__ import annotations

import time
from dataclasses import dataclass

from wanspec.errors import ConfigError

_SPIN_NS = 200_000
"""Sleeps end late by up to about this much; the rest of a wait is spun."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Least duration of a step; a step that takes longer by itself is not shortened.

    Attributes:
        base_ms: of a step with no tokens; 0 for no pace.
        per_token_ms: added for each new token of the step.
    """

    base_ms: float = 0.0
    per_token_ms: float = 0.0

    def __post_init__(self) -> None:
        for field, value in (("pace_ms", self.base_ms), ("per_token_ms", self.per_token_ms)):
            if not 0 <= value < 60_000:
                raise ConfigError(field, f"is {value}: must be from 0 to 60000 ms")

    @classmethod
    def scaled(cls, pace_ms: float, time_scale: float = 1.0, per_token_ms: float = 0.0) -> Pace:
        """Build from configuration; ``time_scale`` stretches paces as it stretches network delays."""
        if not time_scale > 0:
            raise ConfigError("time_scale", f"is {time_scale}: must be above 0")
        return cls(pace_ms * time_scale, per_token_ms * time_scale)

    def wait(self, started_ns: int, tokens: int = 1) -> int:
        """Wait until the step that began at ``started_ns`` (``time.monotonic_ns``) has lasted long enough.

        The greater part is slept, which releases the interpreter lock.

        Returns:
            The time when the wait ended, monotonic ns.
        """
        until = started_ns + int((self.base_ms + self.per_token_ms * tokens) * 1e6)
        now = time.monotonic_ns()
        while now < until:
            left = until - now
            if left > _SPIN_NS:
                time.sleep((left - _SPIN_NS) / 1e9)
            now = time.monotonic_ns()
        return now


NO_PACE = Pace()
