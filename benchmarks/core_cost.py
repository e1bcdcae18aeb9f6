"""Microseconds of the state machines alone, in this process: no servers, no threads, engines that cost nothing."""

from __future__ import annotations

import time
from typing import Any

from wanspec.core.config import Fingerprint, WorkerConfig
from wanspec.core.drafting import SequenceLeaves
from wanspec.core.events import Expand, Expanded, LinkOpened, Send, Steered, WorkerAction
from wanspec.core.link import stream_instance
from wanspec.core.messages import Commit, Drafting, Frame, Header, Hello, Open
from wanspec.core.prefix import PrefixHashes
from wanspec.core.wire import decode, encode
from wanspec.core.worker import Worker
from wanspec.engines.zero import ZeroDraftEngine, ZeroModel

_PRINT = Fingerprint(b"t" * 32, 4096, "zero")
_INSTANCE = stream_instance(b"controller-uuid0", 0)
_SENDER = int.from_bytes(_INSTANCE[:8], "little")
_PASSES = 600
_LEAVES, _DEPTH = 16, 12


def core_row() -> dict[str, Any]:
    """Measure; return a JSON row."""
    frame, passes = _codec_us(), {sequences: _worker_us(sequences) for sequences in (1, 4, 16, 64, 256)}
    each = ", ".join(f"{own['own_us']:.0f} with {count}" for count, own in passes.items())
    verdict = (
        f"The worker's own part of a pass of {_LEAVES} leaves, with one commit, in microseconds by sequences: {each}. "
        f"A frame of drafts of {frame['bytes']} bytes: {frame['encode_us']:.0f} to encode, {frame['decode_us']:.0f} to "
        "decode."
    )
    return {"row": "core", "frame": frame, "worker_pass": passes, "verdict": verdict}


def _codec_us() -> dict[str, float]:
    """A frame of drafts, as both sides meet it."""
    worker, engine = _WorkerAlone(1), ZeroDraftEngine(ZeroModel(agreement=0.8))
    frames: list[bytes] = []
    while len(frames) < 40:
        frames += [action.data for action in worker.turn(engine) if isinstance(action, Send)]
    data = max(frames, key=len)
    frame = decode(data)
    encode_us, decode_us = _each_us(lambda: encode(frame)), _each_us(lambda: decode(data))
    return {"bytes": len(data), "encode_us": encode_us, "decode_us": decode_us}


def _worker_us(sequences: int) -> dict[str, float]:
    """A worker's own time in a pass over many sequences, and a pass's engine time taken off."""
    worker, engine = _WorkerAlone(sequences), ZeroDraftEngine(ZeroModel(agreement=0.8))
    for _ in range(_PASSES // 4):
        worker.turn(engine)
    worker.spent_s, worker.passes, worker.leaves = 0.0, 0, 0
    for _ in range(_PASSES):
        worker.turn(engine)
    us = 1e6 * worker.spent_s / worker.passes
    return {
        "own_us": round(us, 1),
        "leaves": round(worker.leaves / worker.passes, 1),
        "own_us_a_leaf": round(us / (worker.leaves / worker.passes), 2),
    }


def _each_us(call: Any, times: int = 2000) -> float:
    began = time.process_time()
    for _ in range(times):
        call()
    return round(1e6 * (time.process_time() - began) / times, 2)


class _WorkerAlone:
    """A worker whose sequences are committed to in turn, one a pass, by a target that takes its best drafts."""

    def __init__(self, sequences: int) -> None:
        config = WorkerConfig(_PRINT, max_sequences=sequences, max_leaves=_LEAVES, context=1 << 20)
        self._worker = Worker(config)
        self._now, self._frames = 1_000.0, 0
        self._model = ZeroModel(agreement=1.0)
        self.spent_s, self.passes, self.leaves = 0.0, 0, 0
        hello = Hello(_INSTANCE, _PRINT.vocab_size, _PRINT.tokenizer_hash)
        actions = self._do(LinkOpened(1, self._frame(hello)))
        self._tokens = [[5, 6, number % 4096] for number in range(sequences)]
        self._hashes = [PrefixHashes(tokens) for tokens in self._tokens]
        drafting = Drafting(4, 0.0, 256, _DEPTH, 3e-4, 3e-4, calibrated=True)
        for number, tokens in enumerate(self._tokens):
            actions += self._do(Steered(self._frame(Open(number, 1, tuple(tokens), self._hashes[number][3], drafting))))
        self._expand = next(action for action in actions if isinstance(action, Expand))
        self._turn = 0

    def turn(self, engine: ZeroDraftEngine) -> list[WorkerAction]:
        """One pass and one commit."""
        batch: tuple[SequenceLeaves, ...] = self._expand.batch
        self.leaves += sum(len(item.leaves) for item in batch)
        self.passes += 1
        result = engine.expand(batch, self._expand.top)
        actions = self._do(Expanded(self._expand.number, result))
        actions += self._commit()
        while (expand := next((action for action in actions if isinstance(action, Expand)), None)) is None:
            actions += self._commit()
        self._expand = expand
        return actions

    def _commit(self) -> list[WorkerAction]:
        number = self._turn = (self._turn + 1) % len(self._tokens)
        tokens, hashes = self._tokens[number], self._hashes[number]
        new: list[int] = []
        for _ in range(3):
            new.append(self._model.next_token(*[*tokens, *new][-2:]))
        tokens += new
        hashes.extend(new)
        commit = Commit(number, 1, len(tokens) - 3, hashes[len(tokens)], tuple(new))
        return self._do(Steered(self._frame(commit)))

    def _frame(self, *messages: Any) -> bytes:
        self._frames += 1
        return encode(Frame(Header(_SENDER, self._frames, self._frames), messages))

    def _do(self, event: Any) -> list[WorkerAction]:
        self._now += 0.01
        began = time.thread_time()
        actions = list(self._worker.handle(event, self._now))
        self.spent_s += time.thread_time() - began
        return actions
