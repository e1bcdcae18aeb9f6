"""How well the log-probability of the target's own token tells its entropy (`wanspec.core.estimators`).

Greedy text of a target; at each position the true entropy beside the estimate from the best token's log-probability.
Prints one JSON object a target: entropy of the other tokens (T in docs/architecture.md), the estimate's error, and how
often it falls on the same side of phi as the truth.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from wanspec.core.estimators import TAIL_ENTROPY_NATS, entropy_from_log_prob
from wanspec.models import resolve

PROMPTS = {
    "small-target": (
        "The people of the United States",
        "She looked at him with an expression of",
        "The treaty with Great Britain",
        "My fellow citizens, we meet today",
    ),
    "smollm2-135m-instruct": (
        "Write a short story about a lighthouse keeper.",
        "Explain how a bicycle stays upright.",
        "Give me a recipe for lentil soup.",
        "Write a Python function that reverses a list.",
    ),
}


def main() -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100, help="tokens a prompt")
    parser.add_argument("--phi", type=float, default=0.5, help="nats")
    arguments = parser.parse_args()
    for name, prompts in PROMPTS.items():
        rows = np.concatenate([_log_probs(name, prompt, arguments.tokens) for prompt in prompts])
        sys.stdout.write(json.dumps({"benchmark": "entropy_estimate", "target": name} | _compare(rows, arguments.phi)))
        sys.stdout.write("\n")
    return 0


@torch.inference_mode()
def _log_probs(name: str, prompt: str, tokens: int) -> NDArray[np.float64]:
    folder = resolve(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template).input_ids
    output = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    logits = model(output).logits[0, ids.shape[1] - 1 : -1].double()
    rows: NDArray[np.float64] = torch.log_softmax(logits, -1).numpy()
    return rows


def _compare(rows: NDArray[np.float64], phi: float) -> dict[str, object]:
    probabilities = np.exp(rows)
    truth = -(probabilities * rows).sum(1)
    best = rows.max(1)
    estimate = np.array([entropy_from_log_prob(value) for value in best])
    p = np.exp(best)
    binary = -p * best - (1 - p) * np.log1p(-np.minimum(p, 1 - 1e-12))
    tail = (truth - binary) / np.maximum(1 - p, 1e-12)
    open_ = p < 0.99
    return {
        "positions": len(truth),
        "tail_nats_median": round(float(np.median(tail[open_])), 3),
        "tail_nats_weighted": round(float(((1 - p) * tail).sum() / (1 - p).sum()), 3),
        "tail_nats_assumed": TAIL_ENTROPY_NATS,
        "entropy_mean": round(float(truth.mean()), 3),
        "error_mean": round(float((estimate - truth).mean()), 3),
        "error_rms": round(float(np.sqrt(((estimate - truth) ** 2).mean())), 3),
        "correlation": round(float(np.corrcoef(estimate, truth)[0, 1]), 3),
        "phi": phi,
        "share_above_phi": round(float((truth > phi).mean()), 3),
        "same_side_of_phi": round(float(((truth > phi) == (estimate > phi)).mean()), 3),
        "same_side_of_phi_lower_bound": round(float(((truth > phi) == (binary > phi)).mean()), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
