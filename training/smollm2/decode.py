"""Batched decoding of the target in bfloat16 with a preallocated KV cache: rows of any length, refilled one by one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional

TOP = 16
"""How many of the target's log-probabilities are kept for each position."""

_CANDIDATES = 32


@dataclass(frozen=True, slots=True)
class Step:
    """The target's best next tokens: ``ids`` and ``log_probs``, both [rows, TOP], best first."""

    ids: torch.Tensor
    log_probs: torch.Tensor


class BatchDecoder:
    """A Llama with ``rows`` independent sequences of at most ``capacity`` tokens. Every row has its own length."""

    def __init__(self, folder: Path, rows: int, capacity: int) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.kv_heads: int = config["num_key_value_heads"]
        self.head_dim: int = config["hidden_size"] // self.heads
        self.eps: float = config["rms_norm_eps"]
        self.rows, self.capacity = rows, capacity
        weights = load_file(folder / "model.safetensors")
        self.embeddings32 = weights["model.embed_tokens.weight"].float()
        self.weights = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
        shape = (self.layers, rows, self.kv_heads, capacity, self.head_dim)
        self.keys = torch.zeros(shape, dtype=torch.bfloat16)
        self.values = torch.zeros(shape, dtype=torch.bfloat16)
        self.lengths = torch.zeros(rows, dtype=torch.long)
        theta = config["rope_parameters"]["rope_theta"]
        frequencies = theta ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angles = torch.outer(torch.arange(capacity).float(), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)

    @torch.inference_mode()
    def copy_prefix(self, source: int, row: int, length: int) -> None:
        """Let ``row`` start with the first ``length`` cached tokens of ``source``."""
        self.keys[:, row, :, :length] = self.keys[:, source, :, :length]
        self.values[:, row, :, :length] = self.values[:, source, :, :length]
        self.lengths[row] = length

    @torch.inference_mode()
    def append(self, row: int, tokens: list[int]) -> None:
        """Put ``tokens`` into the cache of one row (no logits)."""
        start = int(self.lengths[row])
        positions = torch.arange(start, start + len(tokens))
        mask = torch.arange(start + len(tokens))[None, :] <= positions[:, None]
        self._forward(torch.tensor([tokens]), positions[None], slice(row, row + 1), mask)
        self.lengths[row] = start + len(tokens)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> Step:
        """Append one token to each row ([rows], int64) and return what the target holds to come next."""
        mask = torch.arange(int(self.lengths.max()) + 1)[None, :] <= self.lengths[:, None]
        hidden = self._forward(tokens[:, None], self.lengths[:, None], slice(None), mask)[:, 0]
        self.lengths += 1
        return self._best(hidden)

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, rows: slice, mask: torch.Tensor) -> torch.Tensor:
        # tokens, positions [n, t]; mask [t, span] for one row, [n, span] for one token of each row.
        # Returns the normed hidden state [n, t, width].
        n, t = tokens.shape
        span = mask.shape[-1]
        index = torch.arange(self.rows)[rows, None]
        x = functional.embedding(tokens, self.weights["model.embed_tokens.weight"])
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        for layer in range(self.layers):
            name = f"model.layers.{layer}."
            h = self._norm(x, name + "input_layernorm.weight")
            q = self._linear(h, name + "self_attn.q_proj.weight").view(n, t, self.heads, self.head_dim)
            k = self._linear(h, name + "self_attn.k_proj.weight").view(n, t, self.kv_heads, self.head_dim)
            v = self._linear(h, name + "self_attn.v_proj.weight").view(n, t, self.kv_heads, self.head_dim)
            self.keys[layer][index, :, positions] = _rotate(k, cos, sin)
            self.values[layer][index, :, positions] = v
            keys, values = self.keys[layer, rows, :, :span], self.values[layer, rows, :, :span]
            a = (_attend_many if t > 1 else _attend_one)(_rotate(q, cos, sin), keys, values, mask)
            x = x + self._linear(a.reshape(n, t, -1), name + "self_attn.o_proj.weight")
            h = self._norm(x, name + "post_attention_layernorm.weight")
            gate = functional.silu(self._linear(h, name + "mlp.gate_proj.weight"))
            up = self._linear(h, name + "mlp.up_proj.weight")
            x = x + self._linear(gate * up, name + "mlp.down_proj.weight")
        return self._norm(x, "model.norm.weight")

    def _best(self, hidden: torch.Tensor) -> Step:
        logits = self._linear(hidden, "model.embed_tokens.weight")
        candidates = logits.topk(_CANDIDATES, dim=-1).indices
        # bfloat16 logits are too coarse to rank near-ties (steps of 1/8 at 20): rank the candidates in float32.
        exact = torch.einsum("nw,ncw->nc", hidden.float(), self.embeddings32[candidates])
        best = exact.topk(TOP, dim=-1)
        log_total = logits.float().logsumexp(dim=-1, keepdim=True)
        return Step(candidates.gather(1, best.indices), best.values - log_total)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self.weights[name])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weights[name], self.eps)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _attend_many(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # q [n, t, heads, d]; keys, values [n, kv_heads, span, d]; mask [t, span].
    a = functional.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, attn_mask=mask[None, None], enable_gqa=True
    )
    return a.transpose(1, 2)


def _attend_one(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # q [n, 1, heads, d]; mask [n, span]. With one query a row the library's kernel is 5 times slower than two products.
    n, kv_heads, span, d = keys.shape
    q = q.view(n * kv_heads, -1, d).transpose(1, 2) * d**-0.5
    scores = torch.bmm(keys.flatten(0, 1), q).float().view(n, kv_heads, span, -1)
    weights = scores.masked_fill(~mask[:, None, :, None], float("-inf")).softmax(dim=2).to(keys.dtype)
    return torch.bmm(weights.flatten(0, 1).transpose(1, 2), values.flatten(0, 1)).view(n, 1, -1, d)
