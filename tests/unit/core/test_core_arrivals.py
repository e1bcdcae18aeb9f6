"""The forecast of a worker's drafts: what is known late counts from when it happened."""

import pytest

from wanspec.core.arrivals import Arrivals
from wanspec.core.estimators import Estimators
from wanspec.core.tree import Origin, TokenTree

PASS, RTT = 8.0, 100.0
TURNAROUND = RTT + 1.5 * PASS


class Text:
    """A sequence of which all but the drafts is real."""

    def __init__(self):
        self.tree = TokenTree((1, 2, 3))
        self.estimators = Estimators()
        self.estimators.observe("pass", PASS)
        self.estimators.observe("rtt", RTT)
        self.arrivals = Arrivals(self.tree, self.estimators)
        self.arrivals.opened(0.0)

    def commit(self, now, *tokens):
        arrival = self.arrivals.committing(tokens, now)
        self.tree.descend(tokens)
        self.tree.root.arrival_ms = arrival
        return arrival

    def draft(self, now, *tokens, parent=None):
        """The worker's children of a node, best first."""
        nodes = []
        for rank, token in enumerate(tokens):
            node = self.tree.add(parent or self.tree.root, token, -0.5, Origin.REMOTE, now, rank)
            node.number, node.arrival_ms = 10 * node.position + rank, now
            nodes.append(node)
        return nodes

    def samples(self, name):
        return [value for found, value in self.arrivals.measured if found == name]


@pytest.fixture
def text():
    return Text()


def test_the_first_drafts_come_a_turnaround_after_opening_and_a_level_a_pass(text):
    assert text.tree.root.arrival_ms == TURNAROUND - PASS
    assert text.commit(20.0, 4) == TURNAROUND
    assert text.commit(40.0, 5, 6) == TURNAROUND + 2 * PASS


def test_a_token_that_was_not_foreseen_costs_a_turnaround(text):
    text.draft(5.0, 7, 8)
    assert text.commit(20.0, 9) == 20.0 + TURNAROUND - PASS
    assert text.commit(40.0, 5) == 20.0 + TURNAROUND  # counted from the loss, not from this commit


def test_a_foreseen_token_keeps_the_time_of_its_own_arrival(text):
    first, _ = text.draft(5.0, 7, 8)
    text.draft(13.0, 9, 6, parent=first)
    assert text.commit(20.0, 7, 6) == 13.0


def test_a_loss_is_seen_in_drafts_that_come_too_late_and_counts_from_its_commit(text):
    text.commit(20.0, 4)
    text.commit(40.0, 5)
    text.commit(60.0, 6)
    text.arrivals.received(3, {2: [(8, 0, -0.1), (4, 1, -2.0)], 3: [(7, 0, -0.1)]}, 112.0)
    # The worker foresaw 4, and not 5 at position 4: its children come a turnaround after the commit at 40.
    assert text.tree.root.arrival_ms == 40.0 + TURNAROUND


def test_late_drafts_that_were_right_move_the_front(text):
    text.commit(20.0, 4)
    text.commit(40.0, 5)
    text.commit(60.0, 6)
    text.arrivals.received(3, {2: [(4, 0, -0.1)]}, 90.0)
    assert text.tree.root.arrival_ms == 90.0 + 2 * PASS


def test_a_turnaround_ends_with_the_first_drafts_after_the_loss_though_the_text_has_gone_on(text):
    text.draft(5.0, 7, 8)
    text.commit(20.0, 9)
    for now in (40.0, 60.0, 80.0):
        text.commit(now, 5)
    text.arrivals.received(3, {}, 100.0)  # sent before the worker knew
    assert text.samples("turnaround") == []
    text.arrivals.received(4, {3: [(6, 0, -0.1)]}, 150.0)
    assert text.samples("turnaround") == [130.0]


def test_what_is_overdue_comes_at_the_latest_as_if_it_had_been_lost(text):
    text.commit(20.0, 4)
    assert text.commit(300.0, 5) == 300.0 + TURNAROUND - PASS


def test_late_drafts_are_counted_as_outcomes(text):
    text.commit(20.0, 4)
    text.arrivals.received(3, {2: [(8, 0, -0.1), (4, 1, -2.0)]}, 90.0)
    assert text.samples("remote 0 rejected") == [0.1]
    assert text.samples("remote 1 accepted") == [2.0]


@pytest.mark.parametrize(
    ("came", "saved"), [(98.0, 1.0), (20.0 + TURNAROUND, 0.0), ((20.0 + TURNAROUND + 98.0) / 2, 0.5)]
)
def test_a_second_choice_is_covered_as_far_as_its_own_children_come_before_a_miss_would_be_mended(text, came, saved):
    text.commit(20.0, 4)
    text.arrivals.received(3, {2: [(8, 0, -0.1), (4, 1, -2.0)]}, 90.0)
    assert text.samples("covered") == []
    text.commit(95.0, 5)
    text.arrivals.received(3, {3: [(5, 0, -0.1)]}, came)
    assert text.samples("covered") == [pytest.approx(saved)]


def test_a_token_among_no_children_is_not_covered(text):
    text.draft(5.0, 7, 8)
    text.commit(20.0, 9)
    assert text.samples("covered") == [0.0]


def test_a_local_draft_below_a_second_choice_does_not_cover_it(text):
    _, second = text.draft(5.0, 7, 8)
    text.commit(20.0, 8)
    assert text.tree.root is second
    text.tree.add(second, 4, -0.5, Origin.LOCAL, 25.0)
    text.arrivals.received(3, {}, 30.0)
    assert text.samples("covered") == []
    text.draft(40.0, 6)
    text.arrivals.received(3, {}, 40.0)
    assert len(text.samples("covered")) == 1
