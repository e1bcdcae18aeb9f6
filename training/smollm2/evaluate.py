"""Measure how often the draft's tokens are the target's, on the held-out prompts or on prompts of your own.

python -m training.smollm2.evaluate --layers layers
python -m training.smollm2.evaluate --prompt "Why is the sky blue?"
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.smollm2.draft import load_draft
from training.smollm2.heldout import HELD_OUT, Turn
from wanspec.models import resolve
from wanspec.models.catalog import WEIGHTS

Answer = tuple[list[int], list[int]]
"""Token ids of a prompt and of the target's greedy answer."""

_BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@torch.inference_mode()
def greedy_answers(conversations: Sequence[Sequence[Turn]], tokens: int) -> list[Answer]:
    """Return the target's greedy answers in float32, of up to ``tokens`` tokens."""
    folder = resolve("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for turns in conversations:
        messages = [{"role": role, "content": text} for role, text in turns]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        answers.append((prompt, output[0, len(prompt) :].tolist()))
    return answers


@torch.inference_mode()
def measure(layers: Path, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the match of the draft in ``layers``, teacher-forced along the answers.

    ``match``: share of positions whose target token is among the draft's best 1, 2, 3, 4. ``tokens_per_round``: tokens
    of a round of greedy speculative decoding at k = 1, 2, 4, bonus token included. ``calibration``: by the draft's
    highest probability, its mean and how often it was right.
    """
    model = load_draft(resolve("smollm2-135m-instruct"), layers).eval()
    ranks, probabilities, hits_by_answer = [], [], []
    for prompt, answer in answers:
        logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        truth = torch.tensor(answer)
        rank = (logits > logits.gather(1, truth[:, None])).sum(dim=-1)
        ranks.append(rank)
        hits_by_answer.append((rank == 0).tolist())
        probabilities.append(logits.softmax(dim=-1).amax(dim=-1))
    rank, probability = torch.cat(ranks), torch.cat(probabilities)
    return {
        "tokens": len(rank),
        "match": [round((rank < best).float().mean().item(), 3) for best in (1, 2, 3, 4)],
        "match_by_prompt": [round(sum(hits) / len(hits), 2) for hits in hits_by_answer],
        "tokens_per_round": {str(k): round(tokens_per_round(hits_by_answer, k), 2) for k in (1, 2, 4)},
        "calibration": _calibration(probability, rank == 0),
    }


def tokens_per_round(hits_by_answer: Sequence[Sequence[bool]], k: int) -> float:
    """Return the mean tokens of a round with k drafts; ``hits`` tell where the draft's best token is the target's."""
    rounds = total = 0
    for hits in hits_by_answer:
        position = 0
        while position < len(hits):
            accepted = 0
            while accepted < k and position + accepted < len(hits) and hits[position + accepted]:
                accepted += 1
            position += accepted + 1
            rounds += 1
        total += len(hits)
    return total / max(rounds, 1)


def _calibration(probability: torch.Tensor, hit: torch.Tensor) -> list[dict[str, float]]:
    table = []
    for low, high in itertools.pairwise(_BINS):
        chosen = (probability > low) & (probability <= high)
        if chosen.any():
            mean, right = probability[chosen].mean().item(), hit[chosen].float().mean().item()
            table.append({"probability": round(mean, 2), "match": round(right, 2), "count": int(chosen.sum())})
    return table


def main() -> None:
    """Run the command line; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=Path, action="append", help="folder of layers; may be given several times")
    parser.add_argument("--prompt", action="append", help="a prompt of your own instead of the held-out ones")
    parser.add_argument("--tokens", type=int, default=72, help="longest answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="two prompts, eight tokens")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    conversations = [(("user", text),) for text in options.prompt] if options.prompt else list(HELD_OUT)
    answers = greedy_answers(
        conversations[:2] if options.smoke else conversations, 8 if options.smoke else options.tokens
    )
    folders = options.layers or [WEIGHTS / "smollm2-draft"]
    print(json.dumps({str(folder): measure(folder, answers) for folder in folders}, indent=2))


if __name__ == "__main__":
    main()
