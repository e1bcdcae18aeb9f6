"""The token tree against a naive model: a set of paths."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wanspec.core.tree import NodeState, Origin, TokenTree

TOKENS = st.integers(0, 3)


class TreeMachine(RuleBasedStateMachine):
    """The model keeps, for each absolute path of tokens, its node, and recomputes everything from that."""

    def __init__(self):
        super().__init__()
        self.tree = TokenTree([1, 2])
        self.committed = [1, 2]
        self.paths = {}  # absolute token path, first-come order -> (node, log-probability)
        self.everyone = [((1, 2), self.tree.root)]

    def _live(self):
        done = tuple(self.committed)
        return {p: v for p, v in self.paths.items() if len(p) > len(done) and p[: len(done)] == done}

    @rule(data=st.data(), token=TOKENS, log_prob=st.floats(-9, 0))
    def add(self, data, token, log_prob):
        path, parent = data.draw(st.sampled_from(self.everyone))
        node = self.tree.add(parent, token, log_prob, Origin.REMOTE, 3.0)
        done, child = tuple(self.committed), (*path, token)
        if len(path) >= len(done) and path[: len(done)] == done:
            assert node is not None
            if child in self.paths:
                assert node is self.paths[child][0]
            else:
                assert (node.token, node.position, node.log_prob) == (token, len(path), log_prob)
                self.paths[child] = (node, log_prob)
                self.everyone.append((child, node))
        elif child == done[: len(child)]:
            assert node is not None
            assert (node.token, node.position) == (token, len(path))
        else:
            assert node is None

    @rule(position=st.integers(-2, 12), token=TOKENS)
    def stand_in(self, position, token):
        node = self.tree.at(position)
        if not 0 <= position < len(self.committed):
            assert node is None
            return
        assert (node.token, node.position) == (self.committed[position], position)
        if position < len(self.committed) - 1:
            child = self.tree.add(node, token, -1.0, Origin.REMOTE, 0.0)
            assert (child is not None) == (self.committed[position + 1] == token)

    @rule(tokens=st.lists(TOKENS, min_size=1, max_size=4))
    def descend(self, tokens):
        hits, path = 0, tuple(self.committed)
        for token in tokens:
            path = (*path, token)
            if path not in self.paths:
                break
            hits += 1
        pruned = []
        before = self._live()
        assert self.tree.descend(tokens, pruned.append) == hits
        self.committed += tokens
        after, done = self._live(), tuple(self.committed)
        gone = {p for p in before if p not in after and p != done[: len(p)]}
        assert {id(n) for n in pruned} == {id(self.paths[p][0]) for p in gone}
        assert all(self.paths[p][0].state is NodeState.PRUNED for p in gone)
        self.paths = {p: v for p, v in self.paths.items() if p not in gone}
        # A path that was missed may be drafted anew below another root: only reachable nodes stay in the model.
        if done not in self.paths:
            self.everyone.append((done, self.tree.root))
        self.everyone = [(p, n) for p, n in self.everyone if n.state is not NodeState.LIVE or p in after or p == done]

    @invariant()
    def agrees(self):
        live = self._live()
        done = tuple(self.committed)
        assert self.tree.tokens == self.committed
        assert (self.tree.root.token, self.tree.root.position) == (done[-1], len(done) - 1)
        assert self.tree.size == len(live)
        assert all(
            node.state is NodeState.LIVE
            and self.tree.path_to(node) == p[len(done) :]
            and self.tree.depth(node) == len(p) - len(done)
            for p, (node, _) in live.items()
        )
        assert {id(n) for n in self.tree.leaves()} == {id(n) for n, _ in live.values()} | {id(self.tree.root)}

    @invariant()
    def best_path_is_greedy(self):
        live, path, expected = self._live(), tuple(self.committed), []
        while True:
            children = [(p, lp) for p, (_, lp) in live.items() if len(p) == len(path) + 1 and p[:-1] == path]
            if not children:
                break
            best = max(lp for _, lp in children)
            path = next(p for p, lp in children if lp == best)
            expected.append(path[-1])
        for limit in (0, 1, 2, 99):
            assert [n.token for n in self.tree.best_path(limit)] == expected[:limit]


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_tree_needs_a_token():
    with pytest.raises(ValueError, match="at least one committed token"):
        TokenTree([])


def test_score_sums_log_probs_and_origin_is_the_first_proposers():
    tree = TokenTree([1])
    a = tree.add(tree.root, 4, -0.5, Origin.REMOTE, 1.0)
    b = tree.add(a, 5, -0.25, Origin.LOCAL, 2.0)
    assert tree.add(a, 5, -0.1, Origin.REMOTE, 3.0) is b
    assert (b.score, b.origin, b.arrival_ms, b.log_prob) == (-0.75, Origin.LOCAL, 2.0, -0.25)
    assert (a.origin.label, Origin.TARGET.label) == ("remote", "target")


def test_leaves_leave_out_what_was_expanded():
    tree = TokenTree([1])
    tree.root.expanded = True
    a = tree.add(tree.root, 4, -0.5, Origin.REMOTE, 1.0)
    assert list(tree.leaves()) == [a]
    assert "4@1 live" in repr(a)
