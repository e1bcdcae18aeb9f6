"""Sampling and options in controller and worker: what engines and worker are asked for, and what ends an answer."""

from __future__ import annotations

from dataclasses import replace
from math import inf, log, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.core_doubles import PRINT, VOCAB, Bench, Rig, emitted, finished, messages_in, of, one
from wanspec.core.config import ControllerConfig, SamplingMode
from wanspec.core.coupling import coupled_acceptance
from wanspec.core.drafting import Expansion
from wanspec.core.eventlog import event_line, read_log, start_line
from wanspec.core.events import Draft, Drafted, Expand, Expanded, Request, Submitted, Verify
from wanspec.core.messages import Drafts, Lost, LostCode, Open
from wanspec.core.options import GenerationOptions
from wanspec.core.sampling import Sampling
from wanspec.core.tree import Origin, TokenTree
from wanspec.errors import InvalidRequestError

SAMPLING = Sampling(0.75, 40, 0.875, 123)
OPTIONS = GenerationOptions(bad_words=((4,),), presence_penalty=0.5)


@pytest.fixture
def rig():
    return Rig()


@pytest.fixture
def bench():
    bench = Bench()
    bench.greet()
    return bench


def test_engines_and_worker_get_the_sampling_of_the_request_in_every_round(rig):
    rig.link_up()
    actions = rig.submit(policy="wanspec", sampling=SAMPLING, options=OPTIONS)
    opened = one(Open, messages_in(actions)).drafting
    assert (opened.temperature, opened.top_k, opened.top_p, opened.seed) == (0.75, 40, 0.875, 123)
    for token in (9, 8):
        verify = one(Verify, actions)
        assert (verify.sampling, verify.options) == (SAMPLING, OPTIONS)
        actions = rig.answer(actions, token)
        draft = one(Draft, actions)
        assert (draft.sampling, draft.options) == (SAMPLING, OPTIONS)
        actions = rig.do(Drafted(draft.action, (3,), (-0.1,), 5.0))
        while of(Draft, actions):
            actions = rig.do(Drafted(one(Draft, actions).action, (3,), (-0.1,), 5.0))


def test_a_greedy_request_opens_as_ever(rig):
    rig.link_up()
    for number, sampling in enumerate((Sampling(), Sampling(0.0, 40, 0.5, 7), Sampling(1.0, top_k=1, seed=3)), 1):
        opened = one(Open, messages_in(rig.submit(number, policy="wanspec", sampling=sampling))).drafting
        assert (opened.temperature, opened.top_k, opened.top_p, opened.seed) == (0.0, 0, 1.0, 0)


def test_with_one_hot_logits_drafts_are_greedy_and_the_target_samples():
    rig = Rig(sampling=SamplingMode.TENSORRT_LLM)
    rig.link_up()
    actions = rig.submit(policy="local", sampling=SAMPLING)
    assert one(Verify, actions).sampling == SAMPLING
    assert one(Draft, rig.answer(actions, 9)).sampling.greedy
    opened = one(Open, messages_in(rig.submit(2, policy="wanspec", sampling=SAMPLING))).drafting
    assert opened.temperature == 0.0


