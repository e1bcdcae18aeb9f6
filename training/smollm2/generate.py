"""Write the training data: conversations of the target with its best 16 log-probabilities, in shards.

python -m training.smollm2.generate --out data --minutes 45
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from training.smollm2.conversations import Conversation, Planner
from training.smollm2.decode import TOP, BatchDecoder
from training.smollm2.shards import write_shard
from wanspec.models import resolve

logger = logging.getLogger(__name__)


class Generator:
    """Keeps every row of a decoder busy; a finished conversation is replaced by a new one at once."""

    def __init__(self, folder: Path, rows: int, capacity: int, answer_limit: int, seed: int) -> None:
        self._planner = Planner(Tokenizer.from_file(str(folder / "tokenizer.json")), seed, answer_limit)
        self._random = random.Random(seed + 1)
        self._noise = torch.Generator().manual_seed(seed + 2)
        # One row more than asked for: the last one keeps the system turn that all conversations start with.
        self._decoder = BatchDecoder(folder, rows + 1, capacity)
        self._decoder.append(rows, list(self._planner.system))
        self._rows = [_Row(self._decoder, row, self._planner) for row in range(rows)]

    def run(self, deadline: float, wanted: int) -> list[Conversation]:
        """Decode until ``wanted`` learned tokens are in finished conversations or time.monotonic() is ``deadline``."""
        done: list[Conversation] = []
        learned = 0
        while learned < wanted and time.monotonic() < deadline:
            for row in self._rows:
                if row.finished:
                    done.append(row.conversation)
                    learned += len(row.conversation.learned)
                    row.start()
            self._step()
        return done

    def _step(self) -> None:
        last = self._decoder.rows - 1
        tokens = torch.tensor([row.pending for row in self._rows] + [0])
        best = self._decoder.step(tokens)
        self._decoder.lengths[last] -= 1
        temperatures = torch.tensor([[max(row.temperature, 1e-4)] for row in self._rows])
        noise = -torch.empty(len(self._rows), TOP).exponential_(generator=self._noise).log()
        choice = (best.log_probs[:last] / temperatures + noise).argmax(dim=-1)
        greedy = torch.tensor([row.temperature == 0 for row in self._rows])
        choice[greedy] = 0
        chosen = best.ids[:last].gather(1, choice[:, None])[:, 0].tolist()
        ids, log_probs = best.ids.tolist(), best.log_probs.tolist()
        for index, row in enumerate(self._rows):
            row.take(chosen[index], ids[index], log_probs[index])


class _Row:
    """One row: which segment of its conversation it is in, and the token to be fed next."""

    def __init__(self, decoder: BatchDecoder, row: int, planner: Planner) -> None:
        self._decoder, self._row, self._planner = decoder, row, planner
        self.start()

    def start(self) -> None:
        self.conversation = self._planner.plan()
        self.finished = False
        self._segment, self._written = -1, 0
        system = self._planner.system
        self.conversation.tokens = list(system)
        self._decoder.copy_prefix(self._decoder.rows - 1, self._row, len(system))
        self.pending = 0
        self._advance([])

    @property
    def temperature(self) -> float:
        return self.conversation.segments[self._segment].temperature

    def take(self, token: int, ids: list[int], log_probs: list[float]) -> None:
        """Add the token that the target wrote; ``ids`` and ``log_probs`` are its best candidates there."""
        if self.finished:
            return
        segment = self.conversation.segments[self._segment]
        self._written += 1
        if segment.learn:
            self.conversation.learned.append(len(self.conversation.tokens))
            self.conversation.top_ids.append(ids)
            self.conversation.top_log_probs.append(log_probs)
        self.conversation.tokens.append(token)
        if token == self._planner.end:
            self._advance([token])
        elif self._written >= segment.limit or len(self.conversation.tokens) >= self._decoder.capacity - 2:
            self.finished = True
        else:
            self.pending = token

    def _advance(self, fed: list[int]) -> None:
        # Feeds ``fed`` and the given segments that come next, but for the last token, which the next step feeds.
        waiting = list(fed)
        segments = self.conversation.segments
        self._segment += 1
        while self._segment < len(segments) and segments[self._segment].given:
            waiting += segments[self._segment].given
            self.conversation.tokens += segments[self._segment].given
            self._segment += 1
        room = self._decoder.capacity - 2 - len(self.conversation.tokens)
        if self._segment >= len(segments) or room < 32:
            self.finished, self._segment = True, len(segments) - 1
            return
        self._decoder.append(self._row, waiting[:-1])
        self.pending, self._written = waiting[-1], 0


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--minutes", type=float, default=45.0, help="time to spend")
    parser.add_argument("--rows", type=int, default=64, help="conversations decoded at once")
    parser.add_argument("--answer", type=int, default=160, help="longest answer in tokens")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a tiny run that shows that it works")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    rows, answer, minutes, wanted = options.rows, options.answer, options.minutes, 20_000
    if options.smoke:
        rows, answer, minutes, wanted = 8, 24, 0.3, 300
    generator = Generator(resolve("smollm2-135m-instruct"), rows, 384, answer, options.seed)
    deadline, started, total, shard = time.monotonic() + 60 * minutes, time.monotonic(), 0, 0
    while time.monotonic() < deadline:
        done = generator.run(deadline, wanted)
        write_shard(options.out / f"shard-{options.seed}-{shard:04d}.safetensors", done)
        total += sum(len(conversation.learned) for conversation in done)
        shard += 1
        logger.info("%d shards, %d tokens, %.0f a second", shard, total, total / (time.monotonic() - started))
        if options.smoke:
            break


if __name__ == "__main__":
    main()
