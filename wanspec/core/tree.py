"""The token tree, rooted at the last committed token. Both regions hold one for each sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, IntEnum


class Origin(IntEnum):
    """Who proposed a token."""

    TARGET = 0
    REMOTE = 1
    LOCAL = 2

    @property
    def label(self) -> str:
        """Lower-case name, as summaries print it."""
        return self.name.lower()


class NodeState(Enum):
    """Where a node stands after the commits so far."""

    LIVE = "live"
    COMMITTED = "committed"
    PRUNED = "pruned"


LIVE, COMMITTED, PRUNED = NodeState.LIVE, NodeState.COMMITTED, NodeState.PRUNED
"""The states by themselves: looking a member up in its class is slow, and passes do it for every node."""


class Node:
    """One token at an absolute position.

    Attributes:
        parent: None above the root of a fresh tree.
        token: token id.
        position: index of the token in the sequence, prompt included.
        log_prob: natural log-probability under the draft, given its parent.
        rank: its place among the children that its proposer put below the parent, 0 for the best.
        score: the estimated log-probability that the target gets there, counted from the root that was current when
            the node was added: the sum of ``log_prob`` from there, unless the worker knows better.
        origin: who proposed it first.
        arrival_ms: when it was added, by the owner's clock.
        state: live, committed or pruned.
        number: the worker's number of the node in its epoch, -1 where it has none.
        expanded: its children have been asked for (worker).
        path: tokens down to it, from below some root that lay above it: what :meth:`TokenTree.path_to` last found.
    """

    __slots__ = (
        "arrival_ms",
        "children",
        "expanded",
        "log_prob",
        "number",
        "origin",
        "parent",
        "path",
        "position",
        "rank",
        "score",
        "state",
        "token",
    )

    def __init__(
        self,
        parent: Node | None,
        token: int,
        position: int,
        log_prob: float = 0.0,
        origin: Origin = Origin.TARGET,
        arrival_ms: float = 0.0,
        state: NodeState = LIVE,
        rank: int = 0,
    ) -> None:
        self.parent = parent
        self.token = token
        self.position = position
        self.log_prob = log_prob
        self.score: float = log_prob if parent is None else parent.score + log_prob
        self.origin = origin
        self.arrival_ms = arrival_ms
        self.state = state
        self.rank = rank
        self.number = -1
        self.expanded = False
        self.path: tuple[int, ...] = ()
        self.children: list[Node] = []

    def child(self, token: int) -> Node | None:
        """Return the child with this token, if any."""
        for node in self.children:
            if node.token == token:
                return node
        return None

    def __repr__(self) -> str:
        return f"Node({self.token}@{self.position} {self.state.value})"


class TokenTree:
    """Draft tokens below the last committed token.

    ``tokens`` is the committed sequence, prompt included; it belongs to the tree and grows by :meth:`descend`.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("a token tree needs at least one committed token")
        self.tokens: list[int] = list(tokens)
        self.root = Node(None, self.tokens[-1], len(self.tokens) - 1)
        self.size = 0

    def at(self, position: int) -> Node | None:
        """Return the root, or a stand-in for a committed position above it; None beyond the root."""
        if position == self.root.position:
            return self.root
        if not 0 <= position < self.root.position:
            return None
        return Node(None, self.tokens[position], position, state=COMMITTED)

    def add(self, parent: Node, token: int, log_prob: float, origin: Origin, now: float, rank: int = 0) -> Node | None:
        """Add a child, or return the one that is there already.

        Children of a committed node are compared with what was committed there. None means that the node is stale:
        its parent was pruned, or another token was committed in its place.
        """
        if parent.state is not LIVE:
            if parent.state is PRUNED:
                return None
            position = parent.position + 1
            return self.at(position) if self.tokens[position] == token else None
        children = parent.children
        for known in children:
            if known.token == token:
                return known
        node = Node(parent, token, parent.position + 1, log_prob, origin, now, LIVE, rank)
        children.append(node)
        self.size += 1
        return node

    def best_path(self, limit: int) -> list[Node]:
        """Return at most ``limit`` nodes below the root, at each step the child of the lowest rank.

        Of several proposers' best, the most probable, and the first come on ties. Greedily drafted children rank by
        probability; sampled ones do not.
        """
        path: list[Node] = []
        node = self.root
        while len(path) < limit and node.children:
            children = node.children
            node = children[0] if len(children) == 1 else max(children, key=_preference)
            path.append(node)
        return path

    def leaves(self) -> Iterator[Node]:
        """Yield live nodes, the root included, whose children have not been asked for."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            if not node.expanded:
                yield node
            stack.extend(node.children)

    def descend(self, tokens: Sequence[int], on_prune: Callable[[Node], None] | None = None) -> int:
        """Commit tokens: re-root along them and prune everything else.

        Returns:
            How many of the tokens were in the tree, in order, before the first that was not.
        """
        hits = 0
        node = self.root
        missed = False
        for token in tokens:
            following = None if missed else node.child(token)
            if following is None:
                missed = True
                self._prune_children(node, None, on_prune)
                node.state = COMMITTED
                node = Node(None, token, node.position + 1)
            else:
                hits += 1
                self._prune_children(node, following, on_prune)
                node.state = COMMITTED
                node = following
                self.size -= 1
            self.tokens.append(token)
        node.parent = None
        self.root = node
        return hits

    def clear(self) -> None:
        """Prune all that is below the root."""
        self._prune_children(self.root, None, None)

    def path_to(self, node: Node) -> tuple[int, ...]:
        """Return the tokens from below the root down to a live node."""
        depth = node.position - self.root.position
        if depth == 0 or node.parent is None:
            return ()
        above = node.parent.path
        if len(above) < depth - 1:
            above = self.path_to(node.parent)
        node.path = (*above[len(above) - depth + 1 :], node.token)
        return node.path

    def depth(self, node: Node) -> int:
        """Return how many tokens a live node lies below the root."""
        return node.position - self.root.position

    def _prune_children(self, node: Node, keep: Node | None, on_prune: Callable[[Node], None] | None) -> None:
        stack = [child for child in node.children if child is not keep]
        node.children = [] if keep is None else [keep]
        while stack:
            pruned = stack.pop()
            pruned.state = PRUNED
            self.size -= 1
            if on_prune is not None:
                on_prune(pruned)
            if pruned.children:
                stack += pruned.children
                pruned.children = []


def _preference(node: Node) -> tuple[int, float]:
    return -node.rank, node.log_prob