BAD = [
    (Sampling(1e-4), "temperature", "0.001 to 100"),
    (Sampling(1e9), "temperature", "0.001 to 100"),
    (Sampling(1.0, top_k=1 << 31), "top_k", "2147483647"),
    (Sampling(1.0, top_p=1e-9), "top_p", "1e-06 to 1"),
    (GenerationOptions(min_tokens=-1), "min_tokens", "max_tokens, 10"),
    (GenerationOptions(min_tokens=11), "min_tokens", "max_tokens, 10"),
    (GenerationOptions(repetition_penalty=0.0), "repetition_penalty", "0.01 to 100"),
    (GenerationOptions(repetition_penalty=nan), "repetition_penalty", "0.01 to 100"),
    (GenerationOptions(presence_penalty=inf), "presence_penalty", "-100 to 100"),
    (GenerationOptions(frequency_penalty=-101.0), "frequency_penalty", "-100 to 100"),
    (GenerationOptions(stop_words=((),)), "stop_words", "1 to 64"),
    (GenerationOptions(stop_words=((VOCAB,),)), "stop_words", f"0 to {VOCAB - 1}"),
    (GenerationOptions(bad_words=((1,) * 65,)), "bad_words", "1 to 64"),
    (GenerationOptions(bad_words=((1,),) * 65), "bad_words", "limit is 64"),
    (GenerationOptions(logit_bias=((-1, 1.0),)), "logit_bias", f"0 to {VOCAB - 1}"),
    (GenerationOptions(logit_bias=((1, 1.0), (1, 2.0))), "logit_bias", "once"),
    (GenerationOptions(logit_bias=((1, nan),)), "logit_bias", "-100 to 100"),
    (GenerationOptions(logit_bias=tuple((token, 0.0) for token in range(301))), "logit_bias", "limit is 300"),
]


@pytest.mark.parametrize(("value", "field", "limit"), BAD)
def test_bad_values_are_refused_with_field_and_limit(rig, value, field, limit):
    name = "sampling" if isinstance(value, Sampling) else "options"
    with pytest.raises(InvalidRequestError, match=limit) as caught:
        rig.submit(**{name: value})
    assert caught.value.field == field
    assert not rig.controller.sequences


# Options over rounds


def test_no_pass_that_may_not_end_goes_beyond_min_tokens(rig):
    """Rounds of one, then three, then the rest: end tokens are bad words in those that stay below four tokens."""
    actions = rig.submit(
        policy="local", parameters={"k": 8}, end_ids=frozenset({2, 1}), options=replace(OPTIONS, min_tokens=4)
    )
    held = one(Verify, actions)
    assert held.options.bad_words == ((4,), (1,), (2,))
    draft = one(Draft, rig.answer(actions, 9))
    assert draft.count == 2
    assert draft.options.bad_words == ((4,), (1,), (2,))
    actions = rig.do(Drafted(draft.action, (7, 8), (-0.1, -0.1), 5.0))
    assert one(Verify, actions).options.bad_words == ((4,), (1,), (2,))
    draft = one(Draft, rig.answer(actions, 7, 8, 3))
    assert draft.count == 5  # 10 wanted, 4 there, one is the target's own
    assert draft.options == replace(OPTIONS, min_tokens=4)
    actions = rig.do(Drafted(draft.action, (5,) * 5, (-0.1,) * 5, 5.0))
    assert one(Verify, actions).options.bad_words == ((4,),)
    assert finished(rig.answer(actions, 5, 2)).reason == "stop"


def test_min_tokens_without_end_tokens_shortens_nothing(rig):
    actions = rig.submit(policy="local", parameters={"k": 5}, options=GenerationOptions(min_tokens=4))
    assert one(Draft, rig.answer(actions, 9)).count == 5


@pytest.mark.parametrize(
    ("word", "answers", "expected"),
    [
        ((8,), [(9,), (8,)], (9, 8)),
        ((9, 8), [(9,), (8,)], (9, 8)),
        ((7, 9), [(9,)], (9,)),  # begins in the prompt
        ((6, 7, 9, 8), [(9,), (8,)], (9, 8)),
        ((9, 8), [(9,), (9,), (8,)], (9, 9, 8)),
    ],
)
def test_a_stop_word_that_spans_rounds_ends_the_answer_and_is_part_of_it(rig, word, answers, expected):
    actions, tokens = rig.submit(policy="target_only", options=GenerationOptions(stop_words=((99, 98), word))), ()
    for answer in answers:
        assert tokens != expected
        actions = rig.answer(actions, *answer)
        tokens += emitted(actions)
    assert tokens == expected
    assert finished(actions).reason == "stop"


