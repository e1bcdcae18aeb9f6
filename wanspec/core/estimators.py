"""What a controller has measured: round-trip time, step times, acceptance. All times in ms."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from math import exp, isfinite, log

TAIL_ENTROPY_NATS = 3.0
"""Entropy of all tokens but the best: what `benchmarks/entropy_estimate.py` measures for SmolLM2-135M-Instruct."""


def entropy_from_log_prob(log_prob: float) -> float:
    """Estimate the entropy (nats) of a distribution from the log-probability of its most likely token.

    With p that probability, entropy is exactly ``h(p) + (1 - p) * T``: h the binary entropy, T the entropy of the
    other tokens renormalised. The TensorRT-LLM contract returns p (``output_log_probs``) at no extra pass and no
    vocabulary-sized tensor, but not T, for which a measured mean stands in. h(p) alone is a lower bound.
    """
    p = exp(min(0.0, log_prob))
    if p >= 1.0:
        return 0.0
    if p <= 0.0:
        return TAIL_ENTROPY_NATS
    rest = 1.0 - p
    return -p * log(p) - rest * log(rest) + rest * TAIL_ENTROPY_NATS


class Window:
    """The last ``size`` samples of one quantity, with order statistics."""

    __slots__ = ("_samples", "_sorted")

    def __init__(self, size: int = 64, samples: Iterable[float] = ()) -> None:
        self._samples: deque[float] = deque(samples, maxlen=size)
        self._sorted = sorted(self._samples)

    def add(self, value: float) -> None:
        """Add one sample."""
        if len(self._samples) == self._samples.maxlen:
            del self._sorted[bisect_left(self._sorted, self._samples[0])]
        self._samples.append(value)
        insort(self._sorted, value)

    def quantile(self, q: float) -> float | None:
        """Return the empirical quantile, None without samples."""
        if not self._samples:
            return None
        return self._sorted[min(len(self._sorted) - 1, int(q * len(self._sorted)))]

    @property
    def median(self) -> float | None:
        """Median of the window, None without samples."""
        return self.quantile(0.5)

    def samples(self) -> list[float]:
        """Return the samples, oldest first."""
        return list(self._samples)

    def __len__(self) -> int:
        return len(self._samples)


class Estimators:
    """Everything a policy may ask about costs, shared by all sequences of a controller.

    Quantities are named ``rtt``, ``verify``, ``draft`` (one local step), ``pass`` (one worker pass).
    """

    NAMES = ("rtt", "verify", "draft", "pass")

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._windows = {name: Window(samples=(state or {}).get(name, ())) for name in self.NAMES}

    def observe(self, name: str, value_ms: float) -> None:
        """Add one sample; the only way in, so that a recorded request can be replayed.

        What no clock can have measured (negative, not finite) is left out: waits are computed from these.
        """
        if isfinite(value_ms) and value_ms >= 0.0:
            self._windows[name].add(value_ms)

    def median(self, name: str) -> float | None:
        """Median of a quantity in ms, None until measured."""
        return self._windows[name].median

    def quantile(self, name: str, q: float) -> float | None:
        """Quantile of a quantity in ms, None until measured."""
        return self._windows[name].quantile(q)

    def state(self) -> dict[str, list[float]]:
        """Return all samples; ``Estimators(state)`` restores them."""
        return {name: window.samples() for name, window in self._windows.items()}
