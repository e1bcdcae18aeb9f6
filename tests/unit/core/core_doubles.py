"""What tests of the core share: configurations, a controller and a worker with no network between, an engine."""

from __future__ import annotations

import numpy as np

from wanspec.core.config import ControllerConfig, Fingerprint, WorkerConfig
from wanspec.core.controller import Controller
from wanspec.core.drafting import Expansion
from wanspec.core.events import (
    Connect,
    Connected,
    Emit,
    Expand,
    Expanded,
    Finished,
    LinkOpened,
    Received,
    Request,
    Send,
    Steered,
    Submitted,
    Tick,
    Verified,
    Verify,
)
from wanspec.core.messages import Drafting, DraftNode, Drafts, Frame, Header, Hello, Open, Welcome
from wanspec.core.prefix import PrefixHashes
from wanspec.core.wire import decode, encode
from wanspec.core.worker import Worker

VOCAB = 100
PRINT = Fingerprint(b"t" * 32, VOCAB, "draft-1")
CONTROLLER, WORKER = b"controller-uuid1", b"worker-uuid-0001"
SENDER = int.from_bytes(CONTROLLER[:8], "little")


def hash_of(tokens):
    return PrefixHashes(tokens)[len(tokens)]


def of(kind, actions):
    return [a for a in actions if isinstance(a, kind)]


def one(kind, actions):
    (found,) = of(kind, actions)
    return found


def messages_in(actions, kind=None):
    found = [m for send in of(Send, actions) for m in decode(send.data).messages]
    return found if kind is None else of(kind, found)


class Rig:
    """A controller whose engines and worker are the test itself."""

    def __init__(self, **config):
        self.now = 1_000.0
        self.controller = Controller(ControllerConfig(PRINT, **config), instance=CONTROLLER)
        self._number = 0

    def do(self, event, at=None):
        self.now = self.now if at is None else at
        return self.controller.handle(event, self.now)

    def link_up(self):
        assert of(Connect, self.do(Tick()))
        self.do(Connected(0))
        return self.hear(Welcome(WORKER, VOCAB, PRINT.tokenizer_hash, "d", 8, 512))

    def hear(self, *messages, **header):
        self._number += 1
        sent = Header(7, self._number, 1, **header)
        return self.do(Received(0, encode(Frame(sent, messages))))

    def submit(self, number=1, prompt=(5, 6, 7), max_tokens=10, **request):
        return self.do(Submitted(number, Request(prompt, max_tokens, **{"policy": "wanspec"} | request)))

    def answer(self, actions, *tokens, log_prob=-0.01):
        verify = one(Verify, actions)
        return self.do(Verified(verify.action, tokens, (log_prob,) * len(tokens), 20.0))

    def drafts(self, tokens, epoch, nodes, number=1, first=0, passes=1, digest=None):
        nodes = tuple(DraftNode(*n) for n in nodes)
        digest = hash_of(tokens) if digest is None else digest
        return self.hear(Drafts(number, epoch, len(tokens), digest, first, passes, nodes))

    @property
    def link(self):
        return self.controller.links[0]

    def sequence(self, number=1):
        return self.controller.sequences[number]


class Bench:
    """A worker whose controller and engine are the test itself."""

    def __init__(self, **config):
        self.now = 1_000.0
        self.worker = Worker(WorkerConfig(PRINT, **{"frame_ms": 0.0, **config}), instance=WORKER)
        self._sent = 0

    def do(self, event, at=None):
        self.now = self.now if at is None else at
        return self.worker.handle(event, self.now)

    def frame(self, *messages, sender=SENDER, want_reply=False):
        self._sent += 1
        return encode(Frame(Header(sender, self._sent, self._sent, want_reply=want_reply), messages))

    def greet(self, link=1, **hello):
        values = {"instance": CONTROLLER, "vocab_size": VOCAB, "tokenizer_hash": PRINT.tokenizer_hash, **hello}
        return self.do(LinkOpened(link, self.frame(Hello(**values), want_reply=True)))

    def steer(self, *messages, **frame):
        return self.do(Steered(self.frame(*messages, **frame)))

    def open(self, number=1, tokens=(5, 6, 7), epoch=1, digest=None, **drafting):
        drafting = Drafting(**{"branching": 1, "theta": 0.0, "width": 1, **drafting})
        digest = hash_of(tokens) if digest is None else digest
        return self.steer(Open(number, epoch, tuple(tokens), digest, drafting))

    def expand(self, actions, *tokens, log_prob=-0.1, entropy=0.1, engine_ms=7.5, at=None):
        """Answer the pass with the same children for each leaf."""
        action = one(Expand, actions)
        leaves = sum(len(item.leaves) for item in action.batch)
        rows = np.tile(np.array(tokens or (9,), dtype=np.int32), (leaves, 1))
        probs = np.tile(log_prob * np.arange(1, rows.shape[1] + 1, dtype=np.float32), (leaves, 1))
        done = Expansion(rows, probs, np.full(leaves, entropy, dtype=np.float32), engine_ms)
        return self.do(Expanded(action.number, done), at)


def emitted(actions):
    return tuple(t for a in of(Emit, actions) for t in a.tokens)


def finished(actions):
    return one(Finished, actions)
