"""The flags that TensorRT-LLM's tools take, and a check of commands against them.

Facts as read in TensorRT-LLM's own sources at the commits of ``SOURCES`` (releases 1.0 to 1.2; not the tag v1.2.1
itself). Only what the plan may use is listed with its choices; ``None`` stands for any value, ``()`` for a flag that
takes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from wanspec.errors import ConfigError

Choices: TypeAlias = tuple[str, ...] | None

VERSION = "1.2"
"""Releases of TensorRT-LLM that the lists are of; from 1.3 on there are no engines."""

SOURCES: Mapping[str, str] = {
    "trtllm-build": "tensorrt_llm/commands/build.py@65f1d1536e18aea3380e6e270e00895a709333eb",
    "llama": "examples/models/core/llama/convert_checkpoint.py@368f8f2ade001e8fcb955be39e4812f918d7fb92",
    "qwen": "examples/models/core/qwen/convert_checkpoint.py@65b31db1b401d3752b8ebe7c29093cbfb6af04b7",
    "quantize": "examples/quantization/quantize.py@c8c6df08bd0ead54cd47f7973e1e425c28a174cd",
}
"""Where each list was read.

The plugins' flags of trtllm-build are those of ``cli_plugin_args`` in
tensorrt_llm/plugin/plugin.py@c20322ffd3dc0740ca530c9fad989b22e64f6e06.
"""

_SWITCH: Choices = ()
_ON_OFF: Choices = ("enable", "disable")
_DTYPES: Choices = ("auto", "float16", "bfloat16", "float32")
_PLUGIN: Choices = ("auto", "float16", "float32", "bfloat16", "int32", "disable")

_BUILD: Mapping[str, Choices] = {
    "checkpoint_dir": None,
    "model_config": None,
    "build_config": None,
    "model_cls_file": None,
    "model_cls_name": None,
    "output_dir": None,
    "max_batch_size": None,
    "max_input_len": None,
    "max_seq_len": None,
    "max_decoder_seq_len": None,
    "max_beam_width": None,
    "max_num_tokens": None,
    "opt_num_tokens": None,
    "max_encoder_input_len": None,
    "max_prompt_embedding_table_size": None,
    "max_multimodal_len": None,
    "kv_cache_type": ("continuous", "paged", "disabled"),
    "input_timing_cache": None,
    "output_timing_cache": None,
    "profiling_verbosity": ("layer_names_only", "detailed", "none"),
    "strip_plan": _SWITCH,
    "weight_sparsity": _SWITCH,
    "weight_streaming": _SWITCH,
    "fast_build": _SWITCH,
    "workers": None,
    "log_level": ("internal_error", "error", "warning", "info", "verbose"),
    "enable_debug_output": _SWITCH,
    "visualize_network": None,
    "dry_run": _SWITCH,
    "monitor_memory": _SWITCH,
    "logits_dtype": ("float16", "float32"),
    "gather_context_logits": _SWITCH,
    "gather_all_token_logits": _SWITCH,
    "speculative_decoding_mode": (
        "draft_tokens_external",
        "lookahead_decoding",
        "medusa",
        "explicit_draft_tokens",
        "eagle",
    ),
    "max_draft_len": None,
    "gpt_attention_plugin": _PLUGIN,
    "gemm_plugin": ("auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable"),
    "gemm_swiglu_plugin": ("fp8", "disable"),
    "fp8_rowwise_gemm_plugin": _PLUGIN,
    "nccl_plugin": _PLUGIN,
    "low_latency_gemm_plugin": ("fp8", "disable"),
    "low_latency_gemm_swiglu_plugin": ("fp8", "disable"),
    "gemm_allreduce_plugin": ("float16", "bfloat16", "disable"),
    "context_fmha": _ON_OFF,
    "remove_input_padding": _ON_OFF,
    "tokens_per_block": None,
    "use_paged_context_fmha": _ON_OFF,
    "use_fp8_context_fmha": _ON_OFF,
    "multiple_profiles": _ON_OFF,
    "norm_quant_fusion": _ON_OFF,
    "reduce_fusion": _ON_OFF,
    "user_buffer": _ON_OFF,
    "use_fused_mlp": _ON_OFF,
}

_CONVERT: Mapping[str, Choices] = {
    "model_dir": None,
    "output_dir": None,
    "tp_size": None,
    "pp_size": None,
    "cp_size": None,
    "dtype": _DTYPES,
    "use_weight_only": _SWITCH,
    "disable_weight_only_quant_plugin": _SWITCH,
    "weight_only_precision": ("int8", "int4", "int4_gptq"),
    "calib_dataset": None,
    "smoothquant": None,
    "per_channel": _SWITCH,
    "per_token": _SWITCH,
    "int8_kv_cache": _SWITCH,
    "per_group": _SWITCH,
    "group_size": None,
    "load_model_on_cpu": _SWITCH,
    "use_parallel_embedding": _SWITCH,
    "embedding_sharding_dim": ("0", "1"),
    "workers": None,
    "moe_tp_size": None,
    "moe_ep_size": None,
}

_QUANTIZE: Mapping[str, Choices] = {
    "model_dir": None,
    "output_dir": None,
    "device": ("cuda", "cpu"),
    "device_map": ("auto", "sequential", "cpu", "gpu"),
    "calib_dataset": None,
    "calib_tp_size": None,
    "calib_pp_size": None,
    "dtype": _DTYPES,
    "qformat": (
        "nvfp4",
        "fp8",
        "fp8_pc_pt",
        "int8_sq",
        "int4_awq",
        "w4a8_awq",
        "int8_wo",
        "int4_wo",
        "full_prec",
    ),
    "seed": None,
    "tokenizer_max_seq_length": None,
    "batch_size": None,
    "calib_size": None,
    "calib_max_seq_length": None,
    "tp_size": None,
    "pp_size": None,
    "cp_size": None,
    "awq_block_size": None,
    "kv_cache_dtype": ("int8", "fp8"),
    "quantize_lm_head": _SWITCH,
    "autoq_format": None,
    "auto_quantize_bits": None,
}

FLAGS: Mapping[str, Mapping[str, Choices]] = {
    "trtllm-build": _BUILD,
    "llama": _CONVERT,
    "qwen": _CONVERT,
    "quantize": _QUANTIZE,
}
"""By tool: ``llama`` and ``qwen`` are the models' convert_checkpoint.py."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of TensorRT-LLM: how it is called, and whose flags it takes."""

    name: str
    command: tuple[str, ...]


def arguments(tool: Tool, given: Mapping[str, str | int | bool]) -> tuple[str, ...]:
    """The whole argument list; a flag that is False is left out.

    Raises:
        ConfigError: a flag or a value that the tool does not take.
    """
    kept = {name: value for name, value in given.items() if value is not False}
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in kept.items()]
    check_flags(tool.name, flags)
    return (*tool.command, *flags)


def check_flags(tool: str, flags: Sequence[str]) -> None:
    """Compare with what the tool takes.

    Raises:
        ConfigError: a flag or a value that it does not take.
    """
    known = FLAGS[tool]
    for flag in flags:
        name, given, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or name not in known:
            raise ConfigError(f"{tool}: {flag}", f"is no flag of it in TensorRT-LLM {VERSION} ({SOURCES[tool]})")
        choices = known[name]
        if bool(given) == (choices == ()):
            raise ConfigError(f"{tool}: --{name}", "takes no value" if given else "needs a value")
        if choices and value not in choices:
            raise ConfigError(f"{tool}: --{name}", f"{value!r} is not one of {', '.join(choices)}")
