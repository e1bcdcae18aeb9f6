"""Event logs as timelines: every millisecond in one part, messages and passes where they really were."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise

import pytest

from tests.unit.report.report_doubles import RTT_MS, play
from wanspec.core.events import Request
from wanspec.errors import ConfigError, ProtocolError
from wanspec.report.inputs import read_inputs
from wanspec.report.logs import read_event_log
from wanspec.report.timeline import PARTS, UNKNOWN_TOKEN, Lane, without_text

POLICIES = ("adaptive", "wanspec", "remote_sync", "local", "target_only")


def timelines(played):
    found, running = read_event_log(played.lines, "log.jsonl")
    assert running == 0
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_the_parts_are_the_latency(policy):
    played = play([policy])
    (timeline,) = timelines(played)
    output = played.world.outputs[0]
    assert timeline.tokens == output.tokens
    assert timeline.latency_ms == pytest.approx(output.finished.summary["latency_ms"])
    assert sum(timeline.parts) == pytest.approx(timeline.latency_ms, abs=0.01)
    parts = dict(zip(PARTS, timeline.parts, strict=True))
    assert parts["target GPU"] == pytest.approx(output.finished.summary["target_ms"], abs=0.01)
    assert parts["local draft GPU"] == pytest.approx(output.finished.summary["local_draft_ms"], abs=0.01)
    assert parts["unaccounted"] < 0.01
    waited = parts["network"] + parts["worker"] + parts["waiting"]
    assert waited == pytest.approx(output.finished.summary["waited_ms"], abs=0.01)


def test_waiting_for_every_draft_is_network_and_worker():
    (timeline,) = timelines(play(["remote_sync"]))
    parts = dict(zip(PARTS, timeline.parts, strict=True))
    # Each round waits for a whole round trip, and a pass at least; not the first two: the target prefills meanwhile.
    rounds = len(timeline.rounds) - 2
    assert parts["network"] == pytest.approx(rounds * RTT_MS, rel=0.02)
    assert parts["worker"] >= rounds * 7.0


@pytest.mark.parametrize("jitter_ms", [0.0, 8.0])
def test_passes_stand_where_they_were(jitter_ms):
    played = play(["adaptive"], jitter_ms=jitter_ms)
    (timeline,) = timelines(played)
    found = [span for span in timeline.spans if span.lane is Lane.WORKER]
    assert len(found) > 5
    for span in found:
        began, ended = span.began_ms + timeline.at_ms, span.ended_ms + timeline.at_ms
        nearest = min(abs(began - true) + abs(ended - end) for true, end in played.passes)
        # One-way delays cannot be known: half of how the two ways differ is the error.
        assert nearest <= 0.02 + 2 * jitter_ms
    assert all(later.began_ms >= span.ended_ms - 0.02 for span, later in pairwise(found))


def test_messages_take_half_a_round_trip():
    (timeline,) = timelines(play())
    opened, *commits = [span for span in timeline.spans if span.lane is Lane.UP]
    assert (opened.what, opened.values["prompt tokens"], opened.began_ms) == ("open", 3, 0.0)
    for span in [opened, *commits, *(span for span in timeline.spans if span.lane is Lane.DOWN)]:
        assert span.ended_ms - span.began_ms == pytest.approx(RTT_MS / 2, abs=0.02)
    ends = [each.ended_ms for each in timeline.rounds[:-1]]
    assert [span.began_ms for span in commits] == pytest.approx(ends)
    drafted = sum(span.values["draft tokens"] for span in timeline.spans if span.lane is Lane.DOWN)
    assert drafted >= timeline.summary["remote_nodes"]


def test_a_crash_is_an_event_of_the_request():
    (timeline,) = timelines(play(["wanspec"], deeds=((150.0, "crash_worker"), (300.0, "restart_worker"))))
    events = [what for _, what in timeline.events]
    assert events.count("link down") == 1
    assert events.count("worker opens it") >= 2


def test_each_request_of_a_whole_log_has_its_own():
    found = timelines(play(POLICIES, tokens=12))
    assert [each.policy for each in found] == list(POLICIES)
    assert [each.name for each in found] == [f"request {number}" for number in range(len(POLICIES))]
    assert all(not each.spans for each in found if each.policy in ("local", "target_only"))


def test_without_text_no_token_is_left():
    (timeline,) = timelines(play())
    bare = without_text(timeline)
    assert (bare.prompt, bare.text, bare.prompt_text) == ((), "", "")
    assert set(bare.tokens) | {t for each in bare.rounds for t in (*each.drafted, *each.committed)} == {UNKNOWN_TOKEN}
    assert bare.parts == timeline.parts


def test_files_of_every_kind(tmp_path):
    lines = play(tokens=8).lines
    plain, zipped, answer = (tmp_path / name for name in ("log.jsonl", "log.jsonl.gz", "answer.json"))
    plain.write_text("\n".join([*lines, *lines, lines[-1][:20]]))  # two starts; the second is being written
    zipped.write_bytes(gzip.compress("\n".join(lines).encode()))
    answer.write_text(json.dumps({"text": "hello", "event_log": lines}, indent=2))
    found = read_inputs([plain, zipped, answer])
    assert [each.source for each in found.timelines] == [
        "log.jsonl, start 1",
        "log.jsonl, start 2",
        "log.jsonl.gz",
        "answer.json",
    ]
    assert found.tokenizers == {b"t" * 32}
    assert not found.notes


def test_what_had_not_ended_is_noted(tmp_path):
    lines = play(["adaptive", "local"], tokens=8).lines
    cut = max(number for number, line in enumerate(lines) if '"Submitted"' in line) + 2
    (tmp_path / "log.jsonl").write_text("\n".join(lines[:cut]) + "\n")
    found = read_inputs([tmp_path / "log.jsonl"])
    assert [each.policy for each in found.timelines] == ["adaptive"]
    assert found.notes == ["log.jsonl: 1 requests had not ended when the log did, and are left out."]


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", ConfigError, "is neither an event log"),
        (b'{"some": "thing"}', ConfigError, "is neither an event log"),
        (b"\x1f\x8bnot gzip", ConfigError, "nor whole gzip"),
        (b"\xff\xfe", ConfigError, "is neither UTF-8 text"),
        (b'{"log": 1}\n', ProtocolError, "log version 1, this program reads"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}', ProtocolError, "line 1: KeyError: 'traceId'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, error, said):
    path = tmp_path / "input"
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        read_inputs([path])
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_log_of_one_request_has_the_way_of_its_opening():
    world = play(tokens=4).world
    world.submit(9, Request((5, 6, 7), 12, policy="adaptive", record=True))
    world.run()
    (timeline,), _ = read_event_log(world.outputs[9].finished.log, "one request")
    opened = timeline.spans[0]
    assert (timeline.name, opened.what) == ("one request", "open")
    assert opened.ended_ms - opened.began_ms == pytest.approx(RTT_MS / 2, abs=0.02)
