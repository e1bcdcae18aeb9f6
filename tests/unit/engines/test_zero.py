from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from wanspec.core.drafting import SequenceLeaves
from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.pace import Pace
from wanspec.engines.zero import ZeroDraftEngine, ZeroEngine, ZeroModel
from wanspec.errors import ConfigError, EngineError


def one(engine: ZeroEngine, request: GenerationRequest) -> GenerationResult:
    (result,) = engine.generate([request])
    assert isinstance(result, GenerationResult), result
    return result


def request(tokens: list[int], count: int, drafts: list[int] | None = None, **options: object) -> GenerationRequest:
    return GenerationRequest(
        np.asarray(tokens, dtype=np.int32), count, np.asarray(drafts or [], dtype=np.int32), **options
    )  # type: ignore[arg-type]


class Clock:
    """Time that passes where somebody sleeps or looks, and nowhere else."""

    def __init__(self) -> None:
        self._now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        self._now_ns += 1
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)


def test_generation_does_not_depend_on_how_it_is_cut() -> None:
    engine = ZeroEngine(max_draft_len=8)
    text = one(engine, request([7], 40)).output_ids.tolist()
    assert len(set(text)) > 30, "no short loop"
    assert one(engine, request([7, *text[:10]], 30)).output_ids.tolist() == text[10:]
    verified = one(engine, request([7, *text[:10]], 4, [text[10], text[11], text[12] + 1]))
    assert verified.output_ids.tolist() == text[10:13]
    assert (verified.accepted_drafts, verified.total_drafts) == (2, 3)
    assert one(engine, request([7], 40, end_id=text[5])).output_ids.tolist() == text[:5]


@pytest.mark.parametrize("agreement", [0.3, 0.8, 1.0])
def test_the_draft_agrees_as_often_as_stated_and_is_calibrated(agreement: float) -> None:
    target, draft = ZeroModel(), ZeroModel(agreement=agreement)
    pairs = [(int(a), int(b)) for a, b in np.random.default_rng(0).integers(0, 4096, (8000, 2))]
    agreed = np.array([draft.next_token(*pair) == target.next_token(*pair) for pair in pairs])
    confidence = np.array([draft.confidence(*pair) for pair in pairs])
    assert agreed.mean() == pytest.approx(agreement, abs=0.02)
    for low, high in ((0.0, agreement), (agreement, 1.01)):
        chosen = (confidence >= low) & (confidence < high)
        if chosen.any():
            assert agreed[chosen].mean() == pytest.approx(confidence[chosen].mean(), abs=0.03)


def test_the_draft_engine_ranks_the_targets_token_and_describes_a_distribution() -> None:
    target, draft = ZeroModel(64), ZeroModel(64, 0.7)
    engine = ZeroDraftEngine(draft)
    prefix = [1, 2, 3]
    expansion = engine.expand([SequenceLeaves("a", prefix, 3, ((), (9,))), SequenceLeaves("b", prefix, 1, ((),))], 64)
    for row, pair in enumerate(((2, 3), (3, 9), (-1, 1))):
        assert sorted(expansion.tokens[row].tolist()) == list(range(64))
        assert expansion.tokens[row, draft.target_rank(*pair)] == target.next_token(*pair)
        assert expansion.tokens[row, 0] == draft.next_token(*pair)
        probabilities = np.exp(expansion.log_probs[row].astype(np.float64))
        assert probabilities[:40].sum() == pytest.approx(1.0, abs=1e-4)
        entropy = -(probabilities * np.log(probabilities)).sum()
        assert expansion.entropies[row] == pytest.approx(entropy, abs=1e-3)


def test_steps_are_paced_and_shared_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("wanspec.engines.pace.time", clock)
    monkeypatch.setattr("wanspec.engines.zero.time", clock)
    engine = ZeroEngine(pace=Pace(3.0))
    long, short = engine.generate([request([1], 5), request([2], 2)])
    assert isinstance(long, GenerationResult)
    assert isinstance(short, GenerationResult)
    assert long.timings.last_token_ns - long.timings.first_scheduled_ns == pytest.approx(15e6, abs=5)
    assert short.timings.last_token_ns - short.timings.first_scheduled_ns == pytest.approx(6e6, abs=5)
    assert short.timings.first_scheduled_ns == long.timings.first_scheduled_ns


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="agreement"):
        ZeroModel(agreement=0.0)
    with pytest.raises(ConfigError, match="vocab_size"):
        ZeroModel(1)
    with pytest.raises(EngineError, match="context is 4"):
        ZeroDraftEngine(ZeroModel(), context=4).expand([SequenceLeaves("a", [1, 2, 3], 3, ((1, 2),))], 1)


def test_no_torch_is_imported() -> None:
    modules = "wanspec.engines.zero, wanspec.engines.config, wanspec.engines.tensors, wanspec.engines.runner"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "False"


def test_a_step_takes_the_oldest_requests_up_to_max_batch_size() -> None:
    engine = ZeroEngine(max_batch_size=2)
    texts = [one(ZeroEngine(), request([first], 2)).output_ids.tolist() for first in range(3)]
    first, second, third = (engine.add(request([number], 2)) for number in range(3))
    assert (engine.load.active, engine.load.waiting) == (2, 1)
    assert engine.step() == []
    assert engine.step() == [first, second]
    assert (engine.load.active, engine.load.waiting) == (1, 0)
    fourth = engine.add(request([9], 1))
    assert engine.step() == [fourth], "the third has begun, the fourth has room beside it"
    assert engine.step() == [third]
    assert [run.output for run in (first, second, third)] == texts
    waiting = [engine.add(request([number], 1)) for number in range(3)]
    engine.cancel(waiting[2])
    assert engine.step() == waiting[:2]
    assert engine.idle
