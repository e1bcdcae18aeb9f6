"""From a worker's parameters to its engine on TensorRT-LLM."""

from __future__ import annotations

from typing import cast

from wanspec.core.drafting import DraftEngine
from wanspec.engines.config import EngineConfig
from wanspec.engines.trtllm.bindings import load_bindings
from wanspec.engines.trtllm.settings import ExecutorSettings, LogitsBy


def build_trtllm(config: EngineConfig) -> DraftEngine:
    """Load what ``config`` describes.

    Raises:
        ConfigError: TensorRT-LLM is not there, or a setting cannot work.
    """
    bindings = load_bindings()
    # With PyTorch, which nobody needs to be told that TensorRT-LLM is missing.
    from wanspec.engines.trtllm.draft_engine import TrtLlmDraftEngine

    settings = ExecutorSettings(
        engine_dir=config.engine_dir,
        vocab_size=config.vocab_size,
        max_seq_len=config.max_seq_len,
        kv_tokens=config.kv_tokens,
        kv_fraction=config.kv_fraction,
        device=config.device,
        logits=cast(LogitsBy, config.logits),
        pass_timeout_ms=config.pass_timeout_ms,
    )
    return TrtLlmDraftEngine(bindings, settings)
