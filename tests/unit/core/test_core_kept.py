"""What is kept of sequences that have ended, on both sides: bounds, age, what is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.core_doubles import PRINT, hash_of
from wanspec.core.config import ControllerConfig, WorkerConfig
from wanspec.core.kept import KeptTokens, SentPrefixes
from wanspec.core.prefix import PrefixHashes

ONE, TWO = b"one", b"two"
few = st.lists(st.integers(0, 2), min_size=1, max_size=40)


def worker(**config):
    return KeptTokens(WorkerConfig(PRINT, **config))


def controller(**config):
    return SentPrefixes(ControllerConfig(PRINT, **{"least_reuse": 1, **config}))


def keep(kept, tokens, now=0.0, owner=ONE):
    kept.keep(owner, tokens, PrefixHashes(tokens), now)


def find(kept, tokens, now=0.0, owner=ONE):
    found = kept.find(owner, len(tokens), hash_of(tokens), now)
    return None if found is None else list(found.tokens[: len(tokens)])


def sent(ended, tokens, now=0.0, conversation="", link=0):
    ended.keep(conversation, link, PrefixHashes(tokens), len(tokens), now)


def claims(ended, prompt, now=0.0, conversation=""):
    return dict(ended.find(conversation, PrefixHashes(prompt), now))


@given(few, few)
def test_common_prefix_by_hashes(left, right):
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1
    assert PrefixHashes(left).common(PrefixHashes(right), 99) == expected
    assert PrefixHashes(left).common(PrefixHashes(right), 3) == min(3, expected)


@given(st.lists(st.tuples(st.sampled_from([ONE, TWO]), few), max_size=12), few, st.integers(0, 12))
def test_a_worker_never_finds_other_tokens_than_those_named(history, wanted, most):
    kept = worker(kept_sequences=most, kept_tokens=90)
    for now, (owner, tokens) in enumerate(history):
        keep(kept, tokens, float(now), owner)
        assert len(kept) <= most
        assert kept.total <= 90
        assert kept.total == sum(len(entry.tokens) for entry in kept._entries.values())
    assert find(kept, wanted, 20.0) in (None, wanted)
    if history and most and len(history[-1][1]) <= 90:
        owner, tokens = history[-1]
        assert find(kept, tokens[: len(tokens) // 2 + 1], 20.0, owner) is not None, "the latest is there"


@given(st.lists(few, max_size=12), few)
def test_a_controller_names_the_longest_prefix_that_it_has_sent(history, prompt):
    ended = controller()
    for tokens in history:
        sent(ended, tokens)
    common = [PrefixHashes(prompt).common(PrefixHashes(tokens), 99) for tokens in history]
    assert claims(ended, prompt).get(0, 0) == max(common, default=0)


def test_tokens_of_another_controller_are_not_found():
    kept = worker()
    keep(kept, [1, 2, 3])
    assert find(kept, [1, 2], owner=TWO) is None
    assert find(kept, [1, 3]) is None
    assert find(kept, [1, 2, 3, 4]) is None
    assert find(kept, [1, 2]) == [1, 2]


def test_a_later_turn_replaces_the_earlier_ones():
    kept = worker()
    keep(kept, [1, 2])
    keep(kept, [9])
    keep(kept, [1, 2, 3])
    assert (len(kept), kept.total) == (2, 4)
    keep(kept, [1])
    assert (len(kept), kept.total) == (2, 4), "what is there already is not kept twice"


def test_age_counts_from_the_last_use():
    kept = worker(kept_ms=100.0)
    keep(kept, [1, 2], 0.0)
    keep(kept, [3, 4], 0.0)
    assert find(kept, [1, 2], 90.0) == [1, 2]
    assert find(kept, [3, 4], 100.0) is None
    assert find(kept, [1, 2], 189.0) == [1, 2]
    assert find(kept, [1, 2], 289.0) is None
    assert (len(kept), kept.total) == (0, 0)


def test_the_least_recently_used_goes_first():
    kept = worker(kept_sequences=2)
    for tokens in ([1], [2]):
        keep(kept, tokens)
    assert find(kept, [1]) == [1]
    keep(kept, [3])
    assert [find(kept, [token]) for token in (1, 2, 3)] == [[1], None, [3]]


def test_a_conversation_has_one_entry_and_goes_first():
    ended = controller()
    sent(ended, [1, 2, 3], conversation="c")
    sent(ended, [1, 2, 4, 5], conversation="c")
    sent(ended, [1, 2, 3, 6])
    assert len(ended) == 2
    assert claims(ended, [1, 2, 3, 6], conversation="c") == {0: 2}
    assert claims(ended, [1, 2, 3, 6]) == {0: 4}
    assert claims(ended, [1, 2, 3, 6], conversation="unknown") == {0: 4}
    assert claims(ended, [1, 2, 3, 6, 7], conversation="") == {0: 4}


def test_each_link_has_its_own_and_another_worker_has_nothing():
    ended = controller()
    ended.welcomed(0, b"w")
    sent(ended, [1, 2, 3], link=0)
    sent(ended, [1, 2], link=1)
    assert claims(ended, [1, 2, 3, 4]) == {0: 3, 1: 2}
    ended.welcomed(0, b"w")
    assert claims(ended, [1, 2, 3, 4]) == {0: 3, 1: 2}
    ended.welcomed(0, b"x")
    assert claims(ended, [1, 2, 3, 4]) == {1: 2}


@pytest.mark.parametrize(("config", "now"), [({"kept_sequences": 0}, 0.0), ({"kept_ms": 50.0}, 50.0)])
def test_what_a_controller_no_longer_believes(config, now):
    ended = controller(**config)
    sent(ended, [1, 2, 3])
    assert claims(ended, [1, 2, 3], now) == {}


def test_short_prefixes_are_not_worth_a_name():
    ended = controller(least_reuse=4)
    sent(ended, [1, 2, 3])
    assert len(ended) == 0
    sent(ended, [1, 2, 3, 4, 5])
    assert claims(ended, [1, 2, 3, 9]) == {}
    assert claims(ended, [1, 2, 3, 4, 9]) == {0: 4}
