"""The executor's thread: one step after the other, over all requests."""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import timedelta
from typing import Any

import numpy as np
import torch

from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import RequestCancelledError, WanspecError


class Loop:
    """Attributes that tests look at: ``requests`` (all), ``cancelled`` (ids), ``kv_cache_config``.

    ``step_s`` and ``stalled`` make it slow, or stop it.
    """

    def __init__(self, description: dict[str, Any], config: Any) -> None:
        model = TorchModel.load(description["model_dir"], dtype=description["dtype"])
        self.config = config
        self.requests: list[Any] = []
        self.cancelled: list[int] = []
        self.step_s, self.stalled = float(description.get("step_s", 0.0)), False
        self._padding = int(description["columns"]) - model.vocab_size
        self._engine = TorchEngine(model, kv_tokens=config.kv_cache_config.max_tokens)
        self._running: dict[int, tuple[Any, Any]] = {}
        self._waiting: deque[tuple[int, Any]] = deque()
        self._responses: list[Any] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)
        self._thread.start()

    def enqueue(self, requests: list[Any]) -> list[int]:
        with self._changed:
            first = len(self.requests) + 1
            self.requests += requests
            ids = list(range(first, first + len(requests)))
            self._waiting += zip(ids, requests, strict=True)
            self._changed.notify_all()
        return ids

    def await_responses(self, timeout_s: float | None) -> list[Any]:
        with self._changed:
            self._changed.wait_for(lambda: self._responses or self._closed, timeout_s)
            found, self._responses = self._responses, []
        return found

    def cancel(self, request_id: int) -> None:
        """Of an unknown id, as of one that has ended: nothing."""
        with self._changed:
            self.cancelled.append(request_id)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._closed, 0.2)
                if self.stalled:
                    continue
                while self._waiting:
                    self._add(*self._waiting.popleft())
            if self._running:
                time.sleep(self.step_s)
                self._step()

    def _add(self, request_id: int, request: Any) -> None:
        from tensorrt_llm.bindings.executor import Response

        gathers, wants = self.config.gather_generation_logits, request.output_config.return_generation_logits
        try:
            if wants and not gathers:
                raise WanspecError("return_generation_logits needs gather_generation_logits of the executor")
            asked = GenerationRequest(
                np.array(request.input_token_ids, dtype=np.int32),
                request.max_tokens,
                end_id=request.end_id,
                runtime_top_k=request.sampling_config.top_k,
                return_generation_logits=True,
            )
            self._running[request_id] = (request, self._engine.add(asked))
        except WanspecError as error:
            self._responses.append(Response(request_id, request.client_id, None, str(error)))
            self._changed.notify_all()

    def _step(self) -> None:
        for request_id in [each for each in self.cancelled if each in self._running]:
            self._engine.cancel(self._running[request_id][1])
        ended = [running for _, running in self._running.values() if running.ended]
        ended += self._engine.step() if not self._engine.idle else []
        done = {key: value for key, value in self._running.items() if value[1] in ended}
        results = {key: running.result() for key, (_, running) in done.items()}
        self._post_process({key: result for key, result in results.items() if isinstance(result, GenerationResult)})
        with self._changed:
            for request_id, result in results.items():
                request, _ = self._running.pop(request_id)
                self._responses.append(self._response(request_id, request, result))
            self._changed.notify_all()

    def _logits(self, result: GenerationResult) -> torch.Tensor:
        """[1, tokens, columns]; columns beyond the vocabulary are larger than any token's, and mean nothing."""
        assert result.generation_logits is not None
        rows = torch.from_numpy(result.generation_logits)
        return torch.nn.functional.pad(rows, (0, self._padding), value=1e4)[None]

    def _post_process(self, results: dict[int, GenerationResult]) -> None:
        """The batched callback, with the logits of the last token only: requests here ask for one."""
        processor = self.config.logits_post_processor_config
        named = {key: each for key, each in results.items() if self._running[key][0].logits_post_processor_name}
        if not named:
            return
        assert processor is not None, "the executor has no post-processor"
        requests = [self._running[key][0] for key in named]
        assert {request.logits_post_processor_name for request in requests} == {"batched"}
        processor.processor_batched(
            list(named),
            [self._logits(each)[:, -1:] for each in named.values()],
            [[request.input_token_ids] for request in requests],
            0,
            [request.client_id for request in requests],
        )

    def _response(self, request_id: int, request: Any, result: GenerationResult | WanspecError) -> Any:
        from tensorrt_llm.bindings import executor

        if isinstance(result, RequestCancelledError):
            cancelled = executor.Result(True, [[]], None, [executor.FinishReason.CANCELLED], None)
            return executor.Response(request_id, request.client_id, cancelled)
        if isinstance(result, WanspecError):
            return executor.Response(request_id, request.client_id, None, str(result))
        output, times = request.output_config, result.timings
        tokens = result.output_ids.tolist()
        metrics = executor.RequestPerfMetrics(
            executor.TimingMetrics(
                *(
                    timedelta(microseconds=each / 1e3)
                    for each in (times.arrival_ns, times.first_scheduled_ns, times.first_token_ns, times.last_token_ns)
                )
            ),
            executor.KvCacheMetrics(result.alloc_total_blocks, result.alloc_new_blocks, result.reused_blocks),
        )
        answer = executor.Result(
            True,
            [tokens if output.exclude_input_from_output else [*request.input_token_ids, *tokens]],
            self._logits(result) if output.return_generation_logits else None,
            [executor.FinishReason.LENGTH],
            metrics if output.return_perf_metrics else None,
        )
        return executor.Response(request_id, request.client_id, answer)
