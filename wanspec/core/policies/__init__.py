"""The policies, by name."""

from __future__ import annotations

from collections.abc import Mapping

from wanspec.core.policies.adaptive import Adaptive, LocalAdaptive
from wanspec.core.policies.base import Decision, DraftLocally, Outcome, Policy, VerifyNow, View, Wait, build
from wanspec.core.policies.remote import RemoteSync, WanSpec
from wanspec.core.policies.single_region import Local, TargetOnly
from wanspec.errors import InvalidRequestError

POLICIES: dict[str, type[Policy]] = {
    kind.name: kind for kind in (TargetOnly, Local, LocalAdaptive, RemoteSync, WanSpec, Adaptive)
}

__all__ = [
    "POLICIES",
    "Decision",
    "DraftLocally",
    "Outcome",
    "Policy",
    "VerifyNow",
    "View",
    "Wait",
    "make_policy",
]


def make_policy(name: str, parameters: Mapping[str, float | int | str]) -> Policy:
    """Make a policy for one sequence.

    Raises:
        InvalidRequestError: the name or a parameter is unknown, or a parameter is out of range.
    """
    kind = POLICIES.get(name)
    if kind is None:
        raise InvalidRequestError("policy", f"{name!r} is unknown; choose one of {', '.join(POLICIES)}")
    policy: Policy = build(kind, parameters)
    return policy
