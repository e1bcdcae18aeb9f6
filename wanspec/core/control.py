"""What an operator sets while a controller runs: how far to speculate, and how requests that name no policy decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from wanspec.core.config import DEFAULT_POLICY
from wanspec.core.policies import Policy, make_policy

Parameters = Mapping[str, float | int | str]


class Speculation(str, Enum):
    """Whose drafts are verified. Output is the same with each."""

    OFF = "off"
    """Nobody's: one target step a token, whatever the policy."""
    LOCAL = "local"
    """No worker drafts: policies that use one decode as they do while there is none."""
    SHADOW = "shadow"
    """The same; the worker drafts as ever, and what its drafts would have saved is counted."""
    REMOTE = "remote"
    """As the policy says."""


@dataclass(frozen=True, slots=True)
class Control:
    """One state of the switches.

    Attributes:
        speculation: whose drafts are verified, of all requests.
        policy, parameters: of requests that name no policy.
    """

    speculation: Speculation = Speculation.REMOTE
    policy: str = DEFAULT_POLICY
    parameters: Parameters = field(default_factory=dict)

    def make_policy(self, name: str, parameters: Parameters) -> Policy:
        """Make the policy of a request; of one that names none (empty), the default.

        Raises:
            InvalidRequestError: the name or a parameter is unknown, or a parameter is out of range.
        """
        return make_policy(name, parameters) if name else make_policy(self.policy, self.parameters)

    def same_policy(self, other: Control) -> bool:
        """Whether requests that name none decode alike."""
        return (self.policy, dict(self.parameters)) == (other.policy, dict(other.parameters))
