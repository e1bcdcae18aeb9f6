"""A controller's link: handshake, refusal, liveness, backoff, late events."""

from __future__ import annotations

import pytest

from tests.unit.core.core_doubles import PRINT, VOCAB, WORKER, Bench, Rig, messages_in, of, one
from wanspec.core.config import LinkConfig
from wanspec.core.events import Connect, Connected, Disconnect, Disconnected, LinkOpened, Received, Send, Tick, Verify
from wanspec.core.link import LinkState
from wanspec.core.messages import Close, Frame, Header, Hello, Open, Refuse, RefuseCode, Welcome
from wanspec.core.wire import decode, encode

WELCOME = Welcome(WORKER, VOCAB, PRINT.tokenizer_hash, "d", 8, 512)


@pytest.fixture
def rig():
    return Rig(auth_token="secret")


def test_handshake(rig):
    assert rig.controller.deadline() == float("-inf")
    assert rig.do(Tick()) == [Connect(0)]
    assert rig.link.state is LinkState.CONNECTING
    assert rig.controller.deadline() == rig.now + 5_000
    send = one(Send, rig.do(Connected(0)))
    assert send.opening
    frame = decode(send.data)
    assert frame.header.want_reply
    assert frame.messages == (Hello(rig.controller.instance, VOCAB, PRINT.tokenizer_hash, "draft-1", "secret"),)
    assert not rig.link.up
    rig.hear(WELCOME)
    assert rig.link.up
    assert rig.link.worker == WELCOME


def test_a_handshake_has_a_deadline(rig):
    rig.do(Tick())
    rig.do(Connected(0))
    assert rig.do(Tick(), 5_999.0) == []
    assert one(Disconnect, rig.do(Tick(), 6_000.0)).reason == "no welcome within 5000 ms"
    assert rig.link.state is LinkState.DOWN


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (Refuse(RefuseCode.TOKENIZER, "no"), "tokenizer: no"),
        (
            Welcome(WORKER, VOCAB + 1, PRINT.tokenizer_hash, "d", 8, 512),
            "vocab_size: the draft has 101, the target 100",
        ),
        (Welcome(WORKER, VOCAB, b"x" * 32, "d", 8, 512), "tokenizer: the draft's is not the target's"),
    ],
)
def test_refusals_are_kept_and_tried_again_much_later(rig, message, refusal):
    rig.do(Tick())
    rig.do(Connected(0))
    assert one(Disconnect, rig.hear(message)).reason == f"refused, {refusal}"
    assert (rig.link.refusal, rig.link.state) == (refusal, LinkState.DOWN)
    assert rig.controller.deadline() == rig.now + LinkConfig().refused_ms
    rig.do(Tick(), rig.now + LinkConfig().refused_ms)
    rig.do(Connected(0))
    rig.hear(WELCOME)
    assert rig.link.up
    assert rig.link.refusal == ""


def test_pings_while_nothing_is_said(rig):
    rig.link_up()
    assert rig.controller.deadline() == rig.now + 200
    send = one(Send, rig.do(Tick(), rig.now + 200))
    frame = decode(send.data)
    assert frame.header.want_reply
    assert frame.messages == ()
    assert rig.controller.deadline() == rig.now + 200


def test_silence_is_death_and_speech_is_not(rig):
    rig.link_up()
    for _ in range(20):
        rig.hear()
        assert not of(Disconnect, rig.do(Tick(), rig.now + 200))
    heard = rig.now - 200
    assert not of(Disconnect, rig.do(Tick(), heard + 1_499))
    assert one(Disconnect, rig.do(Tick(), heard + 1_500)).reason == "silent for 1500 ms"
    assert rig.link.counters.drops == 1


def test_a_long_round_trip_is_not_taken_for_death(rig):
    rig.link_up()
    for _ in range(3):
        rig.controller.estimators.observe("rtt", 1_000.0)
    assert not of(Disconnect, rig.do(Tick(), rig.now + 4_199))
    assert of(Disconnect, rig.do(Tick(), rig.now + 1))


def test_backoff_doubles_to_its_limit_and_is_reset(rig):
    pauses = []
    for _ in range(8):
        assert rig.do(Tick()) == [Connect(0)]
        rig.do(Disconnected(0, "refused"))
        pauses.append(rig.controller.deadline() - rig.now)
        rig.now = rig.controller.deadline()
    assert pauses == [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]
    rig.link_up()
    rig.do(Disconnected(0, "gone"))
    assert rig.controller.deadline() - rig.now == 100


def test_late_events_in_wrong_states_change_nothing(rig):
    late = Received(0, encode(Frame(Header(7, 1, 1), (WELCOME,))))
    assert rig.do(late) == []
    assert rig.link.state is LinkState.DOWN
    assert rig.do(Connected(0)) == []
    assert rig.do(Received(0, b"nonsense")) == []
    assert rig.link.state is LinkState.DOWN
    rig.do(Tick())
    assert rig.do(late) == []
    assert rig.link.state is LinkState.CONNECTING
    rig.do(Connected(0))
    assert rig.do(Connected(0)) == []
    rig.hear(WELCOME)
    assert rig.do(Connected(0)) == []
    rig.hear(WELCOME, Close(1, 1))
    assert rig.link.up
    assert rig.link.counters.foreign == 5
    rig.do(Disconnected(0, "gone"))
    due = rig.controller.deadline()
    rig.do(Disconnected(0, "gone, again"), rig.now + 50)
    assert rig.controller.deadline() == due


