"""``tensorrt_llm.bindings.executor``: what a worker uses of it, and what it must not mistake.

An engine's folder holds, beside TensorRT-LLM's config.json, a double.json: model_dir, dtype, and the padded width of
the logits. Arguments of wrong types are a TypeError, as nanobind's are; what C++ checks is a RuntimeError, or the error
of a response.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from tensorrt_llm.bindings.loop import Loop


def _check(name: str, value: Any, *kinds: type) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"__init__(): incompatible function arguments: {name} = {value!r}")


def _optional(name: str, value: Any, *kinds: type) -> None:
    if value is not None:
        _check(name, value, *kinds)


def _unused(options: dict[str, Any], allowed: set[str]) -> None:
    for name in options:
        if name not in allowed:
            raise TypeError(f"__init__(): incompatible function arguments: {name}")


class ModelType(Enum):
    DECODER_ONLY = 0
    ENCODER_ONLY = 1
    ENCODER_DECODER = 2


class FinishReason(Enum):
    NOT_FINISHED = 0
    END_ID = 1
    STOP_WORDS = 2
    LENGTH = 3
    TIMED_OUT = 4
    CANCELLED = 5


class CommunicationType(Enum):
    MPI = 0


class CommunicationMode(Enum):
    LEADER = 0
    ORCHESTRATOR = 1


class ParallelConfig:
    def __init__(
        self,
        communication_type: CommunicationType = CommunicationType.MPI,
        communication_mode: CommunicationMode = CommunicationMode.LEADER,
        device_ids: list[int] | None = None,
        participant_ids: list[int] | None = None,
        orchestrator_config: Any = None,
        num_nodes: int | None = None,
    ) -> None:
        _check("communication_type", communication_type, CommunicationType)
        _check("communication_mode", communication_mode, CommunicationMode)
        for each in device_ids or ():
            _check("device_ids", each, int)
        self.device_ids = device_ids


class KvCacheConfig:
    def __init__(
        self,
        enable_block_reuse: bool = True,
        max_tokens: int | None = None,
        max_attention_window: list[int] | None = None,
        sink_token_length: int | None = None,
        free_gpu_memory_fraction: float | None = None,
        host_cache_size: int | None = None,
        onboard_blocks: bool = True,
        cross_kv_cache_fraction: float | None = None,
        secondary_offload_min_priority: int | None = None,
        event_buffer_max_size: int = 0,
        *,
        enable_partial_reuse: bool = True,
        copy_on_partial_reuse: bool = True,
        use_uvm: bool = False,
        attention_dp_events_gather_period_ms: int = 5,
        runtime_defaults: Any = None,
        max_gpu_total_bytes: int = 0,
    ) -> None:
        _check("enable_block_reuse", enable_block_reuse, bool)
        _optional("max_tokens", max_tokens, int)
        _optional("free_gpu_memory_fraction", free_gpu_memory_fraction, float)
        if free_gpu_memory_fraction is not None and not 0.0 < free_gpu_memory_fraction < 1.0:
            raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: freeGpuMemoryFraction")
        self.enable_block_reuse, self.max_tokens = enable_block_reuse, max_tokens
        self.free_gpu_memory_fraction = free_gpu_memory_fraction


class LogitsPostProcessorConfig:
    def __init__(
        self,
        processor_map: dict[str, Callable[..., None]] | None = None,
        processor_batched: Callable[..., None] | None = None,
        replicate: bool = True,
    ) -> None:
        _optional("processor_map", processor_map, dict)
        if processor_batched is not None and not callable(processor_batched):
            raise TypeError("__init__(): incompatible function arguments: processor_batched")
        self.processor_map, self.processor_batched, self.replicate = processor_map, processor_batched, replicate


_CONFIG = {
    *("scheduler_config", "enable_chunked_context", "normalize_log_probs", "iter_stats_max_iterations"),
    *("request_stats_max_iterations", "batching_type", "max_batch_size", "max_num_tokens", "peft_cache_config"),
    *("decoding_config", "use_gpu_direct_storage", "gpu_weights_percent", "max_queue_size", "debug_config"),
    *("extended_runtime_perf_knob_config", "recv_poll_period_ms", "max_seq_idle_microseconds", "spec_dec_config"),
    *("guided_decoding_config", "additional_model_outputs", "cache_transceiver_config", "mm_embedding_offloading"),
    "enable_trt_overlap",
}


class ExecutorConfig:
    def __init__(
        self,
        max_beam_width: int = 1,
        *,
        kv_cache_config: KvCacheConfig | None = None,
        parallel_config: ParallelConfig | None = None,
        logits_post_processor_config: LogitsPostProcessorConfig | None = None,
        gather_generation_logits: bool = False,
        **others: Any,
    ) -> None:
        _unused(others, _CONFIG)
        _check("max_beam_width", max_beam_width, int)
        _optional("kv_cache_config", kv_cache_config, KvCacheConfig)
        _optional("parallel_config", parallel_config, ParallelConfig)
        _optional("logits_post_processor_config", logits_post_processor_config, LogitsPostProcessorConfig)
        _check("gather_generation_logits", gather_generation_logits, bool)
        self.kv_cache_config = kv_cache_config or KvCacheConfig()
        self.parallel_config = parallel_config
        self.logits_post_processor_config = logits_post_processor_config
        self.gather_generation_logits = gather_generation_logits


class SamplingConfig:
    def __init__(self, beam_width: int = 1, *, top_k: int | None = None, top_p: float | None = None) -> None:
        _check("beam_width", beam_width, int)
        _optional("top_k", top_k, int)
        _optional("top_p", top_p, float)
        self.beam_width, self.top_k, self.top_p = beam_width, top_k, top_p


class OutputConfig:
    def __init__(
        self,
        return_log_probs: bool = False,
        return_context_logits: bool = False,
        return_generation_logits: bool = False,
        exclude_input_from_output: bool = False,
        return_encoder_output: bool = False,
        return_perf_metrics: bool = False,
        additional_model_outputs: list[Any] | None = None,
    ) -> None:
        for name, value in vars().items():
            if name.startswith(("return_", "exclude_")):
                _check(name, value, bool)
        self.return_generation_logits = return_generation_logits
        self.exclude_input_from_output = exclude_input_from_output
        self.return_perf_metrics = return_perf_metrics


_REQUEST = {
    *("streaming", "pad_id", "position_ids", "bad_words", "stop_words", "embedding_bias", "prompt_tuning_config"),
    *("external_draft_tokens_config", "multimodal_input", "multimodal_embedding", "mrope_config", "lora_config"),
    *("lookahead_config", "kv_cache_retention_config", "logits_post_processor", "encoder_input_token_ids"),
    *("return_all_generated_tokens", "priority", "type", "context_phase_params", "encoder_input_features"),
    *("encoder_output_length", "cross_attention_mask", "num_return_sequences", "eagle_config"),
    *("skip_cross_attn_blocks", "guided_decoding_params", "language_adapter_uid", "allotted_time_ms", "cache_salt_id"),
}


class Request:
    BATCHED_POST_PROCESSOR_NAME = "batched"

    def __init__(
        self,
        input_token_ids: list[int],
        max_tokens: int,
        *,
        sampling_config: SamplingConfig | None = None,
        output_config: OutputConfig | None = None,
        end_id: int | None = None,
        logits_post_processor_name: str | None = None,
        client_id: int | None = None,
        **others: Any,
    ) -> None:
        _unused(others, _REQUEST)
        _check("input_token_ids", input_token_ids, list)
        for each in input_token_ids:
            _check("input_token_ids", each, int)
        _check("max_tokens", max_tokens, int)
        _optional("sampling_config", sampling_config, SamplingConfig)
        _optional("output_config", output_config, OutputConfig)
        _optional("end_id", end_id, int)
        _optional("logits_post_processor_name", logits_post_processor_name, str)
        _optional("client_id", client_id, int)
        if not input_token_ids or max_tokens < 1:
            raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: !mInputTokenIds.empty() && mMaxNewTokens > 0")
        self.input_token_ids, self.max_tokens = input_token_ids, max_tokens
        self.sampling_config, self.output_config = sampling_config or SamplingConfig(), output_config or OutputConfig()
        self.end_id, self.client_id = end_id, client_id
        self.logits_post_processor_name = logits_post_processor_name


@dataclass
class TimingMetrics:
    arrival_time: timedelta
    first_scheduled_time: timedelta
    first_token_time: timedelta
    last_token_time: timedelta


@dataclass
class KvCacheMetrics:
    num_total_allocated_blocks: int
    num_new_allocated_blocks: int
    num_reused_blocks: int


@dataclass
class RequestPerfMetrics:
    timing_metrics: TimingMetrics
    kv_cache_metrics: KvCacheMetrics


@dataclass
class Result:
    is_final: bool
    output_token_ids: list[list[int]]
    generation_logits: Any
    finish_reasons: list[FinishReason]
    request_perf_metrics: RequestPerfMetrics | None


class Response:
    """``result`` of a response with an error, and ``error_msg`` of one without, are errors of the caller."""

    def __init__(self, request_id: int, client_id: int | None, result: Result | None, error: str = "") -> None:
        self.request_id, self.client_id = request_id, client_id
        self._result, self._error = result, error

    def has_error(self) -> bool:
        return bool(self._error)

    @property
    def error_msg(self) -> str:
        if not self._error:
            raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: hasError()")
        return self._error

    @property
    def result(self) -> Result:
        if self._result is None:
            raise RuntimeError(self._error)
        return self._result


class Executor:
    def __init__(
        self, model_path: str | os.PathLike[str], model_type: ModelType, executor_config: ExecutorConfig
    ) -> None:
        _check("model_path", model_path, str, os.PathLike)
        _check("model_type", model_type, ModelType)
        _check("executor_config", executor_config, ExecutorConfig)
        path = Path(model_path) / "double.json"
        if not path.is_file():
            raise RuntimeError(f"[TensorRT-LLM][ERROR] Assertion failed: File does not exist {model_path}")
        self._loop: Loop | None = Loop(json.loads(path.read_text()), executor_config)

    def shutdown(self) -> None:
        self._running().close()
        self._loop = None

    def enqueue_request(self, request: Request) -> int:
        return self.enqueue_requests([request])[0]

    def enqueue_requests(self, requests: list[Request]) -> list[int]:
        for request in requests:
            _check("requests", request, Request)
        return self._running().enqueue(requests)

    def await_responses(self, timeout: timedelta | None = None) -> list[Response]:
        _optional("timeout", timeout, timedelta)
        return self._running().await_responses(None if timeout is None else timeout.total_seconds())

    def cancel_request(self, id: int) -> None:  # noqa: A002
        _check("id", id, int)
        self._running().cancel(id)

    def can_enqueue_requests(self) -> bool:
        return self._loop is not None

    def _running(self) -> Loop:
        if self._loop is None:
            raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: the executor is shut down")
        return self._loop
