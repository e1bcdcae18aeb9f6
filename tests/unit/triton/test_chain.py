"""The worker's draft as a chain over BLS, against an engine that speaks the contract."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.unit.triton.bls_double import Bls
from wanspec.core.drafting import SequenceLeaves
from wanspec.core.sampling import Sampling
from wanspec.engines.generation import TorchEngine
from wanspec.engines.pace import Pace
from wanspec.engines.torch_model import TorchModel
from wanspec.engines.tree import TreeDraftEngine
from wanspec.errors import EngineError
from wanspec.models import resolve
from wanspec.triton.tensorrt_llm import calls
from wanspec.triton.tensorrt_llm.chain import ChainDraftEngine, ChainSettings

PREFIX = [40, 41, 42, 43, 44]
K = 4


@pytest.fixture(scope="module")
def model() -> TorchModel:
    return TorchModel.load(resolve("small-draft"), dtype="float64")


@pytest.fixture(params=[False, True], ids=["unary", "decoupled"])
def bls(request, model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bls]:
    double = Bls(decoupled=request.param, draft=TorchEngine(model))
    monkeypatch.setattr(calls, "pb_utils", double)
    yield double
    double.close()


def chain(bls: Bls, model: TorchModel, **options) -> ChainDraftEngine:
    return ChainDraftEngine(
        ChainSettings("draft", model.vocab_size, model.context, K, decoupled=bls.decoupled, **options)
    )


def leaves_of(key: str, prefix: list[int], *paths: tuple[int, ...], sampling: Sampling | None = None):
    return SequenceLeaves(key, prefix, len(prefix), paths, sampling)


@pytest.mark.parametrize("sampling", [None, Sampling(0.75, 0, 0.875, 7)])
def test_one_request_gives_the_tokens_of_several_passes(bls, model, sampling):
    engine, tree = chain(bls, model), TreeDraftEngine(model)
    prefix, path = list(PREFIX), ()
    for step in range(3 * K):
        found = engine.expand([leaves_of("s", prefix, path, sampling=sampling)], 3)
        expected = tree.expand([leaves_of("s", prefix, path, sampling=sampling)], 3)
        assert found.tokens.tolist() == [[int(expected.tokens[0, 0])]]
        assert found.log_probs[0, 0] == pytest.approx(expected.log_probs[0, 0], abs=1e-4)
        assert (found.engine_ms > 0.0) == (step % K == 0)
        path += (int(found.tokens[0, 0]),)
        if step % 3 == 2:  # committed as drafted
            prefix, path = [*prefix, *path[:2]], path[2:]
    assert len(bls.requests) == 3
    assert [int(count.item()) for count in bls.sent("draft", "request_output_len")] == [K] * 3


def test_after_a_miss_the_chain_is_drafted_anew(bls, model):
    engine, tree = chain(bls, model), TreeDraftEngine(model)
    first = int(engine.expand([leaves_of("s", PREFIX, ())], 1).tokens[0, 0])
    other = [*PREFIX, (first + 1) % model.vocab_size]
    expected = tree.expand([leaves_of("s", other, ())], 1).tokens
    assert engine.expand([leaves_of("s", other, ())], 1).tokens.tolist() == expected.tolist()
    assert len(bls.requests) == 2
    engine.release("s")
    engine.expand([leaves_of("s", other, ())], 1)
    assert len(bls.requests) == 3


def test_many_sequences_are_asked_for_at_once(bls, model):
    engine, tree = chain(bls, model), TreeDraftEngine(model)
    batch = [leaves_of(f"s{number}", [number + 3, *PREFIX], ()) for number in range(6)]
    assert engine.expand(batch, 1).tokens.tolist() == tree.expand(batch, 1).tokens.tolist()
    assert len({name for name, _, _ in bls.requests}) == 6


def test_a_part_of_a_prompt_and_the_context(bls, model):
    engine = chain(bls, model)
    engine.expand([SequenceLeaves("s", PREFIX * 3, 5, ((),))], 1)
    engine.expand([leaves_of("t", [5] * (model.context - 2), ())], 1)
    assert [int(count.item()) for count in bls.sent("draft", "request_output_len")] == [1, 2]
    with pytest.raises(EngineError, match=f"prefix and leaf are {model.context} tokens"):
        engine.expand([leaves_of("t", [5] * model.context, ())], 1)


def test_an_error_of_the_model(bls, model):
    engine = chain(bls, model)
    with pytest.raises(EngineError, match="draft: input_ids: token ids must be in"):
        engine.expand([leaves_of("s", [model.vocab_size, 1], ())], 1)
    assert engine.expand([leaves_of("s", PREFIX, ())], 1).tokens.shape == (1, 1)


def test_a_pass_has_a_deadline_and_what_is_late_is_stopped(model, monkeypatch):
    double = Bls(draft=TorchEngine(model, pace=Pace(200.0)))
    monkeypatch.setattr(calls, "pb_utils", double)
    engine = chain(double, model, timeout_ms=50.0)
    began = time.monotonic()
    with pytest.raises(EngineError, match="draft did not answer within 50 ms for 2 of 2 leaves"):
        engine.expand([leaves_of("s", PREFIX, ()), leaves_of("t", [1, 2], ())], 1)
    assert time.monotonic() - began < 5
    while len(double.sent("draft", "stop")) < 2:
        assert time.monotonic() - began < 10
        time.sleep(0.02)
    stopped = {name for name, _, tensors in double.requests if "stop" in tensors}
    assert stopped == {name for name, _, tensors in double.requests if "stop" not in tensors}
    engine.close()
    double.close()
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("wanspec-"))
