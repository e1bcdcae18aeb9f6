"""Expands leaves by TensorRT-LLM's executor: each leaf a request for one token, whose logits are what is wanted.

KV cache is shared by whole blocks of requests that have ended: with the passes before, and not within a pass.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Hashable, Sequence
from datetime import timedelta
from types import ModuleType
from typing import Any

from wanspec.core.drafting import Expansion, SequenceLeaves, check_batch
from wanspec.engines.ranking import all_greedy
from wanspec.engines.trtllm.bindings import built_with, device_ids
from wanspec.engines.trtllm.leaves import Leaf, Leaves
from wanspec.engines.trtllm.settings import POST_PROCESSOR, ExecutorSettings
from wanspec.engines.trtllm.top_tokens import TopTokens
from wanspec.errors import ConfigError, EngineError

logger = logging.getLogger(__name__)

LOOK_MS = 5.0
"""How often commits are looked at while responses are waited for."""


class TrtLlmDraftEngine:
    """A :class:`~wanspec.core.drafting.DraftEngine` on an executor of its own. One thread at a time."""

    def __init__(self, bindings: ModuleType, settings: ExecutorSettings) -> None:
        """Load an engine.

        Args:
            bindings: ``tensorrt_llm.bindings.executor``.
            settings: of the engine.

        Raises:
            ConfigError: there is no such engine or GPU, or it cannot be loaded.
        """
        build = built_with(settings.engine_dir)
        self._context = settings.max_seq_len or build.get("max_seq_len", 0)
        if not isinstance(self._context, int) or self._context < 2:
            raise ConfigError(
                "max_seq_len", f"{settings.engine_dir} does not tell it: give what the engine was built with"
            )
        self._bindings = bindings
        self._settings = settings
        self._numbers = itertools.count(1)
        self._top_tokens = TopTokens(settings.vocab_size)
        self._executor = self._load()

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._settings.vocab_size

    @property
    def context(self) -> int:
        """Longest sequence in tokens, drafts included."""
        return self._context

    def expand(self, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
        """Ask for one token after every leaf and return the ``top`` best children of each.

        A leaf that a commit has made useless meanwhile is cancelled; its row says nothing.

        Raises:
            EngineError: a sequence with its leaves is beyond the context, the executor failed, or time is up.
        """
        check_batch(batch, top, self.vocab_size, self._context - 1)
        began = time.monotonic()
        leaves = Leaves(batch, next(self._numbers))
        self._top_tokens.begin(leaves, top if all_greedy(batch) else 0)
        try:
            self._enqueue(leaves)
            self._await(leaves, began + self._settings.pass_timeout_ms / 1e3)
        except EngineError:
            self._cancel(leaves.pending)
            raise
        except Exception as error:  # of the bindings, whose own are RuntimeError and TypeError
            self._cancel(leaves.pending)
            raise EngineError(f"TensorRT-LLM's executor failed: {type(error).__name__}: {error}") from error
        finally:
            ranked = self._top_tokens.end()
        missing = leaves.done - ranked.ranked.keys() - ranked.whole.keys()
        if missing and ranked.error is None:
            raise EngineError(
                f"TensorRT-LLM answered {len(missing)} leaves whose logits never came: set `logits` to `generation`"
            )
        expansion = ranked.expansion(batch, top)
        return expansion._replace(engine_ms=leaves.engine_ms((time.monotonic() - began) * 1e3))

    def release(self, key: Hashable) -> None:
        """Nothing to do: the executor keeps what fits of ended requests; the least recently used leave first."""

    def close(self) -> None:
        """End the executor's threads."""
        try:
            self._executor.shutdown()
        except Exception:
            logger.exception("TensorRT-LLM's executor did not shut down")

    def _load(self) -> Any:
        executor, settings = self._bindings, self._settings
        ids = device_ids(settings.device)
        cache = executor.KvCacheConfig(
            enable_block_reuse=True,
            max_tokens=settings.kv_tokens,
            free_gpu_memory_fraction=settings.kv_fraction,
            enable_partial_reuse=True,
            copy_on_partial_reuse=True,
        )
        config = executor.ExecutorConfig(
            max_beam_width=1,
            kv_cache_config=cache,
            gather_generation_logits=settings.logits != POST_PROCESSOR,
            parallel_config=executor.ParallelConfig(device_ids=ids) if ids is not None else None,
            logits_post_processor_config=executor.LogitsPostProcessorConfig(processor_batched=self._top_tokens)
            if settings.logits == POST_PROCESSOR
            else None,
        )
        try:
            return executor.Executor(settings.engine_dir, executor.ModelType.DECODER_ONLY, config)
        except Exception as error:
            raise ConfigError("engine_dir", f"TensorRT-LLM cannot load {settings.engine_dir}: {error}") from error

    def _request(self, leaf: Leaf) -> Any:
        executor, by_processor = self._bindings, self._settings.logits == POST_PROCESSOR
        return executor.Request(
            leaf.tokens,
            1,
            sampling_config=executor.SamplingConfig(beam_width=1, top_k=1),
            output_config=executor.OutputConfig(
                return_generation_logits=not by_processor, exclude_input_from_output=True, return_perf_metrics=True
            ),
            client_id=leaf.number,
            logits_post_processor_name=executor.Request.BATCHED_POST_PROCESSOR_NAME if by_processor else None,
        )

    def _enqueue(self, leaves: Leaves) -> None:
        if not self._executor.can_enqueue_requests():
            raise EngineError("TensorRT-LLM's executor takes no requests: it has ended")
        ids = self._executor.enqueue_requests([self._request(leaf) for leaf in leaves.all])
        leaves.enqueued(ids)

    def _await(self, leaves: Leaves, until: float) -> None:
        while leaves.pending:
            left = until - time.monotonic()
            if left <= 0:
                limit = self._settings.pass_timeout_ms
                raise EngineError(
                    f"TensorRT-LLM did not answer within {limit:g} ms for {len(leaves.pending)} of "
                    f"{len(leaves.all)} leaves"
                )
            # Of all requests: answers to what was given up leave the executor, too.
            for response in self._executor.await_responses(timedelta(milliseconds=min(LOOK_MS, math.ceil(left * 1e3)))):
                self._take(leaves, response)
            self._cancel(leaves.drop_useless())

    def _take(self, leaves: Leaves, response: Any) -> None:
        leaf = leaves.pending.get(response.request_id)
        if leaf is None:
            return
        if response.has_error():
            raise EngineError(f"TensorRT-LLM: {response.error_msg}")
        if not response.result.is_final:
            return
        leaves.answered(response.request_id, response.result)
        if self._settings.logits != POST_PROCESSOR:
            self._top_tokens.take(leaf.number, response.result.generation_logits)

    def _cancel(self, ids: Sequence[int] | dict[int, Leaf]) -> None:
        for request_id in list(ids):
            try:
                self._executor.cancel_request(request_id)
            except Exception as error:
                logger.warning("request %d could not be cancelled: %s", request_id, error)
