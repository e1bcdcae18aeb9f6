"""Tokens per second of sequences generated together, against one at a time, on the engine of the contract.

Both run in turn in one process, and each pair of neighbours in time gives one ratio, so that drift of the machine
cancels. With ``--drafts`` every request is a verification of that many right drafts instead of a generation. Prints
JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import click
import numpy as np

from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.torch_model import DTYPES, TorchModel

SMALL_TARGET = Path(__file__).parents[1] / "wanspec" / "models" / "weights" / "small-target"


def run(engine: TorchEngine, requests: list[GenerationRequest]) -> float:
    """Tokens per second of requests that run as one batch."""
    started = time.perf_counter()
    results = engine.generate(requests)
    elapsed = time.perf_counter() - started
    tokens = 0
    for result in results:
        assert isinstance(result, GenerationResult), result
        tokens += len(result.output_ids)
    return tokens / elapsed


def verifications(engine: TorchEngine, requests: list[GenerationRequest], drafts: int) -> list[GenerationRequest]:
    """Requests to verify the tokens that ``requests`` give; their prompts are cached."""
    made = []
    for request, result in zip(requests, engine.generate(requests), strict=True):
        assert isinstance(result, GenerationResult), result
        made.append(GenerationRequest(request.input_ids, drafts + 1, result.output_ids[:drafts]))
    return made


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), default=SMALL_TARGET, help="Model folder.")
@click.option("--sequences", default=8, show_default=True)
@click.option("--prompt", default=64, show_default=True, help="Tokens of each prompt.")
@click.option("--tokens", default=48, show_default=True, help="Tokens generated of each sequence.")
@click.option("--drafts", default=0, show_default=True, help="Verify so many drafts instead.")
@click.option("--sampling/--greedy", default=False, show_default=True, help="Temperature 0.7, top-k 40, top-p 0.9.")
@click.option("--rounds", default=10, show_default=True)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(sorted(DTYPES)))
@click.option("--threads", default=1, show_default=True)
def main(
    model: Path,
    sequences: int,
    prompt: int,
    tokens: int,
    drafts: int,
    sampling: bool,
    rounds: int,
    dtype: str,
    threads: int,
) -> None:
    """Measure one setting and print JSON."""
    loaded = TorchModel.load(model, dtype=dtype, threads=threads)
    engine = TorchEngine(loaded, max_draft_len=max(drafts, 1), kv_tokens=(2 * sequences + 4) * loaded.context)
    options: dict[str, float] = {"temperature": 0.7, "runtime_top_p": 0.9} if sampling else {}
    top_k = 40 if sampling else None
    choose = np.random.default_rng(0)
    requests = [
        GenerationRequest(
            choose.integers(0, loaded.vocab_size, prompt).astype(np.int32),
            tokens,
            runtime_top_k=top_k,
            seed=seed,
            temperature=options.get("temperature"),
            runtime_top_p=options.get("runtime_top_p"),
        )
        for seed in range(sequences)
    ]
    if drafts:
        requests = verifications(engine, requests, drafts)
    together, alone = [], []
    for turn in range(rounds + 1):
        pair = run(engine, requests), run(engine, [requests[turn % sequences]])
        if turn:  # the first warms caches up
            together.append(pair[0])
            alone.append(pair[1])
    ratios = sorted(many / one for many, one in zip(together, alone, strict=True))
    settings = {
        "model": model.name,
        "sequences": sequences,
        "prompt": prompt,
        "tokens": drafts + 1 if drafts else tokens,
        "drafts": drafts,
        "sampling": sampling,
        "rounds": rounds,
        "dtype": dtype,
        "threads": threads,
    }
    measured = {
        "together_tokens_per_s": round(statistics.median(together), 1),
        "alone_tokens_per_s": round(statistics.median(alone), 1),
        "ratio": {
            "least": round(ratios[0], 2),
            "p50": round(statistics.median(ratios), 2),
            "most": round(ratios[-1], 2),
        },
    }
    click.echo(json.dumps(settings | measured, indent=2))


if __name__ == "__main__":
    main()
