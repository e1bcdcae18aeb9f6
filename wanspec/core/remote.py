"""What a controller knows of one sequence's drafting on a worker: epochs, node numbers, what is still to be sent."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from wanspec.core.arrivals import Sighting
from wanspec.core.messages import ROOT, Close, Commit, Drafting, Drafts, Lost, LostCode, Message, Open, Prefilled
from wanspec.core.prefix import PrefixHashes
from wanspec.core.rounds import Tally
from wanspec.core.tree import COMMITTED, PRUNED, Node, Origin, TokenTree
from wanspec.core.wire import message_bytes

_REMOTE = Origin.REMOTE
_STALE = Node(None, -1, -1, state=PRUNED)
_FINAL = (LostCode.CONTEXT, LostCode.BUSY)


class RemoteDrafts:
    """One sequence's drafts from a worker. Only this side increments the epoch.

    Attributes:
        number: of the sequence.
        hashes: of the committed tokens, as far as they were to be compared.
        claims: by link, how many of the first tokens its worker should still have: named in the next opening, not sent.
        uploading: pieces of the prompt are still to be sent.
        kept: of a sequence that has ended, how many tokens were sent to the worker, which may be of use later.
        passed: of the last message, children of positions that had been committed by then, by the parent's position.
    """

    def __init__(
        self, number: int, tree: TokenTree, tally: Tally, drafting: Drafting, traceparent: str, piece: int
    ) -> None:
        """``piece``: most tokens of the prompt in one message."""
        self.open = False
        self.uploading = False
        self.claims: dict[int, int] = {}
        self.kept = 0
        self.link: int | None = None
        self.epoch = 0
        self.passed: dict[int, list[Sighting]] = {}
        self.number = number
        self._tree = tree
        self._tally = tally
        self._drafting = drafting
        self._traceparent = traceparent
        self.hashes = PrefixHashes()
        self._piece = piece
        self._sent = 0
        self._confirmed = 0
        self._named = 0
        self._nodes: dict[int, Node] = {}
        self._opened_length = 1
        self._passes_seen = 0
        self._firsts: list[int] = []
        self._used: set[int] = set()
        self._outgoing: list[Message] = []

    def start(self, link: int) -> None:
        """Open the sequence on a link, in a new epoch."""
        self.epoch += 1
        self._tally.epochs += 1
        self.link = link
        self.open = True
        for node in self._nodes.values():
            node.number = -1  # the worker has no copy of it in this epoch
        self._nodes = {}
        self._confirmed = 0
        self._opened_length = len(self._tree.tokens)
        self._passes_seen = 0
        self._firsts, self._used = [], set()
        self._outgoing.clear()
        tokens = self._tree.tokens
        self.hash_all()
        known = self._named = min(self.claims.pop(link, 0), len(tokens))
        sent = self._sent = min(len(tokens), known + self._piece)
        self.uploading = sent < len(tokens)
        hashes, fresh, following = self.hashes, tuple(tokens[known:sent]), len(tokens) - sent
        prefix = (known, hashes[known]) if known else (0, 0)
        self._queue(
            Open(self.number, self.epoch, fresh, hashes[sent], self._drafting, self._traceparent, following, *prefix)
        )

    def aim(self, tree: TokenTree, drafting: Drafting) -> None:
        """Have drafts go into another tree of the same tokens, made otherwise, from the next opening on."""
        self._tree, self._drafting = tree, drafting

    def piece(self) -> Message:
        """Return the next piece of the prompt; only while :attr:`uploading`."""
        tokens, start = self._tree.tokens, self._sent
        end = self._sent = min(len(tokens), start + self._piece)
        self.uploading = end < len(tokens)
        message = Commit(self.number, self.epoch, start, self.hashes[end], tuple(tokens[start:end]))
        self._tally.bytes_up += message_bytes(message)
        return message

    def committing(self, tokens: Sequence[int]) -> None:
        """Count passes of the worker that foresaw some of these tokens, before the tree descends along them."""
        node: Node | None = self._tree.root
        for token in tokens:
            assert node is not None
            node = node.child(token)
            if node is None:
                return
            made_by = bisect_right(self._firsts, node.number)
            if self._nodes.get(node.number) is node and made_by not in self._used:
                self._used.add(made_by)
                self._tally.remote_passes_used += 1

    def commit(self, tokens: Sequence[int]) -> None:
        """Tell the worker of tokens that have just been committed to the tree."""
        if not self.open:
            return
        self.hash_all()
        if self.uploading:  # they follow the prompt, as a part of its last piece
            return
        length = self._sent = len(self._tree.tokens)
        self._queue(Commit(self.number, self.epoch, length - len(tokens), self.hashes[length], tuple(tokens)))

    def close(self) -> None:
        """The sequence has ended."""
        if self.open:
            self._queue(Close(self.number, self.epoch))
            self.kept = self._sent
            if self.link is not None:
                self.claims[self.link] = self._sent  # should it be opened again
        self.open = self.uploading = False

    def drop(self) -> None:
        """The worker has given the sequence up. What it sent stays in the tree."""
        self.open = self.uploading = False
        self._outgoing.clear()

    def cut_off(self) -> None:
        """The link is gone: a worker that outlives it keeps what it is known to have."""
        if self.link is not None and self._confirmed:
            self.claims[self.link] = self._confirmed
        self.drop()

    @property
    def length(self) -> int:
        """Committed tokens, prompt included."""
        return len(self._tree.tokens)

    @property
    def has_outgoing(self) -> bool:
        """Whether :meth:`take` or :meth:`piece` has anything to return."""
        return self.uploading or bool(self._outgoing)

    def take(self) -> list[Message]:
        """Return what is to be sent, once."""
        messages, self._outgoing = self._outgoing, []
        return messages

    def receive(self, drafts: Drafts, vocab_size: int, now: float) -> bool:
        """Add a worker's nodes to the tree.

        Returns:
            False where the two sides no longer agree and the sequence must be opened again.
        """
        self._tally.bytes_down += message_bytes(drafts)
        if not self.open or drafts.epoch != self.epoch:
            self._tally.stale_nodes += len(drafts.nodes)
            return True
        if not self._opened_length <= drafts.length <= len(self.hashes) or self.hashes[drafts.length] != drafts.hash:
            return False
        self._confirmed = max(self._confirmed, drafts.length)
        self._tally.remote_draft_passes += max(0, drafts.passes - self._passes_seen)
        self._passes_seen = max(self._passes_seen, drafts.passes)
        if not self._firsts or drafts.first > self._firsts[-1]:
            self._firsts.append(drafts.first)
        self.passed = {}
        return self._add(drafts, vocab_size, now)

    def _add(self, drafts: Drafts, vocab_size: int, now: float) -> bool:
        tree, nodes, tally = self._tree, self._nodes, self._tally
        base, add, ranks = tree.at(drafts.length - 1), tree.add, dict[int, int]()
        for number, (above, token, log_prob) in enumerate(drafts.nodes, drafts.first):
            rank = ranks.get(above, 0)
            ranks[above] = rank + 1
            if number in nodes:
                continue
            parent = base if above == ROOT else nodes.get(above)
            if parent is None or not 0 <= token < vocab_size or log_prob != log_prob:
                return False
            tally.remote_nodes += 1
            node = add(parent, token, log_prob, _REMOTE, now, rank)
            if node is None:
                tally.stale_nodes += 1
                node = _STALE
            elif node.number < 0:
                # The first time that the worker's own copy of this token is seen.
                node.number, node.arrival_ms = number, now
            nodes[number] = node
            if parent.state is COMMITTED:
                self.passed.setdefault(parent.position, []).append((token, rank, log_prob))
        return True

    def prefilled(self, message: Prefilled) -> None:
        """The worker has begun to draft."""
        self._tally.bytes_down += message_bytes(message)
        if self.open and message.epoch == self.epoch:
            self._tally.remote_prefill_tokens += message.computed

    def lost(self, message: Lost) -> bool:
        """The worker has given the sequence up; return whether to open it again."""
        self._tally.bytes_down += message_bytes(message)
        if not self.open or message.epoch != self.epoch:
            return False
        # Who misses a prefix that was not named is out of step, and not to be sent the prompt for ever.
        code = LostCode.DESYNC if message.code is LostCode.PREFIX and not self._named else message.code
        self._tally.lost[code.name.lower()] += 1
        self.claims.clear()
        self.drop()
        return message.code not in _FINAL

    def _queue(self, message: Message) -> None:
        self._outgoing.append(message)
        self._tally.bytes_up += message_bytes(message)

    def hash_all(self) -> None:
        """Bring :attr:`hashes` up to the committed tokens."""
        self.hashes.extend(self._tree.tokens[len(self.hashes) :])
