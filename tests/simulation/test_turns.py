"""Conversations and long prompts over a simulated WAN: what crosses it, and what others notice of it."""

from __future__ import annotations

from statistics import median

import pytest

from tests.simulation.sim_doubles import FINGERPRINT
from wanspec.core.config import ControllerConfig, WorkerConfig
from wanspec.core.events import Request
from wanspec.core.messages import Commit, Open
from wanspec.core.wire import decode
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Weather, World

PAIR = HashedPair(match=0.8)
LONG_CONTEXT = 40_000


class Narrow(World):
    """The way to the worker carries so many bytes a millisecond, one frame after the other."""

    bytes_per_ms = 1_250.0  # 10 Mbit/s
    _free_ms = 0.0

    def _send_up(self, action):
        self._free_ms = max(self._free_ms, self.now) + len(action.data) / self.bytes_per_ms
        self.at(self._free_ms, lambda: super(Narrow, self)._send_up(action))


def watched(world):
    """The world, and a list that gets every frame to the worker."""
    frames, send = [], world._send_up
    world._send_up = lambda action: (frames.append(action.data), send(action))
    return world, frames


def opens(frames):
    return [message for data in frames for message in decode(data).messages if isinstance(message, Open)]


def ask(world, number, prompt, tokens=24, conversation="", policy="wanspec"):
    world.submit(number, Request(tuple(prompt), tokens, policy=policy, conversation=conversation))
    world.run()
    output = world.outputs[number]
    assert output.tokens == PAIR.generate(prompt, tokens)
    return output


def talk(world, turns, conversation="", words=30):
    """Summaries of the turns of one conversation."""
    prompt, summaries = list(range(1, 201)), []
    for turn in range(turns):
        number = len(world.outputs)
        output = ask(world, number, prompt, conversation=conversation)
        summaries.append(output.finished.summary)
        prompt = [*prompt, *output.tokens, *range(300 + turn, 300 + turn + words)]
    return summaries


@pytest.mark.parametrize("conversation", ["", "c"])
def test_later_turns_send_and_compute_the_suffix(conversation):
    world = World(PAIR, weather=Weather(delay_ms=15.0))
    world.run(until=2_000.0)
    summaries = talk(world, 5, conversation)
    first, fifth = summaries[0], summaries[4]
    assert fifth["prompt_tokens"] == 200 + 4 * 54
    assert first["remote_prefill_tokens"] == 200
    # The suffix: 30 new words, and of the last answer what was not told any more.
    assert 30 <= fifth["remote_prefill_tokens"] <= 30 + 8
    rounds = (27 + 8) * (fifth["rounds"] + 1)
    assert fifth["bytes_up"] <= 4 * (30 + 8 + 24) + 79 + rounds
    assert first["bytes_up"] - fifth["bytes_up"] > 4 * 120


def test_a_worker_that_was_restarted_or_forgets_gets_the_whole_again():
    world = World(PAIR, weather=Weather(delay_ms=15.0), worker=WorkerConfig(FINGERPRINT, kept_ms=10.0))
    world.run(until=2_000.0)
    first = ask(world, 0, range(1, 201))
    world.run(until=world.now + 100.0)
    prompt = [*range(1, 201), *first.tokens]
    summary = ask(world, 1, prompt).finished.summary
    assert (summary["lost"], summary["epochs"]) == ({"prefix": 1}, 2)
    assert 224 <= summary["remote_prefill_tokens"] <= 224 + 8, "the prompt, and what was committed meanwhile"
    world.crash_worker()
    world.restart_worker()
    world.run(until=world.now + 1_000.0)
    summary = ask(world, 2, prompt).finished.summary
    assert (summary["lost"], summary["epochs"], summary["remote_prefill_tokens"]) == ({}, 1, 224)


def test_a_link_that_was_cut_costs_only_what_drafts_had_not_confirmed():
    world, frames = watched(World(PAIR, weather=Weather(delay_ms=15.0)))
    world.run(until=2_000.0)
    prompt = tuple(range(1, 201))
    world.submit(0, Request(prompt, 200, policy="wanspec"))
    world.run(until=2_700.0)
    world.cut_link()
    world.mend_link()
    world.run()
    assert world.outputs[0].tokens == PAIR.generate(prompt, 200)
    first, second = opens(frames)
    assert (first.prefix_length, second.epoch) == (0, 2)
    assert second.prefix_length > 200
    assert len(second.tokens) < 20
    assert world.outputs[0].finished.summary["lost"] == {}


def long_prompt_beside_others(piece_tokens, upload_bytes, prefill_tokens, prompt=25_000):
    """Longest pause, ms, between drafts for a request while a prompt of 100 kB is sent and computed."""
    world = Narrow(
        PAIR,
        weather=Weather(delay_ms=15.0),
        controller=ControllerConfig(
            FINGERPRINT, context=LONG_CONTEXT, piece_tokens=piece_tokens, upload_bytes=upload_bytes
        ),
        worker=WorkerConfig(FINGERPRINT, context=LONG_CONTEXT, prefill_tokens=prefill_tokens),
    )
    world.run(until=2_000.0)
    world.submit(0, Request((5, 6, 7), 300, policy="wanspec"))
    world.run(until=3_000.0)
    waits = []

    def commits(action):
        if any(isinstance(m, Commit) and m.sequence == 0 for m in decode(action.data).messages):
            waits.append(max(0.0, world._free_ms - world.now))
        return send(action)

    send, world._send_up = world._send_up, commits
    world.submit(1, Request(tuple(i % 997 for i in range(prompt)), 2, policy="wanspec"))
    world.run()
    assert world.outputs[0].tokens == PAIR.generate((5, 6, 7), 300)
    return max(waits), median(waits)


def test_commits_of_others_do_not_wait_for_a_prompt_of_100_kb():
    """At 10 Mbit/s a prompt of 100 kB takes 80 ms: in one frame others wait for it, in pieces for those under way."""
    at_once, _ = long_prompt_beside_others(60_000, 32_768, 100_000)
    in_pieces, _ = long_prompt_beside_others(1_024, 32_768, 512)
    assert at_once > 40.0
    assert in_pieces < 30.0


def test_a_prompt_of_100_kb_arrives_whole():
    world = World(
        PAIR,
        weather=Weather(delay_ms=15.0),
        controller=ControllerConfig(FINGERPRINT, context=LONG_CONTEXT),
        worker=WorkerConfig(FINGERPRINT, context=LONG_CONTEXT),
    )
    world, frames = watched(world)
    world.run(until=2_000.0)
    prompt = [i % 997 for i in range(25_000)]
    summary = ask(world, 0, prompt, tokens=60).finished.summary
    assert 25_000 <= summary["remote_prefill_tokens"] <= 25_060, "the prompt, and what was committed meanwhile"
    assert summary["accepted_remote"] > 0
    assert summary["lost"] == {}
    (opening,) = opens(frames)
    assert opening.following == 25_000 - 1_024
    assert max(map(len, frames)) < 4_400