def test_a_malformed_frame_drops_the_link(rig):
    rig.link_up()
    assert "malformed frame: frame: 3 bytes" in one(Disconnect, rig.do(Received(0, b"WS1"))).reason
    assert (rig.link.counters.malformed, rig.link.up) == (1, False)


def test_round_trip_from_the_clock_echo(rig):
    rig.link_up()
    rig.submit()
    sent = int(rig.now * 1000)
    rig.now += 45.0
    # The worker's clock runs elsewhere: it held the frame for 10 ms before it answered.
    frame = Frame(Header(7, 9, 910_000, echo=sent, echo_received=900_000))
    rig.do(Received(0, encode(frame)))
    assert rig.controller.estimators.median("rtt") == pytest.approx(35.0)


@pytest.mark.parametrize(
    ("echo", "echo_received", "sent"), [(0, 5, 9), (1, 5, 9), (1_000_000, 0, 9), (1_000_000, 10, 9), (1_400_000, 5, 9)]
)
def test_echoes_that_measure_nothing(rig, echo, echo_received, sent):
    """None yet, of an earlier connection, none received, answered before it came, of the future."""
    rig.link_up()
    rig.now += 100
    rig.do(Received(0, encode(Frame(Header(7, 9, sent, echo, echo_received)))))
    assert rig.controller.estimators.median("rtt") is None


def test_sequences_open_when_the_link_comes_up_and_again_when_it_comes_back(rig):
    verify = rig.submit()
    assert messages_in(verify) == []
    (opened,) = messages_in(rig.link_up(), Open)
    assert (opened.epoch, opened.tokens) == (1, (5, 6, 7))
    rig.do(Disconnected(0, "gone"))
    following = rig.answer(verify, 8)
    assert messages_in(following) == []
    rig.now = rig.controller.deadline()
    (opened,) = messages_in(rig.link_up(), Open)
    assert (opened.epoch, opened.tokens) == (2, (5, 6, 7, 8))


def test_the_second_link_is_used_where_the_first_is_down():
    rig = Rig(links=2)
    assert rig.do(Tick()) == [Connect(0), Connect(1)]
    rig.do(Disconnected(0, "refused"))
    rig.do(Connected(1))
    rig.do(Received(1, encode(Frame(Header(7, 1, 1), (WELCOME,)))))
    actions = rig.submit()
    assert one(Send, actions).link == 1
    assert of(Verify, actions)


def test_what_one_tick_sends_is_split_into_frames():
    rig = Rig(context=400_000, piece_tokens=300_000)
    prompt = tuple(i % VOCAB for i in range(150_000))
    for number in range(3):
        rig.submit(number, prompt)
    rig.do(Tick())
    rig.do(Connected(0))
    sends = of(Send, rig.hear(WELCOME))
    assert [len(decode(s.data).messages) for s in sends] == [1, 1, 1]
    assert [s.opening for s in sends] == [False] * 3


class Streams(Rig):
    """A controller with several streams to each worker."""

    def __init__(self, links, streams):
        super().__init__(links=links, streams=streams)
        self.hellos = []
        self.do(Tick())
        for number in range(links):
            frame = decode(one(Send, self.do(Connected(number))).data)
            self.hellos.append((frame.header.sender, frame.messages[0].instance))
            welcome = Frame(Header(7, 1, 1), (WELCOME,))
            self.do(Received(number, encode(welcome)))

    def link_of(self, number):
        return one(Send, self.submit(number)).link


def test_streams_look_like_controllers_of_their_own_and_share_the_sequences():
    rig = Streams(links=4, streams=2)
    assert len({sender for sender, _ in rig.hellos[:2]}) == len({uuid for _, uuid in rig.hellos[:2]}) == 2
    assert rig.hellos[:2] == rig.hellos[2:]  # the other worker hears the same
    assert rig.hellos[0][1] == rig.controller.instance
    assert [rig.link_of(number) for number in range(1, 5)] == [1, 0, 1, 0]
    rig.do(Disconnected(0, "cut"))
    assert {rig.sequence(number).remote.link for number in range(1, 5)} == {1}
    rig.do(Disconnected(1, "cut"))
    assert sorted(rig.sequence(number).remote.link for number in range(1, 5)) == [2, 2, 3, 3]


def test_a_worker_takes_streams_apart():
    worker, rig = Bench(), Streams(links=2, streams=2)
    for link, (sender, instance) in enumerate(rig.hellos, 1):
        hello = worker.frame(Hello(instance, VOCAB, PRINT.tokenizer_hash), sender=sender)
        actions = worker.do(LinkOpened(link, hello))
        assert [type(message) for message in messages_in(actions)] == [Welcome]
        assert of(Disconnect, actions) == []  # it does not replace the one before
