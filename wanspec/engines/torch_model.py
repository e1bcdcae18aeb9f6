"""Any Hugging Face causal LM from a folder, run on ragged segments with per-sequence KV buffers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec.engines import attention
from wanspec.engines.int8_linear import quantize_linears
from wanspec.engines.kv_cache import KVBuffer, KVShape
from wanspec.engines.norms import fuse_rms_norms
from wanspec.engines.packed_linear import pack_linears
from wanspec.engines.segments import Segment, append_segment, ready_rows
from wanspec.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
SAME, INT8 = "same", "int8"
_PROBE_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


class TorchModel:
    """A causal LM that computes many ragged segments in one forward pass.

    Attributes:
        vocab_size: rows of the output head.
        context: most tokens of one sequence.
        kv_shape: what a cached token looks like; buffers are made of it.
    """

    def __init__(self, model: PreTrainedModel, max_seq_len: int | None = None, weights: str = SAME) -> None:
        """Take over a transformers causal LM (its attention, RMS norms and large linear layers are replaced).

        Raises:
            ConfigError: unknown weights, or none that can be int8.
            ModelError: the architecture needs something that ragged attention does not do.
        """
        attention.register()
        config = model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        if limit is None:
            raise ModelError("config.json states no max_position_embeddings: the model's context is unknown")
        self.context: int = min(limit, max_seq_len or limit)
        _refuse_unsupported(config)
        self._model = model.eval().requires_grad_(False)
        _quantize(model, weights)
        self._parameter: torch.Tensor = next(model.parameters())
        self.vocab_size: int = config.vocab_size
        self.kv_shape, self._group = self._probe(config)
        if self._parameter.dtype in (torch.float32, torch.float64):
            fuse_rms_norms(model)
        pack_linears(model)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int | None = 1,
        max_seq_len: int | None = None,
        weights: str = SAME,
    ) -> TorchModel:
        """Load a Hugging Face model folder.

        Args:
            folder: holds config.json and weights; nothing is downloaded.
            dtype: float32, float64, bfloat16 or float16.
            device: as PyTorch names them: cpu, cuda, cuda:1.
            threads: of PyTorch in the whole process; None leaves them as they are.
            max_seq_len: caps the context below the model's own.
            weights: ``same``: of ``dtype``; ``int8``: the linear layers' but the output head's are int8.

        Raises:
            ConfigError: unknown dtype or weights.
            ModelError: the folder or the model cannot be used.
        """
        if dtype not in DTYPES:
            raise ConfigError("dtype", f"{dtype!r} is unknown: use one of {', '.join(DTYPES)}")
        if not (Path(folder) / "config.json").is_file():
            raise ModelError(f"{folder}: no config.json there: give the folder of a Hugging Face causal LM")
        if threads is not None:
            torch.set_num_threads(threads)
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()

        attention.register()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=DTYPES[dtype],
                device_map=device if device != "cpu" else None,
                attn_implementation=attention.IMPLEMENTATION,
                local_files_only=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: cannot be loaded as a causal LM: {error}") from error
        return cls(model, max_seq_len, weights)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and KV cache."""
        return self._parameter.dtype

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._parameter.device

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Run all segments in one pass.

        Returns:
            Logits ``[wanted rows, vocab_size]`` in the model's dtype, segment after segment.
        """
        rows, prepared, wanted = 0, [], []
        for segment in segments:
            prepared.append(ready_rows(segment, rows, self._group))
            wanted.append(segment.wanted + rows)
            rows += len(segment.tokens)
        tokens = np.concatenate([np.asarray(segment.tokens, dtype=np.int64) for segment in segments])
        positions = np.concatenate([segment.positions for segment in segments])
        return self._run(attention.RaggedAttention(prepared), tokens, positions, np.concatenate(wanted))

    def _run(
        self,
        batch: attention.AttentionBatch,
        tokens: NDArray[np.int64],
        positions: NDArray[np.int64],
        wanted: NDArray[np.int64],
    ) -> torch.Tensor:
        output = self._model(
            input_ids=torch.from_numpy(tokens).to(self.device).unsqueeze(0),
            position_ids=torch.from_numpy(positions).to(self.device).unsqueeze(0),
            use_cache=False,
            logits_to_keep=torch.from_numpy(wanted).to(self.device),
            **{attention.BATCH_ARGUMENT: batch},
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    @torch.inference_mode()
    def _probe(self, config: PreTrainedConfig) -> tuple[KVShape, int]:
        """Learn the cache's shape from a real pass, and check ragged attention against transformers' own."""
        tokens = np.arange(1, 7, dtype=np.int64) % self.vocab_size
        positions = np.arange(6, dtype=np.int64)
        self._model.set_attn_implementation("eager")
        expected = self._model(input_ids=torch.from_numpy(tokens).to(self.device)[None], use_cache=False).logits[0]
        self._model.set_attn_implementation(attention.IMPLEMENTATION)
        probe = attention.AttentionProbe(self.context)
        self._run(probe, tokens, positions, positions)
        shapes = set(probe.layers.values())
        if len(shapes) != 1 or len(probe.layers) != config.num_hidden_layers:
            raise ModelError(
                f"{config.model_type}: {len(probe.layers)} attention layers of {len(shapes)} shapes in "
                f"{config.num_hidden_layers} layers: only uniform attention in every layer is supported"
            )
        heads, kv_heads, key_dim, value_dim = shapes.pop()
        shape = KVShape(len(probe.layers), kv_heads, key_dim, value_dim, self.context, self.dtype, self.device)
        self._group = heads // kv_heads
        buffer = KVBuffer(shape, min(8, self.context))
        ragged = torch.cat(
            [
                self.forward([append_segment(buffer, 0, tokens[:3], 3)]),
                self.forward([append_segment(buffer, 3, tokens[3:], 3)]),
            ]
        )
        worst = float((ragged - expected).abs().max() / expected.abs().max().clamp(min=1.0))
        if not worst < _PROBE_TOLERANCE[self.dtype]:
            raise ModelError(
                f"{config.model_type}: ragged attention differs from the model's own by {worst:.1e} (relative): "
                "this architecture is not supported by the PyTorch engine"
            )
        logger.debug("%s: %d layers, %d bytes of KV cache a token", config.model_type, shape.layers, shape.token_bytes)
        return shape, self._group


def _quantize(model: PreTrainedModel, weights: str) -> None:
    if weights not in (SAME, INT8):
        raise ConfigError("weights", f"{weights!r} is unknown: use {SAME} or {INT8}")
    if weights == INT8 and not quantize_linears(model, model.get_output_embeddings()):
        raise ConfigError("weights", f"{model.config.model_type} has no layer of torch.nn.Linear: int8 cannot be used")


def _refuse_unsupported(config: PreTrainedConfig) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default") if isinstance(rope, dict) else "default"
    if kind in _LENGTH_DEPENDENT_ROPE:
        raise ModelError(f"rope_type {kind!r} changes cached keys with the sequence's length: not supported")
