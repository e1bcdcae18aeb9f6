"""Check rules one after the other; a rule that cannot be checked does not end the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, TypeAlias

from wanspec.conformance.probe import probe
from wanspec.conformance.rule import Rule, RuleFailedError, RuleSkippedError
from wanspec.conformance.rules import RULES
from wanspec.conformance.server import CannotAskError, RefusedError
from wanspec.conformance.subject import Subject
from wanspec.errors import ConfigError, WanspecError

logger = logging.getLogger(__name__)

PASS, FAIL, SKIP = "pass", "fail", "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What checking a rule came to.

    Attributes:
        rule: its name.
        state: pass, fail or skipped.
        detail: what was asked, or why it was skipped.
        expected, got: of a failure.
        seconds: it took.
        requests: it sent.
    """

    rule: str
    state: str
    detail: str = ""
    expected: str = ""
    got: str = ""
    seconds: float = 0.0
    requests: int = 0


Progress: TypeAlias = Callable[[str, Outcome], None]
"""Called with the name of a rule after it was checked."""


def select(pattern: str) -> list[Rule]:
    """Rules whose name matches one of the patterns, separated by commas, as of file names.

    Raises:
        ConfigError: none matches.
    """
    patterns = [each.strip() for each in pattern.split(",")]
    found = [rule for rule in RULES if any(fnmatch(rule.name, each) for each in patterns)]
    if not found:
        raise ConfigError("rules", f"{pattern!r} matches no rule; areas are {', '.join(_areas())}")
    return found


def run(subject: Subject, rules: Sequence[Rule] = RULES, progress: Progress | None = None) -> list[Outcome]:
    """Probe the model, then check ``rules`` in order."""
    subject.begin()
    try:
        probe(subject)
    except (WanspecError, ConfigError) as error:
        logger.warning("probing failed: %s", error)
        outcome = Outcome("probe", FAIL, "plain greedy generation", "an answer", str(error), requests=subject.requests)
        return [outcome, *(Outcome(rule.name, SKIP, "probing failed") for rule in rules)]
    outcomes = []
    for rule in rules:
        outcomes.append(_check(rule, subject))
        if progress is not None:
            progress(rule.name, outcomes[-1])
    return outcomes


def describe(subject: Subject) -> dict[str, Any]:
    """What probing found out, for a report; empty where it failed."""
    if not subject.probed:
        return {}
    facts = subject.facts
    return {"vocab_size": facts.vocab_size, "max_draft_len": facts.max_draft_len, "margin": facts.margin}


def _check(rule: Rule, subject: Subject) -> Outcome:
    subject.begin()
    started, sent = time.monotonic(), subject.requests
    state, detail, expected, got = PASS, "", "", ""
    try:
        rule.check(subject)
    except RuleFailedError as error:
        state, detail, expected, got = FAIL, error.what, error.expected, error.got
    except (RuleSkippedError, CannotAskError) as error:
        state, detail = SKIP, str(error)
    except RefusedError as error:
        state, detail, expected, got = FAIL, "a request of this rule", "an answer", str(error)
    except Exception as error:
        # Whatever the server sent must not end the report: it is the finding.
        logger.exception("rule %s", rule.name)
        state, detail, expected, got = FAIL, "an answer that can be read", "one", f"{type(error).__name__}: {error}"
    return Outcome(
        rule.name, state, detail, expected, got, round(time.monotonic() - started, 3), subject.requests - sent
    )


def _areas() -> list[str]:
    return sorted({rule.name.split(".")[0] for rule in RULES})
