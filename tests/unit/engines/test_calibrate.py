from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec.core.costs import CostModel, CostTable
from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.engines.calibrate import Grid, calibrate_draft, calibrate_target
from wanspec.engines.generation import TorchEngine
from wanspec.engines.pace import Pace
from wanspec.engines.torch_model import TorchModel
from wanspec.engines.tree import TreeDraftEngine
from wanspec.engines.zero import ZeroEngine
from wanspec.errors import ConfigError

STEP = CostTable((1, 4, 8), (0, 100), ((10.0, 12.0), (13.0, 18.0), (13.0, 18.0)))
PREFILL = CostTable((1, 101), (0, 100), ((10.0, 12.0), (60.0, 62.0)))
COSTS = CostModel(STEP, PREFILL, {"model": "m"})
SMALL = Grid(counts=(1, 4, 16), prefills=(1, 8), contexts=(8, 64), repeats=2)


def test_costs_are_linear_between_points_and_flat_or_rising_beyond() -> None:
    assert COSTS.pass_ms(1, 1, 0) == 10.0
    assert COSTS.pass_ms(2, 2, 50) == pytest.approx(11.0 + 4.5 / 3)
    assert COSTS.pass_ms(8, 8, 200) == 23.0, "the slope of the context goes on"
    assert COSTS.pass_ms(100, 100, 0) == 13.0
    assert COSTS.pass_ms(4, 54, 0) == 13.0 + 25.0
    assert COSTS.verify_ms(3, 100) == 18.0


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0, 5000))
def test_costs_are_never_negative_and_more_tokens_never_cost_less(leaves: int, more: int, context: float) -> None:
    assert 0.0 <= COSTS.pass_ms(leaves, leaves, context) <= COSTS.pass_ms(leaves, leaves + more, context)


def test_costs_survive_the_file() -> None:
    assert CostModel.from_json(COSTS.to_json()) == COSTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "costs: JSONDecodeError"),
        ("[]", "costs: TypeError"),
        ("{}", "costs: KeyError"),
        (COSTS.to_json().replace('"version": 1', '"version": 9'), "costs.version: is 9, not 1"),
        (COSTS.to_json().replace("13.0", "-1"), "costs.ms: has a value that is negative"),
        (COSTS.to_json().replace("101", "1"), "costs.counts: is "),
    ],
)
def test_files_that_cannot_be_used_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CostModel.from_json(text)


class LinearDraft:
    """Costs 5 ms, 1 a leaf and 0.01 a token of context; knows what it is asked."""

    vocab_size, context = 61, 128

    def __init__(self) -> None:
        self.cached: Counter[Hashable] = Counter()

    def expand(self, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
        (sequence,) = batch
        assert sequence.length + max(map(len, sequence.leaves)) <= self.context
        new = sequence.length - self.cached[sequence.key]
        assert new >= 0, "a shorter prefix is computed anew"
        self.cached[sequence.key] = sequence.length
        leaves = len(sequence.leaves)
        ms = 5 + leaves + 0.01 * sequence.length + max(0, new - 1)
        empty = np.zeros((leaves, top))
        return Expansion(empty.astype(np.int32), empty.astype(np.float32), empty[:, 0].astype(np.float32), ms)

    def release(self, key: Hashable) -> None:
        del self.cached[key]


def test_a_draft_engine_is_measured_where_the_grid_says() -> None:
    seen: list[tuple[int, int]] = []
    engine = LinearDraft()
    costs = calibrate_draft(
        engine, SMALL, about={"model": "linear"}, progress=lambda done, total: seen.append((done, total))
    )
    assert (costs.step.counts, costs.step.contexts, costs.prefill.counts) == ((1, 4, 16), (8, 64), (1, 8))
    assert costs.pass_ms(4, 4, 8) == pytest.approx(9.08)
    assert costs.pass_ms(16, 16, 64) == pytest.approx(21.64)
    assert costs.pass_ms(1, 8, 8) == pytest.approx(6.08 + 7 + 0.08, abs=0.2)
    assert seen[-1] == (30, 30)
    assert costs.engine == {"model": "linear"}
    assert engine.cached == {}, "nothing is left behind"


class NoisyDraft(LinearDraft):
    """Where four leaves are measured, something else runs."""

    def expand(self, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
        result = super().expand(batch, top)
        return result._replace(engine_ms=result.engine_ms + 500 * (len(batch[0].leaves) == 4))


def test_a_pass_that_does_less_is_never_dearer() -> None:
    costs = calibrate_draft(NoisyDraft(), SMALL)
    assert costs.pass_ms(1, 1, 8) < costs.pass_ms(4, 4, 8) == costs.pass_ms(16, 16, 8) < 30


def test_real_engines_are_measured_and_cost_about_what_a_pace_says(model: TorchModel) -> None:
    """From below only: what else runs on the machine makes passes longer."""
    paced = calibrate_draft(TreeDraftEngine(model, pace=Pace(4.0, 1.0)), SMALL)
    assert paced.pass_ms(1, 1, 8) > 4.9
    assert paced.pass_ms(16, 16, 64) > 19.0
    target = calibrate_target(TorchEngine(model, max_draft_len=3, pace=Pace(4.0, 1.0)), 3, model.context, SMALL)
    assert target.step.counts == (1, 4)
    assert target.verify_ms(3, 64) > 7.9
    assert target.pass_ms(1, 8, 8) > 11.9
    assert target.pass_ms(1, 8, 64) < 75, "what is before the new tokens is reused; computed, it takes 76 ms"


def test_points_beyond_the_context_are_left_out() -> None:
    costs = calibrate_target(ZeroEngine(max_draft_len=8), 8, 300, Grid(repeats=1))
    assert (costs.step.counts, costs.step.contexts) == ((1, 2, 4, 8), (32, 256))
    with pytest.raises(ConfigError, match="do not fit a context of 20"):
        calibrate_target(ZeroEngine(), 0, 20)
