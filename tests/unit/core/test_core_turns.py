"""Later turns and long prompts: what is named, what is sent, in which pieces, and what a worker makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.unit.core.core_doubles import WORKER, Bench, Rig, finished, hash_of, messages_in, of, one
from wanspec.core.events import Cancelled, Connected, Disconnected, Expand, ExpandFailed, Send, Tick
from wanspec.core.messages import (
    ROOT,
    Close,
    Commit,
    Drafting,
    Drafts,
    Lost,
    LostCode,
    Open,
    PassReport,
    Prefilled,
    Welcome,
)
from wanspec.core.outbox import best_link
from wanspec.core.wire import decode

TURN = tuple(range(1, 21))
LONG = tuple(range(1, 91))
DRAFTING = Drafting(branching=1, theta=0.0, width=1)


@pytest.fixture
def rig():
    rig = Rig(least_reuse=4)
    rig.link_up()
    return rig


@pytest.fixture
def bench():
    bench = Bench(prefill_tokens=8)
    bench.greet()
    return bench


def opened(actions):
    return one(Open, messages_in(actions))


def ended_turn(rig, prompt=TURN, number=1, **request):
    """A turn whose worker was sent the prompt and one commit; the last token it was not."""
    actions = rig.submit(number, prompt, max_tokens=2, policy="wanspec", **request)
    return rig.answer(rig.answer(actions, 50), 51)


# The controller


def test_the_next_turn_names_what_was_sent_and_sends_the_rest(rig):
    ended_turn(rig)
    prompt = (*TURN, 50, 51, 60, 61)
    actions = rig.submit(2, prompt)
    known = (*TURN, 50)
    message = opened(actions)
    assert (message.prefix_length, message.prefix_hash) == (len(known), hash_of(known))
    assert (message.tokens, message.hash, message.following) == ((51, 60, 61), hash_of(prompt), 0)
    assert message.length == len(prompt)


def test_a_prompt_that_begins_otherwise_is_sent_whole(rig):
    ended_turn(rig)
    message = opened(rig.submit(2, (99, *TURN)))
    assert (message.prefix_length, message.prefix_hash, message.tokens) == (0, 0, (99, *TURN))


def test_the_same_prompt_again_sends_no_token(rig):
    ended_turn(rig)
    message = opened(rig.submit(2, TURN))
    assert (message.prefix_length, message.tokens) == (len(TURN), ())


def test_a_worker_that_lacks_the_prefix_gets_the_whole(rig):
    ended_turn(rig)
    prompt = (*TURN, 60)
    actions = rig.submit(2, prompt)
    assert opened(actions).prefix_length == len(TURN)
    message = opened(rig.hear(Lost(2, 1, LostCode.PREFIX, 0)))
    assert (message.epoch, message.prefix_length, message.tokens) == (2, 0, prompt)
    assert rig.sequence(2).tally.failures == 0


def test_a_worker_that_lacks_it_always_gets_it_whole_each_time():
    rig = Rig(least_reuse=4, reopen_limit=0)
    rig.link_up()
    ended_turn(rig)
    rig.submit(2, (*TURN, 60))
    assert opened(rig.hear(Lost(2, 1, LostCode.PREFIX, 0))).prefix_length == 0
    assert not messages_in(rig.hear(Lost(2, 2, LostCode.DESYNC, 0)), Open), "this one is counted"


def test_another_worker_is_not_asked_for_it(rig):
    ended_turn(rig)
    rig.do(Disconnected(0, "gone"))
    rig.do(Tick(), at=rig.now + 1_000.0)
    rig.do(Connected(0))
    rig.hear(Welcome(b"another-worker-1", 100, rig.controller.config.fingerprint.tokenizer_hash, "d", 8, 512))
    assert opened(rig.submit(2, (*TURN, 60))).prefix_length == 0


def test_after_a_lost_link_what_drafts_have_confirmed_is_named(rig):
    rig.submit(1, TURN, max_tokens=9)
    rig.drafts(TURN, 1, [(ROOT, 50, -0.1)])
    rig.do(Disconnected(0, "gone"))
    rig.do(Tick(), at=rig.now + 1_000.0)
    rig.do(Connected(0))
    message = opened(rig.hear(Welcome(WORKER, 100, rig.controller.config.fingerprint.tokenizer_hash, "d", 8, 512)))
    assert (message.epoch, message.prefix_length, message.tokens) == (2, len(TURN), ())
    assert opened(rig.hear(Lost(1, 2, LostCode.PREFIX, 0))).tokens == TURN


def test_a_cancelled_turn_is_of_use_too(rig):
    rig.submit(1, TURN, max_tokens=9)
    rig.do(Cancelled(1))
    assert opened(rig.submit(2, (*TURN, 60))).prefix_length == len(TURN)


def test_a_conversation_goes_where_most_of_it_is():
    links = [SimpleNamespace(number=number, up=True) for number in range(3)]
    remote = SimpleNamespace(number=5, length=30, claims={1: 20, 2: 15})
    assert best_link(links, remote, 1) == 1
    links[1].up = False
    assert best_link(links, remote, 1) == 2
    links[2].up = False
    assert best_link(links, remote, 1) == 0
    assert best_link([], remote, 1) is None


def test_the_streams_to_a_worker_share_what_is_new_or_nearly():
    links = [SimpleNamespace(number=number, up=True) for number in range(4)]
    for claims in ({}, {0: 14}):
        chosen = [best_link(links, SimpleNamespace(number=n, length=30, claims=claims), 2) for n in range(4)]
        assert chosen == [0, 1, 0, 1]
    assert best_link(links, SimpleNamespace(number=1, length=30, claims={0: 15}), 2) == 0
    links[0].up = links[1].up = False
    assert best_link(links, SimpleNamespace(number=1, length=30, claims={}), 2) == 3


def test_summaries_count_what_the_worker_computed(rig):
    rig.submit(1, TURN, max_tokens=1)
    rig.hear(Prefilled(1, 1, 20, 20))
    rig.hear(Prefilled(1, 7, 20, 99), Prefilled(3, 1, 20, 99))
    summary = finished(rig.do(Cancelled(1))).summary
    assert summary["remote_prefill_tokens"] == 20


# Pieces


def piece_rig(**config):
    rig = Rig(piece_tokens=10, upload_bytes=200, **config)
    rig.link_up()
    return rig


def acknowledged(rig, actions, *messages):
    """Answer the last frame of the actions."""
    sent = decode(of(Send, actions)[-1].data).header.sent
    return rig.hear(*messages, echo=sent, echo_received=1)


def test_a_long_prompt_goes_in_pieces_as_they_are_answered():
    rig = piece_rig()
    actions = rig.submit(1, LONG)
    message = opened(actions)
    assert (message.tokens, message.hash, message.following) == (LONG[:10], hash_of(LONG[:10]), 80)
    received = list(message.tokens)
    frames = 0
    while pieces := messages_in(actions, Commit):
        assert all(len(decode(send.data).messages) == 1 for send in of(Send, actions))
        assert sum(len(send.data) for send in of(Send, actions)[-len(pieces) :]) <= 200 + 120
        for piece in pieces:
            assert piece.from_length == len(received)
            received += piece.tokens
            assert piece.hash == hash_of(received)
            frames += 1
        assert not messages_in(rig.hear()), "nothing new was answered"
        actions = acknowledged(rig, actions)
    assert tuple(received) == LONG
    assert frames == 8
    sequence = rig.sequence()
    assert not sequence.remote.uploading
    assert sequence.tally.bytes_up == rig.link.counters.bytes_up - 42 * (frames + 2) - 5 - 52 - len("draft-1") - 4


def test_others_are_not_kept_waiting_by_a_long_prompt():
    rig = piece_rig()
    rig.submit(1, LONG)
    (send,) = of(Send, rig.submit(2, (5, 6, 7)))
    (message,) = decode(send.data).messages
    assert (message.sequence, message.tokens) == (2, (5, 6, 7))


def test_tokens_committed_meanwhile_go_with_the_last_piece():
    rig = piece_rig()
    begun = rig.submit(1, LONG)
    actions = rig.answer(begun, 77)
    assert not messages_in(actions, Commit)
    received = list(LONG[:10])
    pending = begun
    for _ in range(20):
        for piece in messages_in(pending, Commit):
            assert piece.from_length == len(received)
            received += piece.tokens
        if not rig.sequence().remote.uploading:
            break
        pending = acknowledged(rig, pending)
    assert received == [*LONG, 77]


def test_two_long_prompts_take_turns():
    rig = Rig(piece_tokens=10, upload_bytes=1)
    rig.link_up()
    actions = rig.submit(1, LONG)
    assert [m.sequence for m in messages_in(actions, Commit)] == [1]
    assert not messages_in(rig.submit(2, LONG), Commit), "no room"
    order = []
    for _ in range(20):
        actions = acknowledged(rig, actions)
        order += [m.sequence for m in messages_in(actions, Commit)]
        if not of(Send, actions):
            break
    assert sorted(order) == [1] * 7 + [2] * 8
    assert {1, 2} == set(order)


def test_an_upload_ends_with_its_request():
    rig = piece_rig()
    actions = rig.submit(1, LONG)
    messages = messages_in(rig.do(Cancelled(1)))
    assert messages == [Close(1, 1)]
    assert not messages_in(acknowledged(rig, actions))
    assert rig.link.upload_room == 200


def test_a_lost_link_frees_the_room_of_its_pieces():
    rig = piece_rig()
    rig.submit(1, LONG)
    assert rig.link.upload_room <= 0
    rig.do(Disconnected(0, "gone"))
    rig.do(Tick(), at=rig.now + 1_000.0)
    rig.do(Connected(0))
    assert rig.link.upload_room == 200


# The worker


def test_a_worker_takes_a_prefix_that_it_keeps(bench):
    bench.expand(bench.open(1, TURN[:6]))
    bench.steer(Commit(1, 1, 6, hash_of(TURN[:8]), TURN[6:8]))
    bench.steer(Close(1, 1))
    prompt = (*TURN[:7], 70, 71)
    message = Open(2, 1, (70, 71), hash_of(prompt), DRAFTING, "", 0, 7, hash_of(prompt[:7]))
    bench.steer(message)
    assert bench.worker.sequences[next(iter(bench.worker.sequences))].tree.tokens == list(prompt)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Open(2, 1, (70,), hash_of((5, 6, 70)), DRAFTING, "", 0, 2, hash_of((5, 9))), LostCode.PREFIX),
        (Open(2, 1, (70,), hash_of((5, 6, 7, 8, 70)), DRAFTING, "", 0, 4, hash_of((5, 6, 7, 8))), LostCode.PREFIX),
        (Open(2, 1, (70,), hash_of((5, 6, 71)), DRAFTING, "", 0, 2, hash_of((5, 6))), LostCode.DESYNC),
        (Open(2, 1, (), hash_of(()), DRAFTING), LostCode.DESYNC),
        (Open(2, 1, (70,), hash_of((70,)), DRAFTING, "", 1 << 20), LostCode.CONTEXT),
    ],
)
def test_mistaken_openings(bench, message, code):
    bench.expand(bench.open(1, (5, 6, 7)))
    bench.steer(Close(1, 1))
    (lost,) = messages_in(bench.steer(message), Lost)
    assert (lost.sequence, lost.code) == (2, code)
    assert not bench.worker.sequences


def test_what_was_lost_is_not_kept(bench):
    bench.open(1, (5, 6, 7))
    bench.steer(Commit(1, 1, 3, 12345, (8,)))
    (lost,) = messages_in(bench.steer(Open(2, 1, (), 0, DRAFTING, "", 0, 2, hash_of((5, 6)))), Lost)
    assert lost.code is LostCode.PREFIX


def test_a_link_that_is_lost_leaves_its_tokens_to_the_next(bench):
    bench.open(1, (5, 6, 7))
    bench.do(Disconnected(1, "gone"))
    assert not bench.worker.sequences
    bench.greet(link=2)
    bench.steer(Open(1, 2, (8,), hash_of((5, 6, 7, 8)), DRAFTING, "", 0, 3, hash_of((5, 6, 7))))
    assert len(bench.worker.sequences) == 1


def test_drafting_begins_when_all_pieces_have_come(bench):
    actions = bench.steer(Open(1, 1, TURN[:4], hash_of(TURN[:4]), DRAFTING, "", 6))
    (item,) = one(Expand, actions).batch
    assert (item.length, item.leaves) == (4, ((),)), "what is there is computed"
    actions = bench.expand(actions)
    assert not messages_in(actions, Drafts)
    assert not of(Expand, actions)
    actions = bench.steer(Commit(1, 1, 4, hash_of(TURN[:10]), TURN[4:10]))
    (item,) = one(Expand, actions).batch
    assert item.length == 10
    (report, prefilled, drafts) = messages_in(bench.expand(actions))
    assert isinstance(report, PassReport)
    assert prefilled == Prefilled(1, 1, 10, 10)
    assert drafts.length == 10


def test_pieces_may_come_in_any_order(bench):
    bench.steer(Open(1, 1, TURN[:4], hash_of(TURN[:4]), DRAFTING, "", 6))
    bench.steer(Commit(1, 1, 7, hash_of(TURN[:10]), TURN[7:10]))
    bench.steer(Commit(1, 1, 4, hash_of(TURN[:7]), TURN[4:7]))
    (sequence,) = bench.worker.sequences.values()
    assert sequence.complete
    assert sequence.hash == hash_of(TURN[:10])


def test_a_long_prompt_is_computed_over_several_passes_beside_others(bench):
    actions = bench.expand(bench.open(1, (5, 6, 7)))
    bench.open(2, TURN)
    lengths, others = [], 0
    for _ in range(9):
        actions = bench.expand(actions, 9)
        if not of(Expand, actions):
            break
        batch = {item.key[1]: item for item in one(Expand, actions).batch}
        others += 1 in batch
        if 2 in batch:
            lengths.append(batch[2].length)
        if messages_in(actions, Prefilled):
            break
    assert lengths[:3] == [8, 16, 20], "8 tokens of a prompt in a pass"
    assert others >= 3
    assert messages_in(actions, Prefilled)[-1] == Prefilled(2, 1, 20, 20)


def test_a_failed_part_of_a_prompt_is_told(bench):
    actions = bench.open(1, TURN)
    (lost,) = messages_in(bench.do(ExpandFailed(one(Expand, actions).number, "out of memory")), Lost)
    assert (lost.sequence, lost.code) == (1, LostCode.ENGINE)


def test_a_sequence_that_ends_while_its_prompt_is_computed(bench):
    actions = bench.open(1, TURN)
    bench.steer(Close(1, 1))
    assert not messages_in(bench.expand(actions))
    assert not bench.worker.sequences
