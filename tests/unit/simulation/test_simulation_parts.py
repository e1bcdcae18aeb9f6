"""Weather, GPU, comparisons, figures, traces: the parts that experiments are made of."""

from __future__ import annotations

import random

import numpy as np
import pytest

from wanspec.core.drafting import SequenceLeaves
from wanspec.core.events import Draft, Verify
from wanspec.core.sampling import Sampling
from wanspec.errors import ConfigError
from wanspec.simulation.advice import advise
from wanspec.simulation.alarm import Alarm
from wanspec.simulation.catalogue import make_source
from wanspec.simulation.comparison import Estimate, compare
from wanspec.simulation.experiment import measure
from wanspec.simulation.figures import Curve, Figure, Panel, Point, Stated, agreements, markdown
from wanspec.simulation.gpu import Costs, Job, ScarceGpu
from wanspec.simulation.models import draft, verify
from wanspec.simulation.network import Network
from wanspec.simulation.plots import save_png, save_reproduction
from wanspec.simulation.setup import Contender, Setup
from wanspec.simulation.timings import TIMINGS, timing
from wanspec.simulation.traces import TracePair, TraceRow, TraceText, read_trace, write_trace
from wanspec.simulation.weather import RttTrace, Spikes, Weather

ROW = TraceRow((1, 2, 3, 4), (-0.1, -2.5, -4.0, -5.0), 0.4)


def test_a_measured_trace_is_read_and_repeats():
    trace = RttTrace.read(["time_ms,rtt_ms", "100, 20", "# a comment", "300,50", "400,10"])
    assert [trace.rtt_ms(t) for t in (0, 199, 200, 299, 300, 399, 400, 600)] == [20, 20, 50, 50, 10, 10, 20, 50]
    assert RttTrace.read(["5", "6"]).rtt_ms(1_500.0) == 6
    assert Weather(path=trace).one_way_ms(0.0) == 10.0


@pytest.mark.parametrize("lines", [[], ["a", "b"], ["0,1", "0,2"], ["0,1", "1,-2"], ["0,nan"], ["1,2,x", "3,4,5,6,7"]])
def test_a_trace_that_is_none_is_refused(lines):
    with pytest.raises(ConfigError, match="rtt_trace"):
        RttTrace.read(lines)


def test_spikes_come_and_go():
    spikes = Spikes(200.0, 1_000.0, 100.0)
    assert [spikes.rtt_ms(t, 20) for t in (0, 99, 100, 999, 1_050)] == [200, 200, 20, 20, 200]


def test_the_scarce_gpu_runs_one_batch_of_one_model_at_a_time():
    queue, now, ended = [], [0.0], []
    gpu = ScarceGpu(lambda at, do: queue.append((at, do)), lambda: now[0], 8)
    for sequence, drafts in ((0, False), (1, True), (2, False), (3, True)):
        gpu.run(Job(sequence, drafts, 5.0 if drafts else 20.0, lambda ms, s=sequence: ended.append((now[0], s, ms))))
    while queue:
        now[0], do = queue.pop(0)
        do()
    assert ended == [(20.0, 0, 20.0), (25.0, 1, 5.0), (25.0, 3, 5.0), (45.0, 2, 20.0)]
    assert gpu.busy_ms == sum(gpu.shares.values()) == 45.0
    assert gpu.shares[1] == 2.5


def test_costs_grow_as_stated_and_the_models_say_the_same():
    costs = Costs(20.0, 1.0, 5.0, 6.0, 0.5)
    assert costs.verify_ms(3, 100) == costs.verify_model().verify_ms(3, 100) == 23.0
    assert costs.expand_ms(5, 100) == costs.worker_model().pass_ms(5, 5, 100) == 8.0
    assert costs.local_ms(3, 100) == 3 * costs.draft_model().pass_ms(1, 1, 100) == 15.0


def test_timings_by_name_and_as_numbers():
    assert all(known.source for known in TIMINGS.values())
    assert timing("20/5/6").costs == Costs(20.0, 0.0, 5.0, 6.0)
    for wrong in ("fast", "20", "20/0", "1/2/3/4"):
        with pytest.raises(ConfigError, match="timing"):
            timing(wrong)


