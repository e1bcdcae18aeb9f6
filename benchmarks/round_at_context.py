"""What a verification round costs after a cached prefix, against a bare forward of the same model and shapes.

The bare forward is that of transformers (a prefilled DynamicCache, SDPA attention, cropped back outside the timed
part), or, with ``--bare own``, that of the engine's own model on a buffer with the prefix: the same weights and
kernels, so that the ratio is what the engine adds. Either is given the round's new tokens and takes the largest logits.
The round is the whole engine: validation, prefix reuse, forward, acceptance, log-probs.
Both run in turn in one process, and each pair of neighbours in time gives one ratio, so that drift of the machine
cancels. Prints JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.kv_cache import KVBuffer
from wanspec.engines.segments import append_segment
from wanspec.engines.torch_model import DTYPES, TorchModel


def smollm2_135m() -> LlamaForCausalLM:
    """SmolLM2-135M's shape with random weights: a round costs the same whatever the weights are."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


class BareRound:
    """transformers alone."""

    def __init__(self, model: LlamaForCausalLM, prompt: NDArray[np.int32], new: NDArray[np.int32]) -> None:
        self._model, self._context = model, len(prompt)
        self._cache = DynamicCache(config=model.config)
        self._new = torch.from_numpy(new.astype(np.int64))[None]
        with torch.inference_mode():
            ids = torch.from_numpy(prompt.astype(np.int64))[None]
            model(input_ids=ids, past_key_values=self._cache, logits_to_keep=1)

    def __call__(self) -> float:
        with torch.inference_mode():
            started = time.perf_counter()
            logits = self._model(input_ids=self._new, past_key_values=self._cache).logits
            logits.argmax(dim=-1).tolist()
            elapsed = time.perf_counter() - started
            self._cache.crop(-self._new.shape[1])
        assert self._cache.get_seq_length() == self._context, "the cache was not restored"
        return elapsed * 1e3


class OwnRound:
    """The forward of the engine's model, alone."""

    def __init__(self, model: TorchModel, prompt: NDArray[np.int32], new: NDArray[np.int32]) -> None:
        self._model, self._context, self._new = model, len(prompt), new
        self._buffer = KVBuffer(model.kv_shape, len(prompt) + len(new))
        model.forward([append_segment(self._buffer, 0, prompt, 1)])

    def __call__(self) -> float:
        started = time.perf_counter()
        segment = append_segment(self._buffer, self._context, self._new, len(self._new))
        self._model.forward([segment]).argmax(dim=-1).tolist()
        return (time.perf_counter() - started) * 1e3


class EngineRound:
    """Our engine: a request whose prefix but for one token is cached, with drafts."""

    def __init__(self, model: TorchModel, prompt: NDArray[np.int32], new: NDArray[np.int32], log_probs: bool) -> None:
        self._engine = TorchEngine(model, max_draft_len=len(new))
        drafts = new[1:]
        full = np.concatenate((prompt, new[:1]))
        self._request = GenerationRequest(full, len(drafts) + 1, drafts, return_log_probs=log_probs)
        self._reused = -(-len(prompt) // 32)
        self._run()

    def _run(self) -> GenerationResult:
        (result,) = self._engine.generate([self._request])
        assert isinstance(result, GenerationResult), result
        return result

    def __call__(self) -> float:
        started = time.perf_counter()
        result = self._run()
        elapsed = time.perf_counter() - started
        assert result.reused_blocks == self._reused, "the prefix was not reused"
        return elapsed * 1e3


def measure(bare: Callable[[], float], engine: Callable[[], float], rounds: int) -> dict[str, object]:
    for _ in range(3):
        bare(), engine()
    pairs = [(bare(), engine()) for _ in range(rounds)]
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    return {
        "bare_ms": _spread([theirs for theirs, _ in pairs]),
        "engine_ms": _spread([ours for _, ours in pairs]),
        "ratio": _spread(ratios),
    }


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"p25": round(low, 3), "p50": round(middle, 3), "p75": round(high, 3)}


@click.command()
@click.option(
    "--model", type=click.Path(path_type=Path, exists=True), help="Model folder; random SmolLM2-135M if not given."
)
@click.option("--context", default=1500, show_default=True, help="Cached tokens.")
@click.option("--new-tokens", default=3, show_default=True, help="Tokens of a round: one of the prefix and the drafts.")
@click.option("--rounds", default=40, show_default=True)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(sorted(DTYPES)))
@click.option("--threads", default=1, show_default=True)
@click.option(
    "--bare", "kind_of_bare", default="transformers", show_default=True, type=click.Choice(("transformers", "own"))
)
@click.option("--log-probs/--no-log-probs", default=True, show_default=True, help="Ask for log-probabilities.")
def main(
    model: Path | None,
    context: int,
    new_tokens: int,
    rounds: int,
    dtype: str,
    threads: int,
    kind_of_bare: str,
    log_probs: bool,
) -> None:
    """Measure one setting and print JSON."""
    torch.set_num_threads(threads)
    kind = DTYPES[dtype]
    if model is None:
        bare_model, served = smollm2_135m().to(kind), smollm2_135m().to(kind)
    else:
        bare_model = AutoModelForCausalLM.from_pretrained(str(model), dtype=kind, attn_implementation="sdpa")
        served = AutoModelForCausalLM.from_pretrained(str(model), dtype=kind)
    tokens = np.random.default_rng(0).integers(0, bare_model.config.vocab_size, context + new_tokens).astype(np.int32)
    prompt, new = tokens[:context], tokens[context:]
    own = TorchModel(served)
    bare = OwnRound(own, prompt, new) if kind_of_bare == "own" else BareRound(bare_model.eval(), prompt, new)
    engine = EngineRound(own, prompt, new, log_probs)
    settings = {
        "model": str(model.name if model else "random, SmolLM2-135M's shape"),
        "context": context,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "dtype": dtype,
        "threads": threads,
        "bare": kind_of_bare,
        "log_probs": log_probs,
    }
    click.echo(json.dumps(settings | measure(bare, engine, rounds), indent=2))


if __name__ == "__main__":
    main()
