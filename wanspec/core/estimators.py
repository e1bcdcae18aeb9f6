"""What a controller has measured: round-trip time, step times, acceptance. All times in ms."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from math import exp, inf, log

from wanspec.core.calibration import RANKS, Calibration

TAIL_ENTROPY_NATS = 3.0
"""Entropy of all tokens but the best: what `benchmarks/entropy_estimate.py` measures for SmolLM2-135M-Instruct."""

_SAMPLES = {"covered": 256}
"""Samples kept, where they are outcomes rather than times."""


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
    """The last ``size`` samples of one quantity, with order statistics.

    Attributes:
        ordered: the samples, rising; not to be changed.
    """

    __slots__ = ("_samples", "ordered")

    def __init__(self, size: int = 64, samples: Iterable[float] = ()) -> None:
        self._samples: deque[float] = deque(samples, maxlen=size)
        self.ordered = sorted(self._samples)

    def add(self, value: float) -> None:
        """Add one sample."""
        samples, ordered = self._samples, self.ordered
        if len(samples) == samples.maxlen:
            oldest = samples[0]
            samples.append(value)
            if oldest == value:
                return
            del ordered[bisect_left(ordered, oldest)]
        else:
            samples.append(value)
        insort(ordered, value)

    def quantile(self, q: float) -> float | None:
        """Return the empirical quantile, None without samples."""
        if not self._samples:
            return None
        return self.ordered[min(len(self.ordered) - 1, int(q * len(self.ordered)))]

    @property
    def median(self) -> float | None:
        """Median of the window, None without samples."""
        ordered = self.ordered
        return ordered[len(ordered) // 2] if ordered else None

    def samples(self) -> list[float]:
        """Return the samples, oldest first."""
        return list(self._samples)

    def __len__(self) -> int:
        return len(self._samples)


class Estimators:
    """Everything a policy may ask about costs and chances, shared by all sequences of a controller.

    Times are named ``rtt``, ``verify`` (the target's own), ``call`` (a verification from the request to the answer),
    ``draft`` (one local step), ``pass`` (one worker pass) and ``turnaround`` (from a commit that the worker did not
    foresee to its first drafts after it). ``covered`` is the share of a
    turnaround that a worker's other children save where its first is not the target's token. A draft that came true or
    did not is named by :func:`outcome_name`, its value the negative of its log-probability. ``pace`` is 1, and the time
    by which some rounds took longer than was aimed at for their tokens, as a share of twice what such rounds take.

    Attributes:
        remote, local: how often drafts of the worker and of the local draft are accepted.
        credit: time to spare by ``pace``: all that was below 1 less all that was above it, within -1 and 1 times
            ``CREDIT``, as a share of that.
    """

    NAMES = ("rtt", "verify", "call", "draft", "pass", "turnaround", "covered")
    PACE = "pace"
    CREDIT = 4.0

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        known = state or {}
        self._windows = {name: Window(_SAMPLES.get(name, 64), known.get(name, ())) for name in self.NAMES}
        self.remote = Calibration(known.get("remote", ()))
        self.local = Calibration(known.get("local", ()))
        self.credit = known.get("credit", [0.0])[0]

    def observe(self, name: str, value: float) -> None:
        """Add one sample; the only way in, so that a recorded request can be replayed.

        What no clock can have measured (negative, not finite) is left out: waits are computed from these.
        """
        if not 0.0 <= value < inf:
            return
        window = self._windows.get(name)
        if window is not None:
            window.add(value)
        elif name == self.PACE:
            self.credit = min(1.0, max(-1.0, self.credit + (1.0 - value) / self.CREDIT))
        else:
            remote, rank, accepted = _OUTCOMES[name]
            (self.remote if remote else self.local).observe(-value, rank, accepted)

    def median(self, name: str) -> float | None:
        """Median of a quantity in ms, None until measured."""
        return self._windows[name].median

    def quantile(self, name: str, q: float) -> float | None:
        """Quantile of a quantity in ms, None until measured."""
        return self._windows[name].quantile(q)

    def mean(self, name: str, default: float, worth: float) -> float:
        """Mean of a quantity, ``default`` counting as so many samples as it is ``worth``."""
        samples = self._windows[name].samples()
        return (sum(samples) + worth * default) / (len(samples) + worth)

    def state(self) -> dict[str, list[float]]:
        """Return all samples; ``Estimators(state)`` restores them."""
        windows = {name: window.samples() for name, window in self._windows.items()}
        return {**windows, "remote": self.remote.state(), "local": self.local.state(), "credit": [self.credit]}


_NAMED = {
    (remote, rank, accepted): f"{'remote' if remote else 'local'} {rank} {'accepted' if accepted else 'rejected'}"
    for remote in (True, False)
    for rank in range(RANKS)
    for accepted in (True, False)
}
_OUTCOMES = {name: key for key, name in _NAMED.items()}


def outcome_name(remote: bool, rank: int, accepted: bool) -> str:
    """Name what became of a draft, for :meth:`Estimators.observe`."""
    return _NAMED[remote, min(rank, RANKS - 1), accepted]