@pytest.mark.parametrize("name", ["x", "iid", "iid:2", "iid:a", "reference:1", "markov:0.8", "trace:/nowhere"])
def test_an_unknown_source_is_refused(name):
    with pytest.raises(ConfigError):
        make_source(name, 1)


def test_matches_of_the_markov_source_depend_on_the_match_before():
    pair, tokens, right = make_source("markov", 4), [1, 2, 3], []
    for _ in range(8_000):
        truth = pair.target(tokens)
        right.append(truth == pair.draft(tokens, 1)[0][0])
        tokens = [*tokens, truth] if len(tokens) < 300 else [truth % 7, *tokens[-2:], truth]
    hit = np.array(right)
    assert hit.mean() == pytest.approx(0.80, abs=0.02)
    assert hit[1:][hit[:-1]].mean() == pytest.approx(0.83, abs=0.02)
    assert hit[1:][~hit[:-1]].mean() == pytest.approx(0.68, abs=0.04)


def test_the_coupled_source_draws_as_often_as_the_small_pair_and_margins_tell():
    pair, choose, hits, margins = make_source("coupled", 2), random.Random(1), [], []
    drawn = Sampling(1.0, seed=77)
    for _ in range(1_500):
        tokens = [choose.randrange(50_000) for _ in range(3)]
        expansion = pair.expand([SequenceLeaves("a", tokens, 3, ((),), drawn)], 4, 1.0)
        assert expansion.tokens[0].tolist() == [token for token, _ in pair.draft(tokens, 4, drawn)]
        margins.append(float(expansion.margins[0]))
        hits.append(pair.target(tokens, drawn) == expansion.tokens[0, 0])
    hit, margin = np.array(hits), np.array(margins)
    assert hit.mean() == pytest.approx(0.66, abs=0.05)
    assert hit[margin > 2.5].mean() > 0.9 > 0.6 > hit[margin < 0.5].mean()


def test_a_comparison_is_paired_and_its_interval_holds_the_value():
    planned = Setup(make_source("reference", 1), requests=8, tokens=20)
    base = measure(planned, Contender("local"), range(8))
    same = compare(base, base)
    assert same.latency_ratio == same.scarce_gpu_ratio == Estimate(1.0, 1.0, 1.0)
    assert same.draft_passes_saved == Estimate(0.0, 0.0, 0.0)
    other = compare(measure(planned, Contender("target_only"), range(8)), base)
    assert other.draft_passes_saved.value == 1.0
    assert other.latency_ratio.low <= other.latency_ratio.value <= other.latency_ratio.high
    with pytest.raises(ValueError, match="paired"):
        compare(base[:3], base)


def trace():
    text = TraceText((9, 8), (1, 5, 1), (-0.1, -0.2, -0.3), (ROW, ROW, ROW), {(1, (2,)): TraceRow((7,), (-1.0,), 1.0)})
    return TracePair((text,), 50, {"target": "t"})


def test_a_trace_survives_its_file(tmp_path):
    write_trace(tmp_path / "t.gz", trace())
    again = read_trace(tmp_path / "t.gz")
    assert again.texts == trace().texts
    assert (again.vocab_size, again.described, again.length) == (50, {"target": "t"}, 3)
    assert again.match_rate == pytest.approx(2 / 3)


def test_a_trace_answers_on_the_text_and_beside_it():
    pair = trace()
    (prompt,) = pair.prompts
    assert prompt == (0, 8)
    assert [pair.target([*prompt, 1, 5][: 2 + n]) for n in range(3)] == [1, 5, 1]
    assert pair.draft([*prompt, 1], 2) == [(1, -0.1), (2, -2.5)]
    assert pair.draft([*prompt, 1, 2], 4) == [(7, -1.0)]
    assert pair.invented == 0
    pair.draft([*prompt, 3, 3], 4)
    assert (pair.invented, pair.looked_up) == (1, 3)


