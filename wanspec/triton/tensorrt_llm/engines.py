"""The controller's engine calls: target and local draft, as models of this server."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.core.config import SamplingMode
from wanspec.core.events import ActionId, Draft, Verify
from wanspec.core.options import GenerationOptions
from wanspec.core.sampling import GREEDY
from wanspec.errors import EngineError
from wanspec.triton.tensorrt_llm import by_logits, calls
from wanspec.triton.tensorrt_llm.calls import EngineAnswer
from wanspec.triton.tensorrt_llm.inputs import one_hot_inputs, option_inputs, sampling_inputs

STOP_TIMEOUT_MS = 5_000.0


def _unique() -> str:
    # Not a digit first: TensorRT-LLM takes an id that begins with a number for that number.
    return f"wanspec-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True)
class BlsEngines:
    """Engine calls by BLS. Blocking, from any thread of the stub.

    Attributes:
        target, draft_model: names of the models; ``draft_model`` empty for none.
        columns: of the target's logits, padding included.
        tokens: in the vocabulary; columns from there on stand for no token.
        sampling: how drafts are verified above temperature 0.
        decoupled: whether the models are deployed so.
        draft_columns: of the local draft's logits; 0 for as many as the target's.
        name: begins the request ids of all calls, which other controllers' must not equal.
    """

    target: str
    draft_model: str
    columns: int
    tokens: int
    sampling: SamplingMode
    decoupled: bool = False
    draft_columns: int = 0
    name: str = field(default_factory=_unique)

    def verify(self, action: Verify, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        """Verify the action's drafts after ``prefix`` in one target pass.

        Raises:
            EngineError: the engine answered with an error.
            RequestStoppedError: it was stopped.
        """
        if self.sampling is SamplingMode.LOGITS and not action.sampling.greedy:
            return self._verify_by_logits(action, prefix, timeout_ms)
        choice = self._choice(action)
        if self.sampling is SamplingMode.TENSORRT_LLM:
            choice |= one_hot_inputs(action.sampling, action.drafts, len(prefix), self.columns)
        elif self.sampling is SamplingMode.LOGITS:
            choice |= by_logits.threshold_inputs(action.drafts)
        return self._verify(action, prefix, action.drafts, choice, timeout_ms)

    def draft(self, action: Draft, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        """Draft locally after ``prefix``, which holds the action's path.

        Raises:
            EngineError: the engine answered with an error.
            RequestStoppedError: it was stopped.
        """
        if self.sampling is SamplingMode.LOGITS:
            # The engine draws with its own noise: nothing is more likely to be the target's token than its best one.
            action = replace(action, sampling=GREEDY)
        return calls.generate(
            self.draft_model,
            prefix,
            action.count,
            self._choice(replace(action, options=self._for_draft(action.options)), self.draft_columns or self.columns),
            log_probs=True,
            timeout_ms=timeout_ms,
            decoupled=self.decoupled,
            request_id=self._id(action.action),
        )

    def stop(self, action: ActionId) -> None:
        """End a call, whichever engine it went to.

        Raises:
            EngineError: an engine answered with an error.
        """
        failed: EngineError | None = None
        for model in filter(None, (self.target, self.draft_model)):
            try:
                calls.stop(model, self._id(action), timeout_ms=STOP_TIMEOUT_MS, decoupled=self.decoupled)
            except EngineError as error:  # the other is to hear of it all the same
                failed = failed or error
        if failed is not None:
            raise failed

    def _verify_by_logits(self, action: Verify, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        drafts = action.drafts
        choice = by_logits.logits_inputs(drafts, len(prefix), self.columns)
        answer = self._verify(action, prefix, drafts, choice, timeout_ms, logits=True)
        if drafts and (answer.logits is None or not len(answer.logits)):
            # Logits come of accepted drafts: the first one was too improbable even so.
            drafts = ()
            choice = by_logits.logits_inputs(drafts, len(prefix), self.columns)
            answer = self._verify(action, prefix, drafts, choice, timeout_ms, logits=True)
        if answer.logits is None or not len(answer.logits) or answer.logits.shape[1] < self.tokens:
            raise EngineError(f"{self.target}: its answer lacks generation_logits of {self.tokens} tokens")
        rows = answer.logits[: max(1, len(answer.tokens)), : self.tokens]
        chosen = by_logits.choose(rows, prefix, drafts, action.sampling, action.options, log_probs=action.log_probs)
        return replace(answer, tokens=tuple(chosen.tokens), log_probs=tuple(chosen.log_probs), logits=None)

    def _verify(
        self,
        action: Verify,
        prefix: NDArray[np.int32],
        drafts: tuple[int, ...],
        choice: dict[str, NDArray[Any]],
        timeout_ms: float,
        *,
        logits: bool = False,
    ) -> EngineAnswer:
        return calls.verify(
            self.target,
            prefix,
            drafts,
            choice,
            log_probs=action.log_probs and not logits,
            blocks=action.blocks,
            logits=logits,
            timeout_ms=timeout_ms,
            decoupled=self.decoupled,
            request_id=self._id(action.action),
        )

    def _choice(self, action: Verify | Draft, columns: int = 0) -> dict[str, NDArray[Any]]:
        return sampling_inputs(action.sampling) | option_inputs(action.options, columns or self.columns)

    def _for_draft(self, options: GenerationOptions) -> GenerationOptions:
        """The same without a bias on tokens that the draft has no column for."""
        if not self.draft_columns or not options.logit_bias:
            return options
        return replace(options, logit_bias=tuple(pair for pair in options.logit_bias if pair[0] < self.draft_columns))

    def _id(self, action: ActionId) -> str:
        return f"{self.name}-{action[0]}-{action[1]}"
