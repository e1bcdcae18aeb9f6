"""Load the worker's draft engine from the settings that engines of the contract share."""

from __future__ import annotations

from wanspec.core.drafting import DraftEngine
from wanspec.engines.config import EngineConfig
from wanspec.errors import ConfigError


def build_draft_engine(config: EngineConfig) -> DraftEngine:
    """Load what ``config`` describes, as an engine that expands token trees.

    Raises:
        ConfigError: a setting cannot work.
        ModelError: the model cannot be used.
    """
    if config.engine == "zero":
        from wanspec.engines.zero import DEFAULT_CONTEXT, ZeroDraftEngine, ZeroModel

        model = ZeroModel(config.vocab_size, config.agreement)
        return ZeroDraftEngine(model, context=config.max_seq_len or DEFAULT_CONTEXT, pace=config.pace)
    if config.engine == "tensorrt_llm":
        from wanspec.engines.trtllm.build import build_trtllm

        return build_trtllm(config)
    if config.engine == "triton":
        raise ConfigError("engine", "triton is a model of the worker's own server, and there is none here")
    from wanspec.engines.torch_model import TorchModel
    from wanspec.engines.tree import TreeDraftEngine

    loaded = TorchModel.load(
        config.model_dir,
        dtype=config.dtype,
        device=config.device,
        threads=config.threads,
        max_seq_len=config.max_seq_len,
        weights=config.weights,
    )
    return TreeDraftEngine(loaded, kv_tokens=config.kv_tokens, pace=config.pace)