def test_a_stop_word_inside_accepted_drafts_cuts_what_follows(rig):
    actions = rig.submit(policy="local", parameters={"k": 4}, options=GenerationOptions(stop_words=((9, 1),)))
    draft = one(Draft, rig.answer(actions, 9))
    actions = rig.do(Drafted(draft.action, (1, 2, 3, 4), (-0.1,) * 4, 5.0))
    actions = rig.answer(actions, 1, 2, 3, 4, 5)
    assert emitted(actions) == (1,)
    assert finished(actions).reason == "stop"


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
    st.lists(st.integers(1, 4), min_size=12, max_size=12),
)
def test_stop_words_end_every_chunking_at_the_same_token(output, words, sizes):
    """Drafts accepted in rounds of any length against the definition, applied to the whole output."""
    whole = [5, 6, 3]
    expected = []
    for token in output:
        expected.append(token)
        whole.append(token)
        if any(tuple(whole[-len(word) :]) == word for word in words):
            break
    rig, rest, tokens = Rig(), list(output), []
    actions = rig.submit(
        prompt=(5, 6, 3),
        max_tokens=len(output),
        policy="local",
        parameters={"k": 4},
        options=GenerationOptions(stop_words=words),
    )
    for size in sizes:
        while of(Draft, actions):
            draft = one(Draft, actions)
            drafted = tuple(rest[len(draft.path) :][: min(draft.count, size)])
            actions = rig.do(Drafted(draft.action, drafted, (-0.1,) * len(drafted), 5.0))
        count = len(one(Verify, actions).drafts) + 1
        actions = rig.answer(actions, *rest[:count])
        rest = rest[count:]
        tokens += emitted(actions)
        if not rig.controller.sequences:
            break
    assert tokens == expected


# What says whether the worker has foreseen the target's own token


def entropy_seen(rig, monkeypatch, nodes, answer, log_prob, **request):
    seen = []
    actions = rig.submit(policy="wanspec", parameters={"k": 1}, **request)
    sequence = rig.sequence()
    monkeypatch.setattr(type(sequence.policy), "verified", lambda self, outcome, now: seen.append(outcome.entropy))
    rig.drafts((5, 6, 7), 1, nodes)
    rig.answer(actions, answer, log_prob=log_prob)
    return seen[0]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([(0xFFFFFFFF, 9, -3.0)], 0.0),  # drafted
        ([(0xFFFFFFFF, 8, -0.1)], None),  # another was
        ([], 2.5),  # nothing has come yet: -log p
    ],
)
def test_sampled_bonus_tokens_are_foreseen_where_the_tree_has_them(rig, monkeypatch, nodes, expected):
    rig.link_up()
    assert entropy_seen(rig, monkeypatch, nodes, 9, -2.5, sampling=SAMPLING) == expected


def test_greedy_bonus_tokens_are_judged_by_their_probability_as_ever(rig, monkeypatch):
    rig.link_up()
    assert entropy_seen(rig, monkeypatch, [(0xFFFFFFFF, 8, -0.1)], 9, -0.01) == pytest.approx(0.0857, abs=1e-3)


# The worker


def expanded(bench, actions, tokens, log_probs, margins, entropy=1.0):
    action = one(Expand, actions)
    done = Expansion(
        np.array([tokens], dtype=np.int32),
        np.array([log_probs], dtype=np.float32),
        np.array([entropy], dtype=np.float32),
        7.5,
        None if margins is None else np.array([margins], dtype=np.float32),
    )
    return bench.do(Expanded(action.number, done))


def open_sampled(bench, **drafting):
    return bench.open(branching=2, temperature=0.75, top_k=40, top_p=0.875, seed=123, **drafting)


def test_the_engine_is_told_how_the_target_draws(bench):
    assert one(Expand, open_sampled(bench)).batch[0].sampling == SAMPLING


@pytest.mark.parametrize("drafting", [{}, {"temperature": 1.0, "top_k": 1, "seed": 5}])
def test_a_greedy_target_is_none_of_its_business(bench, drafting):
    assert one(Expand, bench.open(**drafting)).batch[0].sampling is None


