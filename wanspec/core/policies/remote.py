"""Policies that use a worker in another region."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import ClassVar

from wanspec.core.estimators import Estimators
from wanspec.core.messages import Drafting
from wanspec.core.policies.base import Decision, DraftLocally, Outcome, Plain, VerifyNow, View, Wait
from wanspec.core.policies.single_region import single_region

Limits = dict[str, tuple[float, float] | tuple[str, ...]]

_MIN_WAIT_MS, _MAX_WAIT_MS = 25.0, 1_000.0


def wait_limit_ms(view: View, stated: float) -> float:
    """Longest wait for the worker: as stated, or else one RTT and two worker passes, within 25 ms and 1 s."""
    if stated > 0:
        return stated
    rtt = view.estimators.quantile("rtt", 0.9) or 0.0
    draft_pass = view.estimators.quantile("pass", 0.9) or 0.0
    return min(_MAX_WAIT_MS, max(_MIN_WAIT_MS, rtt + 2 * draft_pass))


@dataclass(slots=True)
class RemoteSync(Plain):
    """Draft remotely and wait for it: what a naive split costs."""

    k: int = 2
    wait_ms: float = 0.0

    name: ClassVar[str] = "remote_sync"
    uses_worker: ClassVar[bool] = True
    wants_entropy: ClassVar[bool] = False
    limits: ClassVar[Limits] = {"k": (1, 32), "wait_ms": (0, 60_000)}

    def decide(self, view: View, now: float) -> Decision:
        """Wait for k drafts, verify them."""
        wanted = min(self.k, view.most_drafts)
        depth = view.depth(wanted)
        if depth >= wanted or view.generated == 0:
            return VerifyNow(depth)
        if not view.worker_ready:
            return single_region(view, self.k, "overdue" if view.overdue else "no worker")
        # Nothing is drafted ahead in effect: every round pays the round trip and k passes.
        limit = wait_limit_ms(view, self.wait_ms)
        if self.wait_ms <= 0:
            limit += self.k * (view.estimators.quantile("pass", 0.9) or 0.0)
        return Wait(limit, "drafts")

    def verified(self, outcome: Outcome, now: float) -> None:
        """Nothing to learn."""

    def drafting(self, known: Estimators) -> Drafting:
        """One chain of k tokens."""
        return Drafting(branching=1, theta=0.0, width=1, max_depth=self.k)


@dataclass(slots=True)
class WanSpec(Plain):
    """The paper's policy: Algorithm 1 here, Algorithm 2 on the worker.

    Attributes:
        k: candidates a verification takes.
        phi: entropy (nats) of the target's own token above which the worker is expected to have missed it.
        rtt_ms: the paper's R; 0 measures it: one round trip and one worker pass, which a synchronisation takes.
        draft_ms: the paper's T_draft; 0 uses the measured median. How many steps one request drafts follows from it.
        rule: ``listing`` drafts locally while t_update + R lies ahead (Algorithm 1 as printed); ``text`` only while it
            lies further ahead than one local draft step takes (section 4's wording).
        branching, theta, width: b, theta and s of Algorithm 2.
        max_depth: how far below the committed prefix the worker drafts at most; less where fewer tokens can be
            verified until its drafts after a commit are here. The paper sets no limit.
        floor: path probability below which the worker leaves a leaf alone; the paper's worker has none (0).
        wait_ms: longest wait for the worker, 0 for one RTT and two worker passes (25 ms at least).
    """

    k: int = 2
    phi: float = 0.5
    rtt_ms: float = 0.0
    draft_ms: float = 0.0
    rule: str = "listing"
    branching: int = 2
    theta: float = 0.5
    width: int = 4
    max_depth: int = 24
    floor: float = 0.02
    wait_ms: float = 0.0
    _updated_ms: float | None = field(default=None, init=False, repr=False)

    name: ClassVar[str] = "wanspec"
    uses_worker: ClassVar[bool] = True
    wants_entropy: ClassVar[bool] = True
    limits: ClassVar[Limits] = {
        "k": (1, 32),
        "phi": (0, 100),
        "rtt_ms": (0, 60_000),
        "draft_ms": (0, 60_000),
        "rule": ("listing", "text"),
        "branching": (1, 16),
        "theta": (0, 100),
        "width": (1, 256),
        "max_depth": (1, 256),
        "floor": (0, 1),
        "wait_ms": (0, 60_000),
    }

    def decide(self, view: View, now: float) -> Decision:
        """Algorithm 1, steps 2 to 4."""
        wanted = min(self.k, view.most_drafts)
        depth = view.depth(wanted)
        if depth >= wanted or view.generated == 0:
            return VerifyNow(depth)
        if not view.worker_ready:
            return single_region(view, self.k, "overdue" if view.overdue else "no worker")
        steps = self._steps_behind(view, now, wanted - depth)
        if steps > 0:
            return DraftLocally(steps, "worker behind") if view.local_draft else VerifyNow(depth)
        return Wait(wait_limit_ms(view, self.wait_ms), "drafts")

    def _steps_behind(self, view: View, now: float, most: int) -> int:
        """Local draft steps, at most ``most``, that Algorithm 1 begins before the worker can have caught up."""
        rtt, draft = view.estimators.median("rtt"), self.draft_ms or view.estimators.median("draft")
        most = most if draft is not None else 1
        if not self.rtt_ms and rtt is None:
            return most
        synchronisation = self.rtt_ms or (rtt or 0.0) + (view.estimators.median("pass") or 0.0)
        updated = view.opened_ms if self._updated_ms is None else max(self._updated_ms, view.opened_ms)
        step = draft or 0.0
        left = updated + synchronisation - now - (step if self.rule == "text" else 0.0)
        if left <= 0.0:
            return 0
        return most if left >= most * step else ceil(left / step)

    def verified(self, outcome: Outcome, now: float) -> None:
        """Set t_update where the worker probably has to start again (Algorithm 1, step 2)."""
        rejected = outcome.accepted < outcome.drafted
        surprising = outcome.entropy is None or outcome.entropy > self.phi
        if rejected or surprising:
            self._updated_ms = now

    def drafting(self, known: Estimators) -> Drafting:
        """Algorithm 2's parameters."""
        return Drafting(self.branching, self.theta, self.width, self._horizon(known), self.floor)

    def _horizon(self, known: Estimators) -> int:
        """How deep the worker drafts: what the target verifies until drafts that follow a commit are here, and more.

        Rounds that begin within a synchronisation, the one before and the one after.
        """
        rtt, call = known.median("rtt"), known.median("call")
        if rtt is None or call is None:
            return self.max_depth
        rounds = (rtt + (known.median("pass") or 0.0)) / max(call, 1e-3)
        return min(self.max_depth, (self.k + 1) * (min(self.max_depth, ceil(rounds)) + 2))
