"""What a policy sees and what it may decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from math import isfinite
from typing import Any, ClassVar, Protocol, TypeAlias

from wanspec.core.arrivals import Arrivals
from wanspec.core.costs import CostModel
from wanspec.core.estimators import Estimators
from wanspec.core.messages import Drafting
from wanspec.core.rounds import Scores
from wanspec.core.tree import Node, TokenTree
from wanspec.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class VerifyNow:
    """Run the target over the best ``count`` drafts in hand, or over ``path``: nodes from below the tree's root."""

    count: int
    path: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class DraftLocally:
    """Add ``count`` tokens of the local draft to a path, in one request: None for the best path."""

    count: int
    cause: str
    path: tuple[Node, ...] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until something arrives, for at most ``limit_ms`` since this wait began."""

    limit_ms: float
    cause: str


Decision: TypeAlias = VerifyNow | DraftLocally | Wait


class View(Protocol):
    """A sequence at a decision point: no engine call of its own is under way, and it has not ended."""

    @property
    def generated(self) -> int:
        """Tokens committed since the prompt."""
        ...

    @property
    def most_drafts(self) -> int:
        """Most drafts the next verification can use: the tokens still wanted but one, and the engine's limit."""
        ...

    @property
    def worker_ready(self) -> bool:
        """A worker drafts for this sequence and is not overdue."""
        ...

    @property
    def overdue(self) -> bool:
        """A wait ran into its deadline and the worker has said nothing since."""
        ...

    @property
    def local_draft(self) -> bool:
        """A local draft model exists and works."""
        ...

    @property
    def opened_ms(self) -> float:
        """When the worker was last told to open the sequence."""
        ...

    @property
    def estimators(self) -> Estimators:
        """What this controller has measured in service."""
        ...

    @property
    def verify_costs(self) -> CostModel | None:
        """What passes of the target cost by length, ``verify_ms(drafts, context)``; None where not calibrated."""
        ...

    @property
    def draft_costs(self) -> CostModel | None:
        """What passes of the local draft cost; None where not calibrated."""
        ...

    @property
    def tree(self) -> TokenTree:
        """The drafts in hand; not to be changed."""
        ...

    @property
    def arrivals(self) -> Arrivals:
        """When the worker's drafts are due."""
        ...

    @property
    def waited_ms(self) -> float | None:
        """When the present wait began; None where there is none."""
        ...

    def depth(self, limit: int) -> int:
        """Length of the best path, at most ``limit``."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verification as a policy sees it.

    ``entropy``: estimate for the target's own token, nats, None if unknown. ``queued_ms``: how long the call took
    beyond the engine's own time. ``remote``: drafts in it that the worker proposed.
    """

    drafted: int
    accepted: int
    entropy: float | None
    queued_ms: float = 0.0
    remote: int = 0


class Policy(Protocol):
    """Chooses what a sequence does next. One object a sequence; parameters are dataclass fields."""

    name: ClassVar[str]
    uses_worker: ClassVar[bool]
    wants_entropy: ClassVar[bool]

    def decide(self, view: View, now: float) -> Decision:
        """Choose; called again whenever anything has changed."""
        ...

    def verified(self, outcome: Outcome, now: float) -> None:
        """Learn of a verification's outcome."""
        ...

    @property
    def unprepared(self) -> bool:
        """Whether there is something to compute before later decisions that need not wait for them."""
        ...

    def prepare(self, view: View, now: float) -> None:
        """Compute it; called while the target is at work, so that its round need not wait."""
        ...

    def drafting(self, known: Estimators) -> Drafting:
        """How the worker is to draft, by what is known as the sequence begins."""
        ...

    @property
    def regime(self) -> str:
        """Name of the policy that this one has come down to so far."""
        ...

    @property
    def scores(self) -> Scores:
        """What the options of the last decision were worth."""
        ...


class Plain:
    """What policies that never turn into another share."""

    __slots__ = ()

    name: ClassVar[str]

    @property
    def regime(self) -> str:
        """Always itself."""
        return self.name

    @property
    def unprepared(self) -> bool:
        """Never: it computes nothing ahead."""
        return False

    def prepare(self, view: View, now: float) -> None:
        """Nothing."""

    @property
    def scores(self) -> Scores:
        """None: it weighs nothing."""
        return ()


def build(kind: type[Any], parameters: Mapping[str, float | int | str]) -> Any:
    """Make a policy from named parameters.

    Raises:
        InvalidRequestError: a parameter is unknown, of the wrong type, or out of its range (``limits`` of the class).
    """
    known = {f.name: f for f in fields(kind) if f.init and f.default is not MISSING}
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        if name not in known:
            raise InvalidRequestError(
                f"policy_parameters.{name}", f"{kind.name} has no such parameter; it has {', '.join(sorted(known))}"
            )
        values[name] = _convert(kind, name, value, type(known[name].default))
    return kind(**values)


def _convert(kind: type[Any], name: str, value: float | int | str, wanted: type) -> float | int | str:
    field = f"policy_parameters.{name}"
    limits = kind.limits[name]
    if wanted is str:
        if value not in limits:
            raise InvalidRequestError(field, f"{value!r} is not one of {', '.join(limits)}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequestError(field, f"{value!r} is not a number")
    if isinstance(value, float) and not isfinite(value):
        raise InvalidRequestError(field, f"{value!r} is not a finite number")
    if wanted is int and value != int(value):
        raise InvalidRequestError(field, f"{value!r} is not a whole number")
    low, high = limits
    if not low <= value <= high:
        raise InvalidRequestError(field, f"{str(value)[:40]} is outside {low} to {high}")
    return int(value) if wanted is int else float(value)
