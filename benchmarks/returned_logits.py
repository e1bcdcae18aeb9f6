"""What a round costs where the target returns its logits and the controller draws: bytes and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from wanspec.core.options import PLAIN
from wanspec.core.sampling import Sampling
from wanspec.triton.tensorrt_llm import by_logits

COLUMNS = (4_096, 49_152, 128_256, 152_064)
DRAFTS = (4, 8)
SETTINGS = {
    "temperature 1": Sampling(1.0, seed=7),
    "top-p 0.9": Sampling(0.7, 0, 0.9, 7),
    "top-k 40": Sampling(0.7, 40, 1.0, 7),
}
REPEATS = 15


def median_ms(function: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function()
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)


def main() -> None:
    generator = np.random.default_rng(0)
    prefix = np.arange(500, dtype=np.int32)
    print("columns  k  MB to the engine  MB back  setting        one-hot ms  draw ms")
    for columns in COLUMNS:
        for k in DRAFTS:
            logits = (generator.standard_normal((k + 1, columns)) * 3).astype(np.float32)
            for name, sampling in SETTINGS.items():
                drafts: tuple[int, ...] = ()
                for _ in range(k):  # drafts that are accepted, so that every row is looked at
                    chosen = by_logits.choose(logits, prefix, drafts, sampling, PLAIN, log_probs=False)
                    drafts = tuple(chosen.tokens)
                built = median_ms(partial(by_logits.logits_inputs, drafts, len(prefix), columns))
                draw = partial(by_logits.choose, logits, prefix, drafts, sampling, PLAIN, log_probs=False)
                drawn = median_ms(draw)
                sizes = (k * columns * 4 / 1e6, (k + 1) * columns * 4 / 1e6)
                print(f"{columns:7} {k:2}  {sizes[0]:16.2f}  {sizes[1]:7.2f}  {name:13}  {built:10.2f}  {drawn:7.2f}")


if __name__ == "__main__":
    main()