def test_damaged_and_foreign_traces_are_refused(tmp_path):
    (tmp_path / "no.gz").write_bytes(b"no")
    write_trace(tmp_path / "empty.gz", TracePair((), 5))
    for name in ("no.gz", "empty.gz", "absent.gz"):
        with pytest.raises(ConfigError, match="trace"):
            read_trace(tmp_path / name)


def figure():
    curve = Curve("a", (Point(0.0, Estimate(0.9, 0.8, 1.0)), Point(10.0, Estimate(0.7, 0.6, 0.8))))
    stated = (Stated("a", 10.0, 0.7, 0.72, "less"), Stated("a", 0.0, 0.5, 0.5, "half"))
    return Figure("fig7", "a title", "RTT in ms", "made so.", (Panel("latency", (curve,), stated),))


def test_a_figure_says_where_it_agrees(tmp_path):
    assert [each.agrees for each in agreements(figure())] == [True, False]
    assert "| 10 | 0.700 (0.600 to 0.800) |" in markdown(figure())
    save_png(figure(), tmp_path / "f.png")
    save_reproduction([figure()], tmp_path / "f.html")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "f.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


@pytest.mark.parametrize(("rtt_ms", "pays"), [(5.0, True), (2_000.0, False)])
def test_advice_is_to_use_a_worker_that_is_near_and_not_one_that_is_far(rtt_ms, pays):
    planned = Setup(make_source("reference", 1), rtt_ms=rtt_ms, requests=4, tokens=40)
    found = advise(planned, [Contender("wanspec")], ks=(1, 2))
    assert found.enable is pays
    assert found.words(rtt_ms).startswith("Use a worker" if pays else "Do not use a worker")
    assert (found.stops_paying_ms is None) or found.stops_paying_ms > rtt_ms


def test_an_alarm_fires_once_at_the_deadline_that_holds_then():
    queue, ticks = [], []
    state = {"now": 0.0, "due": 0.0}

    def tick():
        ticks.append(state["now"])
        state["due"] = float("inf")

    alarm = Alarm(lambda *entry: queue.append(entry), lambda: state["now"], lambda: state["due"], tick)
    for state["due"] in (30.0, 20.0, 40.0):  # sooner: set anew; later: found out when it fires
        alarm.set()
    assert [time for time, _ in queue] == [30.0, 20.0]
    while queue:
        queue.sort(key=lambda entry: entry[0])
        state["now"], do = queue.pop(0)
        do()
    assert (ticks, state["now"]) == ([40.0], 40.0)


def test_frames_of_an_earlier_connection_never_arrive():
    queue, seen = [], []
    network = Network(Weather(delay_ms=5.0), lambda time, do: queue.append(do), lambda: 0.0, random.Random(1))
    network.connect(lambda: seen.append("first"))
    network.up(lambda: seen.append("up"), lossy=True)
    network.down(1, lambda: seen.append("down"))
    network.down(7, lambda: seen.append("of another link"))
    network.connect(lambda: seen.append("second"))
    for do in queue:
        do()
    assert seen == ["second"]


def test_the_engines_of_a_pair_answer_as_a_target_and_a_draft_do():
    pair = make_source("reference", 1)
    prompt = [3, 1, 4, 1, 5]
    text = list(prompt)
    for _ in range(4):
        text.append(pair.target(text))
    wrong = (text[7] + 1) % pair.vocab_size
    for drafts, expected in ((tuple(text[5:7]), text[5:8]), ((*text[5:7], wrong), text[5:8]), ((wrong,), text[5:6])):
        tokens, log_probs = verify(pair, Verify((1, 1), [*prompt, 99], 5, drafts, True))
        assert (tokens, len(log_probs)) == (tuple(expected), len(expected))
    tokens, log_probs = draft(pair, Draft((1, 2), [*prompt, 99], 5, (7,), 3))
    assert len(tokens) == len(log_probs) == 3
    assert tokens[0] == pair.draft([*prompt, 7], 1)[0][0]
    assert tokens[1] == pair.draft([*prompt, 7, tokens[0]], 1)[0][0]
