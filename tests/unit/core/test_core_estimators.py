"""Prefix hashes, windows, the entropy estimate, the scheduler."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec.core.costs import UNMEASURED, CostModel, CostTable
from wanspec.core.estimators import TAIL_ENTROPY_NATS, Estimators, Window, entropy_from_log_prob
from wanspec.core.messages import Drafting
from wanspec.core.prefix import PrefixHashes, extend_hash
from wanspec.core.scheduler import Frontier, Offer, fill, reach_probability, worthwhile
from wanspec.core.tree import Origin, TokenTree

tokens = st.lists(st.integers(0, 200_000), max_size=30)


@given(tokens, tokens)
def test_a_prefix_hash_depends_on_the_prefix_alone(first, rest):
    grown = PrefixHashes(first)
    grown.extend(rest)
    whole = PrefixHashes([*first, *rest])
    assert len(grown) == len(first) + len(rest)
    assert [grown[i] for i in range(len(grown) + 1)] == [whole[i] for i in range(len(whole) + 1)]
    assert all(0 <= whole[i] < 1 << 64 for i in range(len(whole) + 1))


@given(tokens.filter(bool), st.data())
def test_another_token_anywhere_is_another_hash_from_there_on(sequence, data):
    index = data.draw(st.integers(0, len(sequence) - 1))
    other = list(sequence)
    other[index] += 1
    a, b = PrefixHashes(sequence), PrefixHashes(other)
    assert a[index] == b[index]
    assert a[len(sequence)] != b[len(sequence)]


def test_prefix_hashes_are_the_protocols():
    """Frozen: both regions, whatever their version, must agree."""
    assert PrefixHashes()[0] == 0x57414E5350454331
    value = 0x57414E5350454331
    for token in (5, 6, 7):
        mixed = ((value ^ (token + 1)) * 0x9E3779B97F4A7C15) % (1 << 64)
        value = mixed ^ (mixed >> 29)
    assert PrefixHashes((5, 6, 7))[3] == value == extend_hash(PrefixHashes((5, 6))[2], 7)
    assert extend_hash(0, 0) != 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.integers(1, 64))
def test_window_quantiles(samples, size):
    window = Window(size)
    for sample in samples:
        window.add(sample)
    kept = samples[-size:]
    assert window.samples() == kept
    assert len(window) == len(kept)
    assert (window.quantile(0.0), window.quantile(1.0)) == (min(kept), max(kept))
    assert window.median == sorted(kept)[len(kept) // 2]
    assert sum(s <= window.quantile(0.9) for s in kept) >= 0.9 * len(kept)


def test_estimators_start_unmeasured_and_restore():
    estimators = Estimators()
    assert (estimators.median("rtt"), estimators.quantile("pass", 0.9)) == (None, None)
    for value in (30.0, 10.0, 20.0):
        estimators.observe("rtt", value)
    assert estimators.median("rtt") == 20.0
    assert Estimators(estimators.state()).state() == estimators.state()


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
def test_what_no_clock_measured_is_left_out(value):
    estimators = Estimators()
    estimators.observe("pass", value)
    assert estimators.median("pass") is None


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_entropy_estimate_is_exact_for_its_tail_and_bounded_below(weights, p):
    rest = [w / sum(weights) for w in weights]
    tail = -sum(r * math.log(r) for r in rest)
    true = -p * math.log(p) - sum((1 - p) * r * math.log((1 - p) * r) for r in rest)
    estimate = entropy_from_log_prob(math.log(p))
    assert estimate - (1 - p) * TAIL_ENTROPY_NATS <= true + 1e-9
    assert estimate + (1 - p) * (tail - TAIL_ENTROPY_NATS) == pytest.approx(true)


def test_entropy_estimate_at_its_ends():
    assert entropy_from_log_prob(0.0) == 0.0
    assert entropy_from_log_prob(900.0) == 0.0
    assert entropy_from_log_prob(-math.inf) == entropy_from_log_prob(-5000.0) == TAIL_ENTROPY_NATS
    # The default phi of 0.5 nats lies here (docs/architecture.md).
    assert entropy_from_log_prob(math.log(0.93)) < 0.5 < entropy_from_log_prob(math.log(0.92))


class Job:
    def __init__(self, **drafting):
        self.tree = TokenTree([1, 2, 3])
        self.drafting = Drafting(**drafting)
        self.frontier = Frontier(self.tree.root)

    def grow(self, parent, token, log_prob):
        node = self.tree.add(parent, token, log_prob, Origin.REMOTE, 0.0)
        self.frontier.add(node)
        return node

    def take(self, max_nodes=100, context=100):
        """The candidates, which stay where they are."""
        taken = Offer(self, max_nodes, context).take(99)
        for leaf in taken:
            self.frontier.add(leaf)
        return taken


chances = st.lists(st.floats(0.01, 0.99), max_size=9)


@given(st.lists(chances, max_size=6), st.integers(0, 30))
def test_a_pass_is_filled_with_the_most_probable_leaves_of_all(offered, most):
    jobs = []
    for values in offered:
        job = Job(width=99)
        job.tree.root.expanded = True
        for token, chance in enumerate(values):
            job.grow(job.tree.root, token, math.log(chance))
        jobs.append(job)
    roots = [job.tree.root for job in jobs]
    taken, order = fill([Offer(job, 999, 999) for job in jobs], roots, most)
    assert len(order) == sum(map(len, taken)) == min(most, sum(map(len, offered)))
    assert [chance for chance, _ in order] == sorted((chance for chance, _ in order), reverse=True)
    left = [[leaf.score for leaf in job.take(999, 999)] for job in jobs]
    for leaves, rest, values in zip(taken, left, offered, strict=True):
        scores = [leaf.score for leaf in leaves]
        assert sorted(scores + rest) == pytest.approx(sorted(map(math.log, values))), "none is lost"
    if order and any(left):
        assert math.log(order[-1][0]) >= max(max(rest) for rest in left if rest) - 1e-9


def test_candidates_are_the_most_probable_leaves():
    job = Job(width=2)
    root = job.tree.root
    root.expanded = True
    a, b = job.grow(root, 1, -0.1), job.grow(root, 2, -2.0)
    c, d = job.grow(a, 3, -0.2), job.grow(a, 4, -3.0)
    a.expanded = True
    assert job.take() == [c, b]
    job.drafting = Drafting(width=9)
    assert job.take() == [c, b, d]


def test_candidates_stop_at_the_floor():
    job = Job(floor=0.3, width=9)
    likely = job.grow(job.tree.root, 1, math.log(0.4))
    job.grow(job.tree.root, 2, math.log(0.2))
    below = job.grow(likely, 3, math.log(0.5))
    job.tree.root.expanded = likely.expanded = True
    assert job.take(99, 99) == []
    job.tree.descend([1])
    job.frontier.moved(job.tree.size)
    assert job.take(99, 99) == [below], "probabilities count from the new root"


@pytest.mark.parametrize(("max_depth", "context", "expected"), [(2, 100, [4]), (1, 100, []), (9, 5, [4]), (9, 4, [])])
def test_candidates_stop_at_depth_and_context(max_depth, context, expected):
    """The root stands at position 2 and the leaf at 3: its child would be token number 5."""
    job = Job(max_depth=max_depth)
    job.tree.root.expanded = True
    job.grow(job.tree.root, 4, -0.1)
    assert [n.token for n in job.take(100, context)] == expected


@pytest.mark.parametrize(("max_nodes", "expected"), [(12, 4), (10, 3), (8, 2), (7, 1), (6, 1), (5, 0), (4, 0)])
def test_candidates_leave_room_for_their_children(max_nodes, expected):
    job = Job(width=4, branching=2)
    job.tree.root.expanded = True
    for token in range(4):
        job.grow(job.tree.root, token, -0.1)
    assert len(job.take(max_nodes)) == expected


def costs(*per_leaf):
    """A pass of 1, 2, ... leaves."""
    table = CostTable(tuple(range(1, len(per_leaf) + 1)), (0,), tuple((ms,) for ms in per_leaf))
    return CostModel(table, table)


@pytest.mark.parametrize(
    ("chances", "per_leaf", "expected"),
    [
        ([0.9, 0.5, 0.1], (10.0, 10.0, 10.0), 3),  # others cost nothing
        ([0.9, 0.5, 0.1], (10.0, 12.0, 14.0), 2),  # 0.090, 0.117, 0.107 tokens per ms
        ([0.1, 0.5, 0.9], (10.0, 12.0, 14.0), 2),  # whatever their order
        ([0.9, 0.5, 0.5], (10.0, 20.0, 20.0), 3),  # the second is free with the third
        ([0.9, 0.5, 0.1], (10.0, 20.0, 30.0), 1),  # a pass takes as long as its leaves one after another
        ([0.9, 0.9, 0.9], (10.0, 20.0, 30.0), 3),
        ([], (10.0,), 1),
    ],
)
def test_leaves_are_worth_a_pass_while_they_make_more_tokens_per_ms(chances, per_leaf, expected):
    assert worthwhile(chances, costs(*per_leaf), 100) == expected


def test_all_leaves_are_worth_it_where_they_cost_nothing():
    assert worthwhile([1e-9] * 64, UNMEASURED, 100) == 64


@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12), st.lists(st.floats(0.0, 50.0), min_size=12, max_size=12)
)
def test_no_other_number_of_leaves_makes_more_tokens_per_ms(chances, steps):
    model = costs(*[5.0 + sum(steps[: i + 1]) for i in range(12)])
    ordered = sorted(chances, reverse=True)
    rates = [sum(ordered[:n]) / model.pass_ms(n, n, 0) for n in range(1, len(chances) + 1)]
    assert rates[worthwhile(chances, model, 0) - 1] == pytest.approx(max(rates))
    for context in (0, 50.5, 1e4):
        assert model.step.rising(12, context) == [model.pass_ms(count, count, context) for count in range(1, 13)]


def test_the_chance_of_a_leaf_counts_from_the_root():
    job = Job()
    first = job.grow(job.tree.root, 1, math.log(0.5))
    second = job.grow(first, 2, math.log(0.25))
    assert reach_probability(second, job.tree.root) == pytest.approx(0.125)
    assert reach_probability(job.tree.root, job.tree.root) == 1.0
    job.tree.descend([1])
    job.frontier.moved(job.tree.size)
    assert reach_probability(second, job.tree.root) == pytest.approx(0.25)


def test_a_root_is_expanded_however_small_the_tree_may_be():
    assert len(Job(branching=4).take(2)) == 1
