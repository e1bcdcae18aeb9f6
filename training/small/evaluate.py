"""Measure the small pair on the held-out text.

python -m training.small.evaluate --data data/small --target small-target --draft small-draft
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from training.small.train import BATCH, WINDOW, load_tokens
from wanspec.models import resolve


@torch.inference_mode()
def agreement(target: torch.nn.Module, draft: torch.nn.Module, tokens: torch.Tensor) -> dict[str, float]:
    """Return how well ``draft`` predicts ``target`` over windows of ``tokens``.

    ``top1`` and ``top4``: how often the target's best token is among the draft's best 1 and 4; ``overlap``: the sum of
    min(p, q); the cross-entropy of both in nats a token.
    """
    whole = tokens[: len(tokens) // (WINDOW + 1) * (WINDOW + 1)].view(-1, WINDOW + 1)
    sums = torch.zeros(5)
    for batch in whole.split(BATCH):  # type: ignore[no-untyped-call]
        p, q = (model(batch[:, :-1], use_cache=False).logits.log_softmax(dim=-1) for model in (target, draft))
        best = p.argmax(dim=-1, keepdim=True)
        rank = (q > q.gather(-1, best)).sum(dim=-1)
        truth = batch[:, 1:, None]
        sums += torch.stack(
            [
                (rank == 0).sum(),
                (rank < 4).sum(),
                torch.minimum(p, q).exp().sum(),
                -p.gather(-1, truth).sum(),
                -q.gather(-1, truth).sum(),
            ]
        )
    names = ("top1", "top4", "overlap", "target_nats", "draft_nats")
    return {name: round(value, 3) for name, value in zip(names, (sums / whole[:, 1:].numel()).tolist(), strict=True)}


def main() -> None:
    """Run the command line; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of tokens")
    parser.add_argument("--target", default="small-target", help="name or folder")
    parser.add_argument("--draft", default="small-draft", help="name or folder")
    parser.add_argument("--windows", type=int, default=100, help="windows of 257 tokens for each text")
    parser.add_argument("--smoke", action="store_true", help="8 windows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = AutoModelForCausalLM.from_pretrained
    target, draft = (load(resolve(name), dtype=torch.float32) for name in (options.target, options.draft))
    size = (8 if options.smoke else options.windows) * (WINDOW + 1)
    texts = {name: load_tokens(options.data / f"{name}.safetensors")[:size] for name in ("union", "austen")}
    print(json.dumps({name: agreement(target, draft, tokens) for name, tokens in texts.items()}, indent=2))


if __name__ == "__main__":
    main()
