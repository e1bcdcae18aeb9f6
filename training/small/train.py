"""Train the target from scratch, or the draft on the target's distributions.

python -m training.small.train --data data/small --out target --shape target --adamw 20 --muon 30
python -m training.small.train --data data/small --out draft --shape draft --muon 4 --distil 13 --teacher target
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from training.common.muon import Muon
from training.common.schedule import cosine_until
from training.small.shape import new_model, save

logger = logging.getLogger(__name__)

BATCH, WINDOW = 8, 256
"""Sequences of a step, and tokens of each."""

_MATRIX_RATE, _OTHER_RATE, _ADAMW_RATE = 0.015, 2e-3, 1e-3

Loss = Callable[[torch.Tensor], torch.Tensor]
"""From windows [BATCH, WINDOW + 1] to the loss in nats a token."""


def load_tokens(path: Path) -> torch.Tensor:
    """Return the tokens of a file of ``tokenize``, int64."""
    return load_file(path)["tokens"].long()


def windows(tokens: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
    """Yield batches [BATCH, WINDOW + 1] from random places, for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(tokens) - WINDOW - 1, (BATCH, 1), generator=generator)
        yield tokens[starts + torch.arange(WINDOW + 1)]


def cross_entropy(model: LlamaForCausalLM) -> Loss:
    """Return the loss against the text."""

    def loss(batch: torch.Tensor) -> torch.Tensor:
        logits = model(batch[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    return loss


def distillation(model: LlamaForCausalLM, teacher: LlamaForCausalLM) -> Loss:
    """Return the Kullback-Leibler divergence from the teacher's distribution to the model's."""

    def loss(batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher(batch[:, :-1], use_cache=False).logits.log_softmax(dim=-1)
        own = model(batch[:, :-1], use_cache=False).logits.log_softmax(dim=-1)
        return functional.kl_div(own.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="batchmean")

    return loss


def phase(name: str, stream: Iterator[torch.Tensor], loss: Loss, step: Callable[[float], None], minutes: float) -> None:
    """Train for ``minutes`` with ``step(factor of the learning rate)`` after each batch."""
    mean, started = 0.0, time.monotonic()
    for index, rate in enumerate(cosine_until(minutes)):
        value = loss(next(stream))
        value.backward()  # type: ignore[no-untyped-call]
        step(rate)
        mean += (value.item() - mean) / min(index + 1, 50)
        if index % 100 == 0:
            speed = (index + 1) * BATCH * WINDOW / (time.monotonic() - started)
            logger.info("%s: step %d loss %.3f, %.0f tokens/s", name, index, mean, speed)


def adamw_step(model: LlamaForCausalLM) -> Callable[[float], None]:
    """Return a step of AdamW over all parameters."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_ADAMW_RATE, betas=(0.9, 0.95), weight_decay=0.1)

    def step(rate: float) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * _ADAMW_RATE
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def muon_step(model: LlamaForCausalLM) -> Callable[[float], None]:
    """Return a step of Muon, with AdamW for embeddings and norms."""
    embeddings = [model.model.embed_tokens.weight]
    return Muon(model.parameters(), matrix_rate=_MATRIX_RATE, other_rate=_OTHER_RATE, embeddings=embeddings).step


@torch.inference_mode()
def validation_loss(model: LlamaForCausalLM, tokens: torch.Tensor) -> float:
    """Return the cross-entropy in nats a token over whole windows of ``tokens``."""
    whole = tokens[: len(tokens) // (WINDOW + 1) * (WINDOW + 1)].view(-1, WINDOW + 1)
    losses = [cross_entropy(model)(batch).item() * len(batch) for batch in whole.split(BATCH)]  # type: ignore[no-untyped-call]
    return sum(losses) / len(whole)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of tokens")
    parser.add_argument("--out", type=Path, required=True, help="Hugging Face folder to write")
    parser.add_argument("--shape", choices=("target", "draft"), required=True)
    parser.add_argument("--adamw", type=float, default=0.0, help="minutes of AdamW on the text")
    parser.add_argument("--muon", type=float, default=0.0, help="minutes of Muon on the text, after that")
    parser.add_argument("--distil", type=float, default=0.0, help="minutes of Muon on the teacher, after that")
    parser.add_argument("--teacher", type=Path, help="folder of the teacher")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="3 seconds for each phase asked for")
    options = parser.parse_args()
    if options.distil and options.teacher is None:
        parser.error("--distil needs --teacher")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = new_model(options.shape)
    stream = windows(load_tokens(options.data / "train.safetensors"), options.seed)
    adamw, muon, distil = (
        0.05 * bool(m) if options.smoke else m for m in (options.adamw, options.muon, options.distil)
    )
    if adamw:
        phase("AdamW", stream, cross_entropy(model), adamw_step(model), adamw)
    if muon:
        phase("Muon", stream, cross_entropy(model), muon_step(model), muon)
    if distil:
        teacher = AutoModelForCausalLM.from_pretrained(options.teacher, dtype=torch.float32)
        phase("distillation", stream, distillation(model, teacher), muon_step(model), distil)
    save(model, options.data / "tokenizer", options.out)
    for name in ("union", "austen"):
        held = load_tokens(options.data / f"{name}.safetensors")
        logger.info("%s: %.3f nats a token", name, validation_loss(model, held[: 60 * (WINDOW + 1)]))


if __name__ == "__main__":
    main()
