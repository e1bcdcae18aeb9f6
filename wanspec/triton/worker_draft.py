"""How a worker drafts, other than by the engine in its own process that it shares with the CPU profile."""

from __future__ import annotations

from dataclasses import dataclass

from wanspec.engines.config import LOGITS
from wanspec.triton.repository import Value

CHAIN_MODEL = "draft"
"""The model that a worker's chain comes from."""


@dataclass(frozen=True, slots=True)
class WorkerDraft:
    """Settings of the worker's draft engine (``docs/worker_engines.md``).

    Attributes:
        engine: ``tensorrt_llm`` (an engine in the worker's process), ``triton`` (a model beside it, a chain), or empty
            for what the worker's ``EngineSettings`` say.
        max_seq_len: longest sequence, 0 for the model's own.
        engine_dir: of tensorrt_llm: folder of the draft's engine.
        kv_fraction: of tensorrt_llm: share of the free GPU memory for KV cache, 0 for its own default.
        logits: of tensorrt_llm: ``post_processor``, or ``generation``.
        chain_tokens: of triton: tokens of one request.
    """

    engine: str = ""
    max_seq_len: int = 0
    engine_dir: str = ""
    kv_fraction: float = 0.0
    logits: str = LOGITS[0]
    chain_tokens: int = 8

    def values(self, decoupled: bool) -> dict[str, Value]:
        """Of the worker's configuration; ``decoupled``: how engines' models are deployed."""
        chosen: dict[str, Value] = {"engine": self.engine} if self.engine else {}
        return chosen | {
            "max_seq_len": self.max_seq_len,
            "engine_dir": self.engine_dir,
            "kv_fraction": self.kv_fraction,
            "logits": self.logits,
            "draft_model": CHAIN_MODEL,
            "chain_tokens": self.chain_tokens,
            "decoupled": decoupled,
        }
