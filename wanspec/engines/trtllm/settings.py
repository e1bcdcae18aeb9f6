"""What the executor is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

LogitsBy: TypeAlias = Literal["post_processor", "generation"]
POST_PROCESSOR: LogitsBy = "post_processor"


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """Settings of the executor.

    Attributes:
        engine_dir: folder of the draft's engine, of one rank.
        vocab_size: of the draft's model; the engine's logits may be wider.
        max_seq_len: longest sequence; what the engine was built with if None.
        kv_tokens: of KV cache at most; None for what ``kv_fraction`` gives.
        kv_fraction: share of the GPU's memory that is free after loading; TensorRT-LLM's own default, 0.9, if None.
        device: cuda, or cuda:N.
        logits: ``post_processor``: the best tokens are found on the GPU, by a logits post-processor, and they alone
            leave it where the target is greedy; ``generation``: whole rows of logits are returned.
        pass_timeout_ms: longest wait for a pass.
    """

    engine_dir: str
    vocab_size: int
    max_seq_len: int | None = None
    kv_tokens: int | None = None
    kv_fraction: float | None = None
    device: str = "cuda"
    logits: LogitsBy = POST_PROCESSOR
    pass_timeout_ms: float = 20_000.0
