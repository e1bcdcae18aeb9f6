"""An engine call that is under way: what its answer must be, and what of the target's answer counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from wanspec.core.events import ActionId, Drafted, Request, Verified
from wanspec.core.tree import Node


@dataclass(slots=True)
class EngineCall:
    """One call.

    Attributes:
        action: its name.
        path: nodes that are verified, or after which is drafted.
        since_ms: when it was made.
        drafts: tokens asked of the local draft; 0 for a call of the target.
        prepare_ms: when the policy is to compute ahead; infinity for not at all.
    """

    action: ActionId
    path: list[Node]
    since_ms: float
    drafts: int = 0
    prepare_ms: float = field(default=inf)

    def objection(self, event: Verified | Drafted, vocab_size: int, log_probs: bool) -> str:
        """Say how an answer breaks the engine's contract; nothing if it does not.

        ``log_probs``: whether the target was asked for them.
        """
        tokens = event.tokens
        what, most = ("local draft", self.drafts) if self.drafts else ("target", len(self.path) + 1)
        if isinstance(event, Drafted) is not bool(self.drafts):
            return f"{what} engine: answered as the other engine"
        if not 1 <= len(tokens) <= most:
            return f"{what} engine: {len(tokens)} tokens, expected 1 to {most}"
        for index, token in enumerate(tokens):
            if not 0 <= token < vocab_size:
                return f"{what} engine: token {token} at {index} is outside 0 to {vocab_size - 1}"
        if self.drafts:
            usable = len(event.log_probs) in (0, len(tokens)) and not any(p != p for p in event.log_probs)
            return "" if usable else f"{what} engine: log-probabilities are missing or NaN"
        if log_probs and len(event.log_probs) != len(tokens):
            return f"{what} engine: gave no log-probabilities, which return_log_probs needs"
        for index, node in enumerate(self.path[: len(tokens) - 1]):
            if tokens[index] != node.token:
                return f"{what} engine: accepted token {tokens[index]} at {index}, the draft there is {node.token}"
        return ""


def until_end(
    tokens: tuple[int, ...], remaining: int, committed: Sequence[int], request: Request
) -> tuple[tuple[int, ...], bool]:
    """What of the target's answer is committed, and whether an end token (left out) or a stop word ended it."""
    options = request.options
    tail = list(committed[-max(map(len, options.stop_words)) :]) if options.stop_words else []
    for index, token in enumerate(tokens[:remaining]):
        if token in request.end_ids:
            return tokens[:index], True
        if options.stop_words:
            tail.append(token)
            if options.stops(tail):
                return tokens[: index + 1], True
    return tokens[:remaining], False
