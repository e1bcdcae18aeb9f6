"""Policies that need no worker: the reference, and the paper's baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from wanspec.core.estimators import Estimators
from wanspec.core.messages import Drafting
from wanspec.core.policies.base import Decision, DraftLocally, Outcome, Plain, VerifyNow, View


@dataclass(slots=True)
class TargetOnly(Plain):
    """No speculation: one target step a token."""

    name: ClassVar[str] = "target_only"
    uses_worker: ClassVar[bool] = False
    wants_entropy: ClassVar[bool] = False
    limits: ClassVar[dict[str, tuple[float, float]]] = {}

    def decide(self, view: View, now: float) -> Decision:
        """Verify nothing: the target's own token."""
        return VerifyNow(0)

    def verified(self, outcome: Outcome, now: float) -> None:
        """Nothing to learn."""

    def drafting(self, known: Estimators) -> Drafting:
        """Unused."""
        return Drafting()


@dataclass(slots=True)
class Local(Plain):
    """Standard speculative decoding in one region: one draft request of k tokens, one verification."""

    k: int = 2

    name: ClassVar[str] = "local"
    uses_worker: ClassVar[bool] = False
    wants_entropy: ClassVar[bool] = False
    limits: ClassVar[dict[str, tuple[float, float]]] = {"k": (1, 32)}

    def decide(self, view: View, now: float) -> Decision:
        """Draft to k, verify."""
        return single_region(view, self.k, "policy")

    def verified(self, outcome: Outcome, now: float) -> None:
        """Nothing to learn."""

    def drafting(self, known: Estimators) -> Drafting:
        """Unused."""
        return Drafting()


def single_region(view: View, k: int, cause: str) -> Decision:
    """Standard speculative decoding; also what the WAN policies do while there is no worker.

    The first pass verifies nothing: it is the target's prefill, and drafting before it would only delay the first
    token.
    """
    wanted = min(k, view.most_drafts)
    depth = view.depth(wanted)
    if depth >= wanted or view.generated == 0 or not view.local_draft:
        return VerifyNow(depth)
    return DraftLocally(wanted - depth, cause)
