"""What an engine needs of a GPU: an estimate from the model's dimensions, before anything is built.

Weights are counted from the dimensions; KV cache exactly; activations and CUDA's own by rules of thumb, which nobody
has compared with a GPU yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from build_engines.gpus import GIB, Gpu
from build_engines.recipe import AWQ_BLOCK, ModelSection, Recipe, Shape
from wanspec.errors import ConfigError

USABLE = 0.95
"""Share of a GPU's memory that is planned with."""

CUDA_BYTES = GIB
"""Of one engine's process: CUDA context, libraries, workspaces of cuBLAS and NCCL."""

_LINEAR_BYTES = {
    "none": 2.0,
    "fp8": 1.0,
    "int8_sq": 1.0,
    "int8_wo": 1.0,
    # Four bits, and a 16-bit scale for each block of 128.
    "int4_awq": 0.5 + 2 / AWQ_BLOCK,
    "w4a8_awq": 0.5 + 2 / AWQ_BLOCK,
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on one GPU of one engine.

    Attributes:
        weights: of the engine.
        activations: of one step of ``max_num_tokens`` rows, and the logits.
        kv_per_token: KV cache of a token.
        kv_least: KV cache of ``kv_sequences`` whole sequences.
    """

    weights: int
    activations: int
    kv_per_token: int
    kv_least: int

    @property
    def loaded(self) -> int:
        """All but the KV cache."""
        return self.weights + self.activations + CUDA_BYTES


def parameters(shape: Shape) -> int:
    """Number of parameters, biases and norms aside."""
    head = 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
    return shape.num_hidden_layers * _layer(shape, 1) + shape.vocab_size * shape.hidden_size + head


def checkpoint_bytes(shape: Shape, quantization: str, parallel: int) -> int:
    """Of a converted checkpoint, or of an engine: all its ranks."""
    return _weights(shape, quantization, parallel) * parallel


def padded_vocab(shape: Shape, parallel: int) -> int:
    """Columns of the engine's logits: TensorRT-LLM pads the vocabulary to a multiple of the ranks."""
    return -(-shape.vocab_size // parallel) * parallel


def max_num_tokens(recipe: Recipe, role: str) -> int:
    """Rows of one step: given, or a whole prefix and one row more than the drafts of every other request."""
    section = recipe.section(role)
    drafts = recipe.max_draft_len if role == "target" else 0
    needed = recipe.input_length(role) + (section.max_batch_size - 1) * (drafts + 1)
    return section.max_num_tokens or -(-needed // 64) * 64


def estimate(recipe: Recipe, role: str, shape: Shape) -> Estimate:
    """What an engine needs of each of its GPUs."""
    section = recipe.section(role)
    parallel = section.tensor_parallel
    kv_heads = max(1, shape.num_key_value_heads // parallel)
    kv_bytes = 1 if section.kv_cache == "fp8" else 2
    per_token = 2 * shape.num_hidden_layers * kv_heads * shape.head_dim * kv_bytes
    drafts = recipe.max_draft_len if role == "target" else 0
    rows = max_num_tokens(recipe, role)
    inner = rows * 2 * (4 * shape.hidden_size + 3 * shape.intermediate_size // parallel)
    # In float32, before and after the sampling options.
    logits = section.max_batch_size * (drafts + 1) * padded_vocab(shape, parallel) * 4 * 2
    return Estimate(
        _weights(shape, section.quantization, parallel),
        inner + logits,
        per_token,
        section.kv_sequences * recipe.input_length(role) * per_token,
    )


def share(recipe: Recipe, target: Estimate, draft: Estimate) -> dict[str, int]:
    """Tokens of KV cache of each engine on the controller's first GPU, where both must fit if the draft is local.

    Raises:
        ConfigError: they do not fit.
    """
    gpu = recipe.gpu.kind
    free = int(gpu.memory * USABLE)
    least = _need(recipe.local_draft, target, draft)
    if sum(least.values()) > free:
        raise ConfigError("gpu.name", _too_small(recipe, gpu, free, least))
    kept = draft.loaded + draft.kv_least if recipe.local_draft else 0
    alone = free - draft.loaded
    if alone < draft.kv_least:
        raise ConfigError("gpu.name", f"the draft does not fit into {gpu.name} by itself")
    return {
        "target": _tokens(free - kept - target.loaded, target.kv_per_token, recipe.target),
        "draft": _tokens(draft.kv_least if recipe.local_draft else alone, draft.kv_per_token, recipe.draft),
    }


def _need(local_draft: bool, target: Estimate, draft: Estimate) -> dict[str, int]:
    found = {}
    for role, each in (("target", target), ("draft", draft)) if local_draft else (("target", target),):
        found[f"{role} weights"] = each.weights
        found[f"{role} activations"] = each.activations
        found[f"{role} KV cache"] = each.kv_least
        found[f"{role} CUDA"] = CUDA_BYTES
    return found


def _too_small(recipe: Recipe, gpu: Gpu, free: int, least: dict[str, int]) -> str:
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in least.items())
    needed = f"{sum(least.values()) / GIB:.1f} GiB are needed on each {gpu.name}"
    return (
        f"about {needed}, {free / GIB:.1f} are planned with: {parts}. "
        f"Take more GPUs (tensor_parallel, now {recipe.target.tensor_parallel}), a smaller context or kv_sequences, "
        "or quantization"
    )


def _tokens(size: int, per_token: int, section: ModelSection) -> int:
    """Whole blocks only."""
    return size // per_token // section.tokens_per_block * section.tokens_per_block


def _weights(shape: Shape, quantization: str, parallel: int) -> int:
    """Of one rank. The embedding is on every rank; a tied output head is stored a second time."""
    linear = shape.num_hidden_layers * _layer(shape, parallel) * _LINEAR_BYTES[quantization]
    head = padded_vocab(shape, parallel) // parallel * shape.hidden_size * 2
    return int(linear) + head + shape.vocab_size * shape.hidden_size * 2


def _layer(shape: Shape, parallel: int) -> int:
    """Parameters of one layer's linear weights on one rank."""
    queries = shape.num_attention_heads // parallel
    shared = max(1, shape.num_key_value_heads // parallel)
    attention = shape.hidden_size * shape.head_dim * (2 * queries + 2 * shared)
    return attention + 3 * shape.hidden_size * (shape.intermediate_size // parallel)
