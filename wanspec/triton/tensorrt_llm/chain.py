"""The worker's draft as a model of its own server, over BLS: one chain a sequence, several tokens of it in one request.

A pass over a leaf asks for a generation, and gives its first token; the leaves after it are answered from the rest, for
nothing. A chain has no siblings: a leaf has one child.
"""

from __future__ import annotations

import itertools
import logging
import uuid
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

import numpy as np

from wanspec.core.drafting import Expansion, SequenceLeaves, check_batch
from wanspec.core.estimators import entropy_from_log_prob
from wanspec.core.sampling import GREEDY
from wanspec.errors import EngineError
from wanspec.triton.call_threads import CallThreads
from wanspec.triton.tensorrt_llm import calls
from wanspec.triton.tensorrt_llm.calls import EngineAnswer
from wanspec.triton.tensorrt_llm.inputs import sampling_inputs

logger = logging.getLogger(__name__)

MOST_CALLS = 64
"""At the same time; the engine batches them."""
STOP_TIMEOUT_MS = 5_000.0


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """Settings of a chain.

    Attributes:
        model: name of the draft's model.
        vocab_size: of the draft.
        context: longest sequence in tokens, drafts included.
        tokens: of one request.
        decoupled: whether the model is deployed so.
        timeout_ms: longest wait for a pass.
    """

    model: str
    vocab_size: int
    context: int
    tokens: int
    decoupled: bool = False
    timeout_ms: float = 20_000.0


@dataclass(slots=True)
class _Chain:
    """Drafted tokens of one sequence, from place ``base`` of it on; ``log_probs`` are of the last ones of them."""

    base: int
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]

    def child(self, length: int, path: tuple[int, ...], committed: Sequence[int]) -> tuple[int, float] | None:
        """The token after a path, and its log-probability, if it has been drafted."""
        before = (*committed[self.base : length], *path)
        count = len(before)
        drafted = len(self.tokens) - len(self.log_probs)
        if not drafted <= count < len(self.tokens) or self.tokens[:count] != before:
            return None
        return self.tokens[count], self.log_probs[count - drafted]


@dataclass(slots=True)
class _Call:
    """A request to the engine, for the leaf of a row."""

    row: int
    sequence: SequenceLeaves
    path: tuple[int, ...]
    name: str
    answer: Future[EngineAnswer] = field(default_factory=Future)


class ChainDraftEngine:
    """A :class:`~wanspec.core.drafting.DraftEngine` on a model of this server. One thread at a time."""

    def __init__(self, settings: ChainSettings) -> None:
        """Draft with ``settings.model``; it is called when leaves are expanded, and not before."""
        self._settings = settings
        self._chains: dict[Hashable, _Chain] = {}
        self._calls: CallThreads[_Call] = CallThreads(self._serve, MOST_CALLS, "wanspec-chain")
        self._stops: CallThreads[str] = CallThreads(self._stop, 1, "wanspec-stop")
        self._name, self._numbers = f"wanspec-chain-{uuid.uuid4().hex[:12]}", itertools.count(1)

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._settings.vocab_size

    @property
    def context(self) -> int:
        """Longest sequence in tokens, drafts included."""
        return self._settings.context

    def expand(self, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
        """Return the next token after every leaf: one, whatever ``top`` is.

        Raises:
            EngineError: a sequence with its leaves is beyond the context, the model failed, or time is up.
        """
        check_batch(batch, top, self.vocab_size, self.context - 1)
        children, missing = self._known(batch)
        engine_ms = 0.0
        for call, answer in self._generate(missing):
            base, tokens = call.sequence.length, (*call.path, *answer.tokens)
            self._chains[call.sequence.key] = _Chain(base, tokens, answer.log_probs)
            children[call.row] = answer.tokens[0], answer.log_probs[0]
            engine_ms = max(engine_ms, answer.engine_ms)
        rows = [children[row] for row in range(len(children))]
        log_probs = np.array([[log_prob] for _, log_prob in rows], dtype=np.float32)
        return Expansion(
            np.array([[token] for token, _ in rows], dtype=np.int32),
            log_probs,
            np.array([entropy_from_log_prob(float(value)) for value in log_probs[:, 0]], dtype=np.float32),
            engine_ms,
        )

    def release(self, key: Hashable) -> None:
        """A sequence has ended: its chain goes. KV cache is the engine's own affair."""
        self._chains.pop(key, None)

    def close(self) -> None:
        """End the threads; requests that are under way go on."""
        self._calls.close()
        self._stops.close()

    def _known(self, batch: Sequence[SequenceLeaves]) -> tuple[dict[int, tuple[int, float]], list[_Call]]:
        """Children that have been drafted, by row, and requests for the others."""
        children: dict[int, tuple[int, float]] = {}
        missing = []
        places = ((sequence, path) for sequence in batch for path in sequence.leaves)
        for row, (sequence, path) in enumerate(places):
            chain = self._chains.get(sequence.key)
            child = chain.child(sequence.length, path, sequence.prefix) if chain is not None else None
            if child is None:
                missing.append(_Call(row, sequence, path, f"{self._name}-{next(self._numbers)}"))
            children[row] = child or (0, 0.0)
        return children, missing

    def _generate(self, missing: list[_Call]) -> list[tuple[_Call, EngineAnswer]]:
        for call in missing:
            self._calls.put(call)
        late = wait([call.answer for call in missing], self._settings.timeout_ms / 1e3).not_done
        if late:
            for call in missing:
                if call.answer in late and not call.answer.cancel():
                    self._stops.put(call.name)
            limit = self._settings.timeout_ms
            raise EngineError(
                f"{self._settings.model} did not answer within {limit:g} ms for {len(late)} of {len(missing)} leaves"
            )
        answers = [(call, call.answer.result()) for call in missing]
        for _, answer in answers:
            if not answer.tokens or len(answer.log_probs) != len(answer.tokens):
                raise EngineError(f"{self._settings.model}: its answer lacks tokens, or their log-probabilities")
        return answers

    def _serve(self, call: _Call) -> None:
        if not call.answer.set_running_or_notify_cancel():
            return
        try:
            call.answer.set_result(self._call(call))
        except Exception as error:  # the thread must live on; whoever waits is told
            call.answer.set_exception(error)

    def _call(self, call: _Call) -> EngineAnswer:
        settings, sequence = self._settings, call.sequence
        prefix = np.array([*sequence.prefix[: sequence.length], *call.path], dtype=np.int32)
        # A part of a prompt, whose rest is there already, is computed for the KV cache alone.
        whole = bool(call.path) or sequence.length == len(sequence.prefix)
        count = min(settings.tokens if whole else 1, settings.context - len(prefix))
        return calls.generate(
            settings.model,
            prefix,
            count,
            sampling_inputs(sequence.sampling or GREEDY),
            log_probs=True,
            timeout_ms=settings.timeout_ms,
            decoupled=settings.decoupled,
            request_id=call.name,
        )

    def _stop(self, name: str) -> None:
        try:
            calls.stop(self._settings.model, name, timeout_ms=STOP_TIMEOUT_MS, decoupled=self._settings.decoupled)
        except Exception as error:  # it ends by itself, only later
            logger.warning("a draft could not be stopped: %s", error)