def test_children_keep_their_order_and_carry_their_chances(bench):
    actions = expanded(bench, open_sampled(bench), (30, 20), (-6.0, -0.2), 1.0)
    (drafts,) = messages_in(actions, Drafts)
    assert [node.token for node in drafts.nodes] == [30, 20]
    expected = [log(coupled_acceptance(1.0, rank)) for rank in (0, 1)]
    assert [node.log_prob for node in drafts.nodes] == pytest.approx(expected, abs=1e-2)
    # The first child is the likelier one to be drawn, so it is the one to go on from.
    assert one(Expand, actions).batch[0].leaves == ((30,),)


def test_an_engine_that_gives_no_margins_is_taken_by_its_log_probs(bench):
    (drafts,) = messages_in(expanded(bench, open_sampled(bench), (30, 20), (-1.0, -2.0), None), Drafts)
    assert [node.log_prob for node in drafts.nodes] == [-1.0, -2.0]


@pytest.mark.parametrize("margin", [nan, -1.0])
def test_margins_that_cannot_be_fail_the_pass(bench, margin):
    actions = expanded(bench, open_sampled(bench), (30, 20), (-1.0, -2.0), margin)
    assert one(Lost, messages_in(actions)).code is LostCode.ENGINE


@pytest.mark.parametrize("bad", [{"temperature": nan}, {"temperature": -1.0}, {"temperature": 1.0, "top_p": 0.0}])
def test_numbers_that_make_no_sense_are_a_desynchronisation(bench, bad):
    assert one(Lost, messages_in(bench.open(**bad))).code is LostCode.DESYNC


@given(st.floats(0, inf), st.floats(0, inf), st.integers(0, 7))
def test_chances_are_probabilities_that_fall_with_rank_and_rise_with_the_margin(margin, more, rank):
    chances = [coupled_acceptance(margin, r) for r in range(8)]
    assert all(0.0 < chance <= 1.0 for chance in chances)
    assert sum(chances) <= 1.0 + 1e-4
    assert coupled_acceptance(margin + more, 0) >= chances[0]
    assert rank == 0 or chances[rank] <= max(chances[rank - 1], 1e-6)


# The controller's tree


def test_the_best_path_follows_the_order_of_the_proposer_and_not_the_probability():
    tree = TokenTree([1])
    first = tree.add(tree.root, 30, -6.0, Origin.REMOTE, 0.0, 0)
    tree.add(tree.root, 20, -0.2, Origin.REMOTE, 0.0, 1)
    assert tree.best_path(3) == [first]
    local = tree.add(tree.root, 25, -5.0, Origin.LOCAL, 1.0)
    assert tree.best_path(3) == [local]


def test_remote_children_take_their_rank_from_their_place_in_the_message(rig):
    rig.link_up()
    rig.submit(policy="remote_sync", parameters={"k": 2}, sampling=SAMPLING)
    root = 0xFFFFFFFF
    rig.drafts((5, 6, 7), 1, [(root, 9, -0.5), (root, 8, -0.1), (0, 3, -4.0), (1, 4, -0.1), (0, 2, -0.1)])
    assert [node.token for node in rig.sequence().tree.best_path(5)] == [9, 3]


# The log

words = st.lists(st.lists(st.integers(0, 99), max_size=3).map(tuple), max_size=3).map(tuple)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(Sampling, st.floats(0, 9), st.integers(0, 99), st.floats(0.1, 1.0), st.integers(0, (1 << 64) - 1)),
    st.builds(
        GenerationOptions,
        st.integers(0, 9),
        words,
        words,
        numbers,
        numbers,
        numbers,
        st.lists(st.tuples(st.integers(0, 9), numbers), max_size=3).map(tuple),
    ),
)
def test_requests_survive_their_line(sampling, options):
    event = Submitted(3, Request((1, 2), 5, frozenset({4}), sampling=sampling, options=options))
    rig = Rig(sampling=SamplingMode.TENSORRT_LLM)
    start, _, entries = read_log([start_line(rig.controller.log_start(), 0.0), event_line(event, 1.0)])
    assert entries == [(1.0, event)]
    assert start.config == ControllerConfig(PRINT, sampling=SamplingMode.TENSORRT_LLM)
    assert start.config.sampling is SamplingMode.TENSORRT_LLM
