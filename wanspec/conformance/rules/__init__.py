"""The rules, by area, in the order in which they are checked: what others build on comes first."""

from __future__ import annotations

from wanspec.conformance.rule import Rule
from wanspec.conformance.rules import (
    batching,
    contract,
    drafts,
    ending,
    errors,
    interruption,
    law,
    logits,
    performance,
    sampling,
    steering,
    streaming,
)

RULES: tuple[Rule, ...] = (
    *contract.RULES,
    *errors.RULES,
    *ending.RULES,
    *drafts.RULES,
    *logits.RULES,
    *performance.RULES,
    *steering.RULES,
    *sampling.RULES,
    *law.RULES,
    *batching.RULES,
    *streaming.RULES,
    *interruption.RULES,
)
