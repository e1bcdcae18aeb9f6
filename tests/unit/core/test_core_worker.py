"""The worker: greeting, opens, commits, passes, limits."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.core.core_doubles import CONTROLLER, PRINT, VOCAB, Bench, hash_of, messages_in, of, one
from wanspec.core.costs import UNMEASURED, CostModel, CostTable
from wanspec.core.drafting import Expansion
from wanspec.core.events import (
    Disconnect,
    Disconnected,
    Expand,
    Expanded,
    ExpandFailed,
    LinkOpened,
    Release,
    Steered,
    Tick,
)
from wanspec.core.messages import (
    ROOT,
    Close,
    Commit,
    Drafting,
    DraftNode,
    Drafts,
    Hello,
    Lost,
    LostCode,
    Open,
    PassReport,
    Prefilled,
    Refuse,
    RefuseCode,
    Welcome,
)
from wanspec.core.peer import Peer
from wanspec.core.wire import decode


@pytest.fixture
def patient():
    """A worker whose passes may take for ever, for tests that never answer one."""
    bench = Bench(pass_ms=float("inf"))
    bench.greet()
    return bench


@pytest.fixture
def bench():
    bench = Bench()
    bench.greet()
    return bench


def commit(bench, tokens, *new, number=1, epoch=1, digest=None):
    digest = hash_of([*tokens, *new]) if digest is None else digest
    return bench.steer(Commit(number, epoch, len(tokens), digest, new))


# Greeting


def test_welcome():
    bench = Bench(max_sequences=8, context=64)
    (welcome,) = messages_in(bench.greet())
    assert welcome == Welcome(bench.worker.instance, VOCAB, PRINT.tokenizer_hash, "draft-1", 8, 64)


@pytest.mark.parametrize(
    ("hello", "code", "reason"),
    [
        ({"vocab_size": 99}, RefuseCode.VOCABULARY, "vocab_size: the target has 99, the draft draft-1 100"),
        ({"tokenizer_hash": b"x" * 32}, RefuseCode.TOKENIZER, "tokenizer: the target's (787878787878) is not that of"),
        ({"token": "wrong"}, RefuseCode.AUTHENTICATION, "auth_token: not the worker's"),
        ({"token": ""}, RefuseCode.AUTHENTICATION, "auth_token"),
        ({"token": "sécret"}, RefuseCode.AUTHENTICATION, "auth_token"),
        ({"instance": b"x" * 16}, RefuseCode.VERSION, "the first frame of a link holds a hello of its sender"),
    ],
)
def test_refused_hellos(hello, code, reason):
    bench = Bench(auth_token="secret")
    actions = bench.greet(**{"token": "secret", **hello})
    (refuse,) = messages_in(actions, Refuse)
    assert refuse.code is code
    assert refuse.reason.startswith(reason)
    assert one(Disconnect, actions).link == 1
    assert bench.worker.counters.refused == 1
    assert bench.open() == []
    assert not bench.worker.sequences


def test_a_first_frame_without_a_hello_or_of_another_version_is_refused(bench):
    actions = bench.do(LinkOpened(2, bench.frame(Close(1, 1))))
    assert messages_in(actions, Refuse)[0].code is RefuseCode.VERSION
    other = bytearray(bench.frame(Hello(CONTROLLER, VOCAB, PRINT.tokenizer_hash)))
    other[2] = 1
    assert "version: the peer speaks 1" in one(Disconnect, bench.do(LinkOpened(3, bytes(other)))).reason
    assert bench.worker.counters.malformed == 1


def test_a_refused_link_leaves_the_good_one_alone(bench):
    bench.open()
    bench.greet(link=2, vocab_size=3)
    assert len(bench.worker.sequences) == 1
    assert of(Expand, bench.open(2)) == []  # a pass is under way; the sequence waits for the next
    assert len(bench.worker.sequences) == 2


def test_a_second_link_of_a_controller_replaces_the_first(bench):
    bench.open()
    actions = bench.greet(link=2)
    assert one(Disconnect, actions).link == 1
    assert len(of(Release, actions)) == 1
    assert not bench.worker.sequences
    bench.do(Disconnected(1, "late"))
    bench.open(2)
    assert len(bench.worker.sequences) == 1


def test_the_same_first_frame_twice_changes_nothing(bench):
    bench.open()
    assert bench.greet(link=1) == []
    assert len(bench.worker.sequences) == 1


def test_strangers_and_nonsense_are_counted_and_dropped(bench):
    assert bench.steer(Open(1, 1, (1,), hash_of([1])), sender=99) == []
    assert bench.do(Steered(b"nonsense")) == []
    assert bench.steer(PassReport(1, 1, 1, 1)) == []
    assert bench.do(Steered(bench.frame(Close(1, 1))[:-1])) == []
    counters = bench.worker.counters
    assert (counters.foreign, counters.malformed) == (3, 1)


def test_replies_at_once_when_asked_and_echoes_the_clock(bench):
    assert bench.steer() == []
    actions = bench.steer(want_reply=True)
    (send,) = actions
    header = decode(send.data).header
    assert (header.echo, header.echo_received, header.sent) == (3, 1_000_000, 1_000_000)
    assert not header.want_reply


# Drafting


def test_a_pass_and_its_drafts(bench):
    actions = bench.open(branching=2, theta=0.5, width=2)
    action = one(Expand, actions)
    (item,) = action.batch
    assert (list(item.prefix[: item.length]), item.leaves, action.top) == ([5, 6, 7], ((),), 2)
    bench.now += 10.0
    actions = bench.expand(actions, 9, 8, entropy=0.6)
    report, prefilled, drafts = messages_in(actions)
    assert report == PassReport(7.5, 2.5, 1, 1, prefills=1)
    assert prefilled == Prefilled(1, 1, 3, 3)
    assert (drafts.length, drafts.hash, drafts.first, drafts.passes) == (3, hash_of([5, 6, 7]), 0, 1)
    assert [(n.parent, n.token) for n in drafts.nodes] == [(ROOT, 9), (ROOT, 8)]
    (item,) = one(Expand, actions).batch
    assert item.leaves == ((9,), (8,))
    actions = bench.expand(actions, 4, 3, entropy=0.4)  # below theta: the most likely child only
    (drafts,) = messages_in(actions, Drafts)
    assert (drafts.first, drafts.passes, [n.parent for n in drafts.nodes]) == (2, 2, [0, 1])


def test_depth_limit_stops_and_a_commit_goes_on(bench):
    actions = bench.expand(bench.open(max_depth=1), 9)
    assert not of(Expand, actions)
    actions = commit(bench, [5, 6, 7], 9)
    (item,) = one(Expand, actions).batch
    assert (item.length, item.leaves) == (4, ((),))


def test_context_limit():
    bench = Bench(context=5)
    bench.greet()
    assert not of(Expand, bench.expand(bench.expand(bench.open(), 9), 9))
    (lost,) = messages_in(bench.open(2, tokens=(1,) * 5), Lost)
    assert lost.code is LostCode.CONTEXT
    (lost,) = messages_in(commit(bench, [5, 6, 7], 9, 9), Lost)
    assert (lost.code, lost.length) == (LostCode.CONTEXT, 5)
    assert not bench.worker.sequences


def test_what_cannot_be_answered_as_it_is_disturbs_nobody(bench):
    huge = Open(9, 1, (5,), hash_of([5]), Drafting(), following=0xFFFFFFFF, prefix_length=9, prefix_hash=1)
    sent = bench.steer(Open(1, 1, (5, 6, 7), hash_of([5, 6, 7]), Drafting()), huge)
    (lost,) = messages_in(sent, Lost)
    assert (lost.code, lost.length) == (LostCode.CONTEXT, 0xFFFFFFFF)
    assert one(Expand, sent).batch[0].key[1] == 1


def test_many_replies_leave_in_frames_that_they_fit():
    peer = Peer(1, CONTROLLER, 0, 0)
    for number in range(65_537):
        peer.reply(Close(number, 1))
    first, second = (decode(send.data) for send in peer.pack(1, 0.0))
    assert [close.sequence for close in (*first.messages, *second.messages)] == list(range(65_537))
    assert second.header.number == first.header.number + 1


def test_the_limit_of_sequences():
    bench = Bench(max_sequences=1)
    bench.greet()
    bench.open(1)
    (lost,) = messages_in(bench.open(2), Lost)
    assert lost == Lost(2, 1, LostCode.BUSY, 3)
    bench.steer(Close(1, 1))
    assert messages_in(bench.open(2), Lost) == []


def test_the_limit_of_leaves_is_shared_and_nobody_starves():
    bench = Bench(max_leaves=2)
    bench.greet()
    actions = bench.open(0)
    for number in range(1, 5):
        bench.open(number)
    served = set()
    for _ in range(5):
        actions = bench.expand(actions, 9)
        batch = one(Expand, actions).batch
        assert sum(len(item.leaves) for item in batch) <= 2
        served |= {item.key[1] for item in batch}
    assert served == set(range(5))


def pass_costs(*ms):
    table = CostTable((1, 2, 8), (0,), tuple((value,) for value in ms))
    return CostModel(table, table)


@pytest.mark.parametrize(
    ("costs", "leaves"),
    [(UNMEASURED, 4), (pass_costs(10, 10, 10), 4), (pass_costs(10, 11, 60), 2), (pass_costs(1, 9, 99), 1)],
)
def test_only_leaves_that_are_worth_their_cost_are_expanded(costs, leaves):
    bench = Bench(costs=costs)
    bench.greet()
    actions = bench.expand(bench.open(branching=4, width=8), 1, 2, 3, 4, log_prob=-0.5)
    (item,) = one(Expand, actions).batch
    assert item.leaves == tuple((token,) for token in range(1, leaves + 1)), "the most probable ones"


def test_a_leaf_of_each_sequence_is_expanded_whatever_it_costs():
    bench = Bench(costs=pass_costs(1, 9, 99))
    bench.greet()
    actions = bench.open(0, branching=4, width=8)
    for number in range(1, 4):
        bench.open(number, branching=4, width=8)
    actions = bench.expand(actions, 1, 2, 3, 4, log_prob=-3.0)
    assert [len(item.leaves) for item in one(Expand, actions).batch] == [1, 1, 1, 1]


def test_the_limit_of_nodes():
    bench = Bench(max_nodes=10)
    bench.greet()
    actions = bench.open(branching=4, theta=0.0, width=8)
    while of(Expand, actions):
        actions = bench.expand(actions, 1, 2, 3, 4)
        assert next(iter(bench.worker.sequences.values())).tree.size <= 10


def test_a_commit_during_a_pass_wastes_what_it_pruned(bench):
    actions = bench.expand(bench.open(branching=2, width=2), 9, 8, entropy=9.0)
    commit(bench, [5, 6, 7], 9)
    assert not messages_in(actions, Lost)
    after = bench.expand(actions, 4)
    (drafts,) = messages_in(after, Drafts)
    # Node 0 is the root now: its child hangs below the prefix. Node 1 was pruned while its pass ran.
    assert (drafts.length, [(n.parent, n.token) for n in drafts.nodes]) == (4, [(ROOT, 4)])
    assert bench.worker.counters.wasted_leaves == 1


def nodes_in(actions):
    (drafts,) = messages_in(actions, Drafts)
    return len(drafts.nodes)


def test_drafts_of_short_passes_share_frames():
    bench = Bench(frame_ms=1.0)
    bench.greet()
    first = bench.expand(bench.open(max_depth=4), 9)
    assert len(messages_in(first, Drafts)) == 1
    second = bench.expand(first, 8)
    assert messages_in(second) == []
    assert bench.worker.deadline() == bench.now + 1.0
    third = bench.do(Tick(), bench.now + 1.0)
    assert [type(m) for m in messages_in(third)] == [PassReport, Drafts]
    held = bench.expand(second, 7)
    assert messages_in(held) == []
    assert nodes_in(bench.expand(held, 6)) == 2, "the last pass holds nothing back"


def test_a_frame_takes_along_passes_that_are_shorter_than_sending_it():
    def short_pass(actions, token, at):
        return bench.expand(actions, token, engine_ms=0.1, at=at)

    bench = Bench(frame_ms=1.0)
    bench.greet()
    began = bench.now
    second = short_pass(bench.open(max_depth=9), 9, began + 1.0)
    assert messages_in(second) == [], "another pass would end before a frame was sent"
    assert bench.worker.deadline() == began + 1.0 + 0.25
    third = short_pass(second, 8, began + 1.1)
    assert messages_in(third) == []
    assert nodes_in(short_pass(third, 7, began + 1.2)) == 3, "another would end too late"
    bench = Bench(frame_ms=1.0)
    bench.greet()
    assert messages_in(short_pass(bench.open(max_depth=9), 9, began + 1.0)) == []
    assert messages_in(bench.do(Tick(), began + 1.2)) == []
    assert len(messages_in(bench.do(Tick(), began + 1.25), Drafts)) == 1, "the next takes longer than expected"


def test_what_a_controller_asks_for_waits_for_no_frame():
    bench = Bench(frame_ms=1.0)
    bench.greet()
    held = bench.expand(bench.expand(bench.open(max_depth=9), 9), 8)
    assert messages_in(held) == []
    answered = bench.steer(want_reply=True)
    assert [type(m) for m in messages_in(answered)] == [PassReport, Drafts]
    lost = bench.steer(Commit(7, 1, 3, 0, (1,)))
    assert messages_in(lost) == [Lost(7, 1, LostCode.UNKNOWN, 3)]


def test_a_close_during_a_pass(bench):
    actions = bench.open()
    assert len(of(Release, bench.steer(Close(1, 1)))) == 1
    assert messages_in(bench.expand(actions, 9)) == []
    assert bench.worker.counters.wasted_leaves == 1


def test_a_link_lost_during_a_pass(bench):
    actions = bench.open()
    assert len(of(Release, bench.do(Disconnected(1, "gone")))) == 1
    assert bench.expand(actions, 9) == []


def test_answers_to_a_pass_that_is_not_under_way_are_ignored(bench):
    done = Expansion(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.zeros(1, np.float32), 1.0)
    assert bench.do(Expanded(9, done)) == []
    assert bench.do(ExpandFailed(9, "late")) == []
    assert bench.worker.counters.failed_passes == 0


def test_a_pass_that_hangs_counts_as_failed_and_its_late_answer_is_ignored(bench):
    hung = bench.open(branching=2)
    limit = bench.now + bench.worker.config.pass_ms
    assert bench.worker.deadline() == limit
    actions = bench.do(Tick(), limit)
    assert messages_in(actions, Lost) == [Lost(1, 1, LostCode.ENGINE, 3)]
    again = bench.open(epoch=2)
    assert bench.expand(hung, 9) == []
    assert messages_in(bench.expand(again, 8), Drafts)[0].nodes[0].token == 8


def test_a_failed_pass_gives_its_sequences_up(bench):
    actions = bench.open()
    actions = bench.do(ExpandFailed(one(Expand, actions).number, "out of memory"))
    assert messages_in(actions, Lost) == [Lost(1, 1, LostCode.ENGINE, 3)]
    assert not bench.worker.sequences
    assert of(Expand, bench.open(epoch=2))


@pytest.mark.parametrize(
    ("tokens", "log_probs", "entropies", "engine_ms"),
    [
        ([[9], [9]], [[-1.0], [-1.0]], [0.1, 0.1], 1.0),
        ([[9]], [[-1.0, -2.0]], [0.1], 1.0),
        ([[9]], [[-1.0]], [], 1.0),
        ([9], [-1.0], [0.1], 1.0),
        ([[VOCAB]], [[-1.0]], [0.1], 1.0),
        ([[-1]], [[-1.0]], [0.1], 1.0),
        ([[9]], [[np.nan]], [0.1], 1.0),
        ([[9]], [[-1.0]], [0.1], np.nan),
    ],
)
def test_an_engine_that_answers_nonsense_has_failed(bench, tokens, log_probs, entropies, engine_ms):
    number = one(Expand, bench.open()).number
    rows = (np.array(tokens, np.int32), np.array(log_probs, np.float32), np.array(entropies, np.float32))
    actions = bench.do(Expanded(number, Expansion(*rows, engine_ms)))
    assert [m.code for m in messages_in(actions, Lost)] == [LostCode.ENGINE]
    assert bench.worker.counters.failed_passes == 1


# Opens and commits


def test_epochs_fence(bench):
    bench.open(epoch=2)
    for epoch in (1, 2):
        assert bench.open(epoch=epoch, tokens=(1, 2)) == []
    assert commit(bench, [5, 6, 7], 9, epoch=1) == []
    bench.steer(Close(1, 1))
    (sequence,) = bench.worker.sequences.values()
    assert (sequence.epoch, sequence.length) == (2, 3)
    assert bench.worker.counters.duplicates == 3
    assert len(of(Release, bench.open(epoch=3, tokens=(1, 2)))) == 1
    (sequence,) = bench.worker.sequences.values()
    assert (sequence.epoch, sequence.length) == (3, 2)


def test_a_commit_of_an_epoch_whose_open_was_lost(bench):
    bench.open(epoch=1)
    actions = commit(bench, [5, 6, 7], 9, epoch=2)
    assert messages_in(actions) == [Lost(1, 2, LostCode.UNKNOWN, 3)]
    assert not bench.worker.sequences


def test_a_commit_of_an_unknown_sequence(bench):
    assert messages_in(commit(bench, [5, 6, 7], 9)) == [Lost(1, 1, LostCode.UNKNOWN, 3)]


@pytest.mark.parametrize(
    ("tokens", "digest", "drafting"),
    [((5, VOCAB), None, {}), ((), 1, {}), ((5, 6), 1, {}), ((5, 6), None, {"width": 0})],
)
def test_opens_that_cannot_be(bench, tokens, digest, drafting):
    (lost,) = messages_in(bench.open(tokens=tokens, digest=digest, **drafting))
    assert (lost.code, lost.length) == (LostCode.DESYNC, len(tokens))
    assert not bench.worker.sequences


def state(bench):
    (sequence,) = bench.worker.sequences.values()
    return sequence.tree.tokens[3:]


def test_duplicate_and_overlapping_commits(bench):
    bench.open()
    commit(bench, [5, 6, 7], 1, 2)
    commit(bench, [5, 6, 7], 1, 2)
    commit(bench, [5, 6, 7], 1)
    assert state(bench) == [1, 2]
    commit(bench, [5, 6, 7, 1], 2, 3)
    assert state(bench) == [1, 2, 3]


def test_early_commits_wait_for_the_one_before(patient):
    bench = patient
    bench.open()
    commit(bench, [5, 6, 7, 1, 2], 3)
    commit(bench, [5, 6, 7, 1], 2)
    assert state(bench) == []
    assert bench.worker.deadline() == bench.now + 200
    commit(bench, [5, 6, 7], 1)
    assert state(bench) == [1, 2, 3]
    assert bench.worker.deadline() == bench.now + 120_000
    assert bench.worker.counters.gaps == 2


def test_a_gap_is_given_up_in_time(patient):
    bench = patient
    bench.open()
    commit(bench, [5, 6, 7, 1], 2)
    assert bench.do(Tick(), bench.now + 199) == []
    assert messages_in(bench.do(Tick(), bench.now + 1)) == [Lost(1, 1, LostCode.GAP, 3)]
    assert bench.worker.deadline() == float("inf")


@pytest.mark.parametrize(
    ("tokens", "new", "digest"),
    [([5, 6, 7], (9,), 1), ([5, 6, 7], (VOCAB,), None), ([5, 6], (8,), None), ([5, 6], (8, 9), None)],
)
def test_a_commit_that_does_not_agree_is_a_desynchronisation(bench, tokens, new, digest):
    bench.open()
    (lost,) = messages_in(commit(bench, tokens, *new, digest=digest))
    assert lost.code is LostCode.DESYNC
    assert not bench.worker.sequences


def test_an_early_commit_that_does_not_agree_is_found_when_its_turn_comes(bench):
    bench.open()
    commit(bench, [5, 6, 7, 1], 2, digest=1)
    (lost,) = messages_in(commit(bench, [5, 6, 7], 1))
    assert lost.code is LostCode.DESYNC


def test_idle_sequences_go(patient):
    bench = patient
    bench.open()
    assert bench.do(Tick(), bench.now + 119_999) == []
    assert len(of(Release, bench.do(Tick(), bench.now + 1))) == 1
    assert not bench.worker.sequences


def test_controllers_do_not_see_each_other(bench):
    other = b"another-uuid-002"
    bench.do(
        LinkOpened(
            2, bench.frame(Hello(other, VOCAB, PRINT.tokenizer_hash), sender=int.from_bytes(other[:8], "little"))
        )
    )
    actions = bench.open(1)
    bench.steer(Open(1, 1, (5, 6), hash_of([5, 6])), sender=int.from_bytes(other[:8], "little"))
    assert len(bench.worker.sequences) == 2
    bench.steer(Close(1, 9))
    assert [s.key for s in bench.worker.sequences.values()] == [(other, 1)]
    assert messages_in(bench.expand(actions, 9), Drafts) == []
    bench.do(Disconnected(1, "gone"))
    assert [s.key for s in bench.worker.sequences.values()] == [(other, 1)]


def test_node_order_is_parents_first(bench):
    actions = bench.open(branching=2, theta=0.0, width=4, max_depth=4)
    known = set()
    while of(Expand, actions):
        actions = bench.expand(actions, 1, 2)
        for drafts in messages_in(actions, Drafts):
            for index, node in enumerate(drafts.nodes):
                assert isinstance(node, DraftNode)
                assert node.parent == ROOT or node.parent in known
                known.add(drafts.first + index)
    assert len(known) == 2 + 4 + 8 + 16


def test_passes_that_share_a_frame_share_a_message():
    bench = Bench(frame_ms=50.0)
    bench.greet()
    actions = bench.expand(bench.open(), 9)  # the first drafts leave at once
    bench.now += 1.0
    for token in (1, 2, 3):
        actions = bench.expand(actions, token)
        assert not messages_in(actions)
    sent = messages_in(bench.steer(want_reply=True))
    (drafts,) = of(Drafts, sent)
    assert (drafts.first, drafts.passes, [(n.parent, n.token) for n in drafts.nodes]) == (
        1,
        4,
        [(0, 1), (1, 2), (2, 3)],
    )
    assert len(of(PassReport, sent)) == 1


def test_a_commit_between_two_passes_parts_their_messages():
    bench = Bench(frame_ms=50.0)
    bench.greet()
    actions = bench.expand(bench.open(), 9)
    bench.now += 1.0
    actions = bench.expand(actions, 1)
    commit(bench, [5, 6, 7], 9)
    actions = bench.expand(actions, 2)
    first, second = messages_in(bench.steer(want_reply=True), Drafts)
    assert (first.length, second.length, first.first, second.first) == (3, 4, 1, 2)
