"""A pair of engines that the small models stand for."""

from __future__ import annotations

from typing import Any

from wanspec.models import resolve
from wanspec.triton.engine_pair import Engine, EnginePair

GIB = 1 << 30
TARGET: dict[str, Any] = {
    "engine_dir": "/engines/target/engine",
    "model_dir": str(resolve("small-target")),
    "tensor_parallel": 1,
    "max_batch_size": 16,
    "max_input_len": 520,
    "max_seq_len": 520,
    "max_draft_len": 8,
    "padded_vocab_size": 4096,
    "kv_tokens": 400_000,
    "kv_bytes_per_token": 131_072,
    "loaded_bytes": 17 * GIB,
}
DRAFT = TARGET | {
    "engine_dir": "/engines/draft/engine",
    "model_dir": str(resolve("small-draft")),
    "max_draft_len": 0,
    "kv_tokens": 32_768,
    "kv_bytes_per_token": 32_768,
    "loaded_bytes": 4 * GIB,
}


def engine_pair(*, local_draft: bool = True, tensor_parallel: int = 1) -> EnginePair:
    """``tensor_parallel``: of the target."""
    return EnginePair(
        name="small",
        tensorrt_llm="1.2.1",
        gpu="H100-80GB",
        gpu_memory=80 * GIB,
        context=512,
        local_draft=local_draft,
        target=Engine(**(TARGET | {"tensor_parallel": tensor_parallel})),
        draft=Engine(**DRAFT),
    )
