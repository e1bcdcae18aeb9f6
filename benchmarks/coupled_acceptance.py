"""How often a draft token is accepted by sampling targets: coupled noise, beside what other ways would give.

The target generates with a seed; target and draft then see the same text, position by position. Four rates: both draw
with the same noise (what is served); rejection sampling, which needs the draft's probabilities where the target is;
the draft's most probable token against the target's draw; and independent draws. Prints JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from wanspec.core.sampling import Filtered, Sampling, filtered, sample
from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.kv_cache import KVBuffer
from wanspec.engines.segments import append_segment
from wanspec.engines.torch_model import TorchModel

WEIGHTS = Path(__file__).parents[1] / "wanspec" / "models" / "weights"
PROMPTS = (
    "The weather in the mountains",
    "Programs are written by",
    "A small dog ran across the",
    "In computing, a file system",
    "The history of the city begins",
    "To install the package, run",
)
SETTINGS = (Sampling(1.0), Sampling(0.7), Sampling(1.0, 0, 0.9), Sampling(1.0, 40, 1.0))


def logits_along(model: TorchModel, tokens: NDArray[np.int32], count: int) -> NDArray[Any]:
    """Logits [count, vocab] that the last ``count`` tokens were drawn from."""
    buffer = KVBuffer(model.kv_shape, len(tokens))
    logits: NDArray[Any] = model.forward([append_segment(buffer, 0, tokens[:-1], count)]).float().numpy()
    return logits


def spread(choices: Filtered, vocab: int) -> NDArray[np.float64]:
    law = np.zeros(vocab)
    law[choices.ids] = np.exp(choices.log_probs)
    return law


def rates(
    target: TorchModel, draft: TorchModel, setting: Sampling, prompts: list[list[int]], count: int
) -> list[float]:
    """The four rates, in the order of the module's first paragraph."""
    engine, found = TorchEngine(target), []
    for seed, prompt in enumerate(prompts):
        one = Sampling(setting.temperature, setting.top_k, setting.top_p, seed)
        ids = np.asarray(prompt, dtype=np.int32)
        (result,) = engine.generate(
            [
                GenerationRequest(
                    ids,
                    count,
                    temperature=one.temperature,
                    runtime_top_k=one.top_k,
                    runtime_top_p=one.top_p,
                    seed=seed,
                )
            ]
        )
        assert isinstance(result, GenerationResult), result
        tokens = np.concatenate((ids, result.output_ids))
        theirs, ours = logits_along(target, tokens, count), logits_along(draft, tokens, count)
        for row in range(count):
            p, q = (spread(filtered(logits[row], one), target.vocab_size) for logits in (theirs, ours))
            coupled = sample(ours[row], one, len(ids) + row) == tokens[len(ids) + row]
            found.append((float(coupled), np.minimum(p, q).sum(), p[q.argmax()], (p * q).sum()))
    return [round(float(rate), 3) for rate in np.mean(found, axis=0)]


@click.command()
@click.option("--target", type=click.Path(path_type=Path, exists=True), default=WEIGHTS / "small-target")
@click.option("--draft", type=click.Path(path_type=Path, exists=True), default=WEIGHTS / "small-draft")
@click.option("--tokens", default=150, show_default=True, help="Tokens of each of the six prompts.")
@click.option("--threads", default=1, show_default=True)
def main(target: Path, draft: Path, tokens: int, threads: int) -> None:
    """Measure four settings and print JSON."""
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    models = [TorchModel.load(folder, threads=threads) for folder in (target, draft)]
    names = ("coupled", "rejection_sampling", "most_probable", "independent")
    for setting in SETTINGS:
        measured = dict(zip(names, rates(models[0], models[1], setting, prompts, tokens), strict=True))
        described = {"temperature": setting.temperature, "top_k": setting.top_k, "top_p": setting.top_p}
        click.echo(json.dumps(described | measured))


if __name__ == "__main__":
    main()
