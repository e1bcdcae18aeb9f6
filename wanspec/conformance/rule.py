"""A rule of the contract: what it says, why it matters, and the function that checks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wanspec.errors import WanspecError

if TYPE_CHECKING:
    from wanspec.conformance.subject import Subject

Check = Callable[["Subject"], None]


class RuleFailedError(WanspecError):
    """The server does not keep a rule: what was asked, what was expected, what came."""

    def __init__(self, what: str, expected: Any, got: Any) -> None:
        super().__init__(f"{what}: expected {expected}, got {got}")
        self.what, self.expected, self.got = what, str(expected), str(got)


class RuleSkippedError(WanspecError):
    """A rule that does not apply to this server, or cannot be checked here. The message says why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: ``area.rule``.
        title: what must hold, in one sentence.
        section: where the contract says so.
        why: what breaks where it does not hold.
        how: what the check sends.
        check: raises RuleFailedError or RuleSkippedError; returns where the rule holds.
    """

    name: str
    title: str
    section: str
    why: str
    how: str
    check: Check


def rule(name: str, title: str, *, section: str, why: str, how: str) -> Callable[[Check], Rule]:
    """Make the decorated check a :class:`Rule`."""

    def make(check: Check) -> Rule:
        return Rule(name, title, section, why, how, check)

    return make


def expect(what: str, expected: Any, got: Any) -> None:
    """Fail unless both are equal.

    Raises:
        RuleFailedError: they differ.
    """
    if expected != got:
        raise RuleFailedError(what, expected, got)


def require(what: str, holds: bool, expected: Any, got: Any) -> None:
    """Fail unless ``holds``.

    Raises:
        RuleFailedError: it does not hold.
    """
    if not holds:
        raise RuleFailedError(what, expected, got)
