"""Train the draft's layers on the conversations of ``generate``.

python -m training.smollm2.train --data data --out layers --minutes 50
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from training.common.muon import Muon
from training.common.schedule import cosine_until
from training.smollm2.draft import draft_from_target, load_draft, save_layers
from training.smollm2.loss import Outcome, sampled_distillation
from training.smollm2.shards import Example, read_shards
from wanspec.models import resolve
from wanspec.models.catalog import WEIGHTS

logger = logging.getLogger(__name__)

_BUCKET = 8


def batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Yield batches for ever, each of examples of about the same length, every example once an epoch."""
    source = random.Random(seed)
    order = list(examples)
    while True:
        source.shuffle(order)
        for start in range(0, len(order), size * _BUCKET):
            bucket = sorted(order[start : start + size * _BUCKET], key=lambda example: len(example.tokens))
            groups = [bucket[index : index + size] for index in range(0, len(bucket), size)]
            source.shuffle(groups)
            yield from groups


def outcome(model: LlamaForCausalLM, batch: Sequence[Example], negatives: int, generator: torch.Generator) -> Outcome:
    """Return loss and match of one batch, its layers computed in bfloat16."""
    # Padding stands on the right, so causal attention needs no mask.
    tokens = pad_sequence([example.tokens for example in batch], batch_first=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    # The hidden state at p - 1 predicts the token at p.
    learned = torch.cat([hidden[row, example.positions - 1] for row, example in enumerate(batch)])
    return sampled_distillation(
        learned.to(torch.bfloat16),
        model.model.embed_tokens.weight,
        torch.cat([example.top_ids for example in batch]),
        torch.cat([example.top_log_probs for example in batch]),
        negatives,
        generator,
    )


@torch.inference_mode()
def validation_match(model: LlamaForCausalLM, examples: Sequence[Example]) -> float:
    """Return the share of learned positions where the draft's best token of the whole vocabulary is the teacher's."""
    right = total = 0
    for example in examples:
        hidden = model.model(input_ids=example.tokens[None], use_cache=False).last_hidden_state[0]
        best = model.lm_head(hidden[example.positions - 1]).argmax(dim=-1)
        right += int((best == example.top_ids[:, 0]).sum())
        total += len(best)
    return right / max(total, 1)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json and layers.safetensors")
    parser.add_argument("--start", type=Path, default=WEIGHTS / "smollm2-draft", help="layers to continue from")
    parser.add_argument("--from-target", action="store_true", help="start from the target's first layers instead")
    parser.add_argument("--minutes", type=float, default=50.0)
    parser.add_argument("--batch", type=int, default=16, help="conversations a step")
    parser.add_argument(
        "--negatives", type=int, default=3072, help="random rows that stand for the rest of the softmax"
    )
    parser.add_argument("--matrix-rate", type=float, default=0.008, help="Muon's learning rate")
    parser.add_argument("--norm-rate", type=float, default=1e-3, help="AdamW's learning rate, for the norms")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a run of a few steps that shows that it works")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    target = resolve("smollm2-135m-instruct")
    model = draft_from_target(target, 3) if options.from_target else load_draft(target, options.start)
    examples = read_shards(options.data)
    # Conversations are independent of each other, so those at the end serve for validation.
    held = min(48, max(1, len(examples) // 20))
    train, validation = examples[:-held], examples[-held:]
    logger.info("%d conversations, %d learned tokens", len(train), sum(len(example.positions) for example in train))
    run(model, train, validation, options)


def run(
    model: LlamaForCausalLM, train: Sequence[Example], validation: Sequence[Example], options: argparse.Namespace
) -> None:
    """Train for the minutes asked for; keep the layers in ``options.out`` as good as the best validation so far."""
    optimizer = Muon(model.parameters(), matrix_rate=options.matrix_rate, other_rate=options.norm_rate)
    generator = torch.Generator().manual_seed(options.seed)
    stream = batches(train, options.batch, options.seed)
    best = validation_match(model, validation)
    logger.info("validation match before: %.3f", best)
    started = reported = time.monotonic()
    learned, loss, match = 0, 0.0, 0.0
    for step, rate in enumerate(cosine_until(0.2 if options.smoke else options.minutes)):
        batch = next(stream)
        result = outcome(model, batch, options.negatives, generator)
        result.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(rate)
        learned += sum(len(example.positions) for example in batch)
        loss += (result.loss.item() - loss) / min(step + 1, 50)
        match += (result.match - match) / min(step + 1, 50)
        if step % 20 == 0:
            speed = learned / (time.monotonic() - started)
            logger.info("step %d rate %.3f loss %.3f match %.3f, %.0f tokens/s", step, rate, loss, match, speed)
        if time.monotonic() - reported > 240:
            reported, best = time.monotonic(), _keep_if_better(model, validation, best, options.out)
    _keep_if_better(model, validation, best, options.out)


def _keep_if_better(model: LlamaForCausalLM, validation: Sequence[Example], best: float, out: Path) -> float:
    match = validation_match(model, validation)
    logger.info("validation match: %.3f (best before %.3f)", match, best)
    if match >= best or not out.exists():
        save_layers(model, out)
    return max(match, best)


if __name__ == "__main__":
    main()
