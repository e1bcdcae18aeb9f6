"""The worker's body, with real threads and clocks; engine and links are doubles."""

from __future__ import annotations

import queue
import threading

import numpy as np

from tests.unit.core.core_doubles import PRINT, VOCAB, Bench, hash_of
from tests.unit.triton.waiting import LIMIT_S, until
from wanspec.core.config import WorkerConfig
from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.messages import Close, Drafting, Drafts, Hello, Open
from wanspec.core.wire import decode
from wanspec.triton.worker_body import WorkerBody


class DraftEngine:
    """Drafts token 9 after anything, at once; forgets nothing without a fault."""

    context = 64
    vocab_size = VOCAB

    def expand(self, batch: list[SequenceLeaves], top: int) -> Expansion:
        leaves = sum(len(item.leaves) for item in batch)
        zeros = np.zeros((leaves, top), dtype=np.float32)
        return Expansion(np.full((leaves, top), 9, dtype=np.int32), zeros - 0.1, zeros[:, 0], 0.0)

    def release(self, key: object) -> None:
        raise RuntimeError("no such sequence")


class Downlink:
    """Keeps the drafts of its frames."""

    def __init__(self) -> None:
        self.drafts: queue.SimpleQueue[Drafts] = queue.SimpleQueue()

    def send(self, data: bytes) -> None:
        for message in decode(data).messages:
            if isinstance(message, Drafts):
                self.drafts.put(message)

    def close(self) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def test_drafts_of_short_passes_all_arrive_in_order_and_a_release_that_fails_stops_nothing() -> None:
    frames, downlink = Bench(), Downlink()
    body = WorkerBody(WorkerConfig(PRINT), DraftEngine())
    body.start()
    try:
        body.link(frames.frame(Hello(b"controller-uuid1", VOCAB, PRINT.tokenizer_hash)), downlink)
        chain = Drafting(branching=1, theta=0.0, width=1, max_depth=12)
        for number in range(1, 4):
            body.steer(frames.frame(Close(number - 1, 1), Open(number, 1, (5, 6), hash_of((5, 6)), chain)))
            got = 0
            while got < 12:  # passes that end before a frame leaves share a message
                drafts = downlink.drafts.get(timeout=LIMIT_S)
                assert (drafts.sequence, drafts.first) == (number, got)
                got += len(drafts.nodes)
            assert got == 12
    finally:
        body.close()


def test_frames_leave_in_order_while_a_controller_is_slow_to_take_one_and_then_the_link_ends() -> None:
    class Slow(Downlink):
        def __init__(self) -> None:
            super().__init__()
            self.taken = threading.Event()
            self.ended = threading.Event()

        def send(self, data: bytes) -> None:
            assert self.taken.wait(LIMIT_S)
            assert not self.ended.is_set()
            super().send(data)

        def close(self) -> None:
            self.ended.set()

        def cancelled(self) -> bool:
            assert not self.ended.is_set()
            return bool(asked)

    asked: list[bool] = []
    frames, slow = Bench(), Slow()
    body = WorkerBody(WorkerConfig(PRINT, frame_ms=0.0), DraftEngine())
    body.start()
    try:
        body.link(frames.frame(Hello(b"controller-uuid1", VOCAB, PRINT.tokenizer_hash)), slow)
        chain = Drafting(branching=1, theta=0.0, width=1, max_depth=6)
        body.steer(frames.frame(Open(1, 1, (5, 6), hash_of((5, 6)), chain)))
        until(lambda: body.worker.counters.passes == 6)
        assert slow.drafts.empty(), "passes and commits wait for nobody who takes a frame"
        slow.taken.set()
        assert [slow.drafts.get(timeout=LIMIT_S).first for _ in range(6)] == list(range(6))
        asked.append(True)
        assert slow.ended.wait(LIMIT_S)
        until(lambda: not body.worker.sequences)
    finally:
        body.close()
