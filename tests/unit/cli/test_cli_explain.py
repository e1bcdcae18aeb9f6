"""``--explain``: logs of simulated answers, replayed and shown."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from wanspec.cli.explain import explain, rounds_as_json, rounds_view, verdict
from wanspec.core.events import Request
from wanspec.core.replay import replay
from wanspec.core.tree import Origin
from wanspec.errors import ProtocolError
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Weather, World
from wanspec.triton.client import Answer


@pytest.fixture(scope="module")
def answer():
    """An answer with drafts of both origins, some rejected."""
    world = World(HashedPair(), weather=Weather(delay_ms=15.0), seed=1)
    world.run(1_000.0)
    world.submit(1, Request((1, 2, 3), 40, frozenset(), "wanspec", {"k": 3}, record=True))
    world.run()
    output = world.outputs[1]
    (replayed,) = replay(output.finished.log).values()  # the world keeps no origins
    made = Answer(tokens=list(output.tokens), origins=replayed.origins, finish_reason="length")
    made.event_log = list(output.finished.log)
    made.summary = dict(output.finished.summary)
    return made


def show(answer, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(rounds_view(explain(answer), lambda token: f"<{token}>"))
    return console.file.getvalue()


def test_the_replay_gives_what_was_served(answer):
    explained = explain(answer)
    assert explained.matches
    assert explained.prompt == (1, 2, 3)
    assert len(explained.rounds) == answer.summary["rounds"]
    assert [token for each in explained.rounds for token in each.committed] == answer.tokens
    assert "the same tokens as served" in verdict(explained)


@pytest.mark.parametrize("change", ["tokens", "origins"])
def test_a_replay_that_differs_is_said_to(answer, change):
    other = Answer(tokens=list(answer.tokens), origins=list(answer.origins), event_log=answer.event_log)
    if change == "tokens":
        other.tokens[5] += 1
    else:
        other.origins[0] = Origin.LOCAL
    explained = explain(other)
    assert not explained.matches
    assert "defect" in verdict(explained)


def test_every_round_is_shown_with_marks_and_reasons(answer):
    text = show(answer, 140)
    assert "prefill" in text
    assert "+" in text
    assert "x" in text
    assert "worker behind" in text
    for each in explain(answer).rounds:
        assert f"<{each.committed[-1]}>" in text


@pytest.mark.parametrize("width", [80, 140])
def test_it_fits_the_terminal(answer, width):
    assert all(len(line) <= width for line in show(answer, width).splitlines())


def test_json_names_origins_and_steps(answer):
    rounds = json.loads(json.dumps(rounds_as_json(explain(answer))))
    steps = [step for each in rounds for step in each["steps"]]
    assert {step["kind"] for step in steps} <= {"verify", "draft", "wait"}
    assert all(step["ended_ms"] >= step["began_ms"] for step in steps)
    assert {name for each in rounds for name in each["origins"]} <= {"remote", "local"}
    assert any(each["origins"] for each in rounds)


def test_an_answer_without_a_log_is_refused():
    with pytest.raises(ProtocolError, match="event_log"):
        explain(Answer(tokens=[1]))
