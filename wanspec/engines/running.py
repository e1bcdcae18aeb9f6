"""A request while it runs: what is cached, what is due in the next step, what came out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec.engines.admission import Admitted
from wanspec.engines.choosing import Chosen, chooser, ends_with
from wanspec.engines.contract import GenerationResult, Timings
from wanspec.engines.prefix_pool import Lease, count_blocks
from wanspec.engines.segments import Segment, append_segment
from wanspec.errors import WanspecError


class Generation:
    """One running request. It is *prefilled* once a step has computed its last prompt token, with all its drafts."""

    __slots__ = (
        "_context_logits",
        "_generation_logits",
        "_log_probs",
        "accepted",
        "admitted",
        "cached",
        "chooser",
        "due",
        "ended",
        "error",
        "lease",
        "output",
        "times",
    )

    def __init__(self, admitted: Admitted) -> None:
        self.admitted = admitted
        self.chooser = chooser(admitted.request)
        self.lease: Lease | None = None
        self.cached = 0
        self.due = 0
        self.output: list[int] = []
        self.accepted = 0
        self.ended = False
        self.error: WanspecError | None = None
        self._log_probs: list[float] = []
        self._context_logits: list[NDArray[np.float32]] = []
        self._generation_logits: list[NDArray[np.float32]] = []
        arrival = admitted.request.arrival_ns
        self.times = [arrival if arrival is not None else time.monotonic_ns(), 0, 0, 0]

    @property
    def remaining(self) -> int:
        """Rows until its next token: the rest of the prompt and the drafts, or the last token."""
        if self.output:
            return 1
        return len(self.admitted.prompt) + len(self.admitted.drafts) - self.cached

    @property
    def chooses(self) -> bool:
        """Whether the step that is being run gives it tokens."""
        return self.due == self.remaining

    @property
    def wanted(self) -> int:
        """Rows of logits that it gets from the step that is being run."""
        if self.admitted.request.return_context_logits and not self.output:
            return self.due
        # The one row that a part of a prompt asks for is not looked at.
        return 1 if self.output or not self.chooses else len(self.admitted.drafts) + 1

    def segment(self, room: int) -> Segment:
        """Its part of the next forward pass, of at most ``room`` rows where it can be split."""
        assert self.lease is not None, "scheduled before a step"
        buffer, drafts = self.lease.buffer, self.admitted.drafts
        if self.output:
            self.due = 1
            return append_segment(buffer, self.cached, self.output[-1:], 1)
        self.due = self.remaining
        if self.due > room:
            # The last prompt token stays with the drafts: one pass verifies.
            splittable = self.due - 1 - len(drafts)
            self.due = min(room, splittable) if splittable > 0 and room > 0 else self.due
        tokens = np.concatenate((self.admitted.prompt, drafts))[self.cached : self.cached + self.due]
        return append_segment(buffer, self.cached, tokens, self.wanted)

    def time_step(self, started_ns: int, ended_ns: int) -> None:
        """Take note of when a step was run that it was part of."""
        if not self.times[1]:
            self.times[1] = started_ns
        if not self.times[2] and (self.output or self.ended):
            self.times[2] = ended_ns
        self.times[3] = ended_ns

    def skip(self) -> None:
        """Take note of a step that computed a part of its prompt."""
        self.cached += self.due

    def keep_context_logits(self, logits: torch.Tensor) -> None:
        """Take the logits of the prompt tokens of a step."""
        self._context_logits.append(logits.float().cpu().numpy())

    def agree(self, best: NDArray[np.int64], log_probs: NDArray[np.float32] | None) -> Chosen:
        """What the model's own choice at each row ([1], or [k + 1] with drafts) makes of the drafts."""
        drafts = self.admitted.drafts if len(best) > 1 else self.admitted.drafts[:0]
        agreed = best[:-1] == drafts
        accepted = len(drafts) if agreed.all() else int(agreed.argmin())
        return Chosen(
            best[: accepted + 1].tolist(), accepted, [] if log_probs is None else log_probs[: accepted + 1].tolist()
        )

    def choose(self, logits: torch.Tensor) -> Chosen:
        """Choose from the logits of each row by the request's own rules."""
        assert self.chooser is not None, "a request that is not plain"
        wide = logits if logits.dtype == torch.float64 else logits.float()
        drafts = self.admitted.drafts if len(logits) > 1 else self.admitted.drafts[:0]
        sequence = [*self.admitted.prompt.tolist(), *self.output]
        request = self.admitted.request
        return self.chooser.choose(wide.cpu().numpy(), sequence, len(self.output), drafts, request.return_log_probs)

    def take(self, chosen: Chosen, logits: torch.Tensor) -> None:
        """Take chosen tokens up to the first that ends the request; ``logits`` are those of their rows."""
        first = not self.output
        stop, ended = self._end_of(chosen.tokens)
        self.cached = (len(self.admitted.prompt) if first else self.cached + 1) + min(chosen.accepted, stop)
        if first:
            self.accepted = min(chosen.accepted, stop)
        self.output += chosen.tokens[:stop]
        self._log_probs += chosen.log_probs[:stop]
        if self.admitted.request.return_generation_logits:
            self._generation_logits.append(logits[:stop].float().cpu().numpy())
        self.ended = ended or len(self.admitted.drafts) > 0 or len(self.output) >= self.admitted.output_len

    def _end_of(self, tokens: list[int]) -> tuple[int, bool]:
        """How many of new tokens are output, and whether the request ends there."""
        request = self.admitted.request
        if not request.stop_words:
            stop = tokens.index(request.end_id) if request.end_id in tokens else len(tokens)
            return stop, stop < len(tokens)
        longest = max(map(len, request.stop_words))
        tail = [*self.admitted.prompt[-longest:].tolist(), *self.output][-longest:]
        for count, token in enumerate(tokens):
            if token == request.end_id:
                return count, True
            tail.append(token)
            if any(ends_with(tail, word) for word in request.stop_words):
                return count + 1, True
        return len(tokens), False

    def cached_tokens(self) -> NDArray[np.int32]:
        """The tokens whose keys and values are in the buffer."""
        return np.concatenate((self.admitted.prompt, np.asarray(self.output, dtype=np.int32)))[: self.cached]

    def result(self) -> GenerationResult | WanspecError:
        """The answer of an ended request."""
        if self.error is not None:
            return self.error
        return self._result()

    def so_far(self) -> GenerationResult | None:
        """What it would return if it ended now; None before its first token."""
        return self._result() if self.output and self.error is None else None

    def _result(self) -> GenerationResult:
        assert self.lease is not None, "it ran"
        request, blocks = self.admitted.request, count_blocks(self.lease.reused, self.cached)
        return GenerationResult(
            output_ids=np.asarray(self.output, dtype=np.int32),
            log_probs=np.asarray(self._log_probs, dtype=np.float32) if request.return_log_probs else None,
            timings=Timings(*self.times),
            total_drafts=len(self.admitted.drafts),
            accepted_drafts=self.accepted,
            alloc_new_blocks=blocks.alloc_new,
            reused_blocks=blocks.reused,
            alloc_total_blocks=blocks.alloc_total,
            context_logits=_joined(self._context_logits) if request.return_context_logits else None,
            generation_logits=_joined(self._generation_logits) if request.return_generation_logits else None,
        )


def _joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(parts)


def share_rows(remaining: Sequence[int], budget: int) -> list[int]:
    """Split the rows of a step among requests, oldest first, that are not yet prefilled.

    Short ones come first, so that a verification does not wait for a long prompt; the oldest is sure of a quarter, so
    that a long prompt does not wait for ever.

    Args:
        remaining: rows that each could use.
        budget: rows there are.

    Returns:
        Rows given to each.
    """
    given = [0] * len(remaining)
    if not remaining or budget <= 0:
        return given
    given[0] = min(remaining[0], max(1, budget // 4))
    left = budget - given[0]
    for index in sorted(range(len(remaining)), key=lambda index: remaining[index] - given[index]):
        more = min(remaining[index] - given[index], left)
        given[index] += more
        left -= more
    return given
