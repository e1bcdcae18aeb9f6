"""Engine calls by TensorRT-LLM's tensors, against engines of ours that speak them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.unit.triton.bls_double import Bls
from tests.unit.triton.test_controller_body import Client
from wanspec.core.config import ControllerConfig, Fingerprint, SamplingMode
from wanspec.core.events import Draft, Request, Verify
from wanspec.core.options import PLAIN, GenerationOptions
from wanspec.core.sampling import GREEDY, Sampling, round_seed
from wanspec.engines.contract import GenerationRequest
from wanspec.engines.generation import TorchEngine
from wanspec.engines.pace import Pace
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import EngineError, RequestStoppedError
from wanspec.models import resolve
from wanspec.triton.controller_body import ControllerBody
from wanspec.triton.tensorrt_llm import calls
from wanspec.triton.tensorrt_llm.engines import BlsEngines
from wanspec.triton.tensorrt_llm.inputs import bias_of

PROMPT = np.array([40, 41, 42, 43, 44], dtype=np.int32)
SAMPLED = Sampling(0.75, 0, 0.875, 7)


@pytest.fixture(scope="module")
def models() -> dict[str, TorchModel]:
    return {role: TorchModel.load(resolve(f"small-{role}"), dtype="float64") for role in ("target", "draft")}


@pytest.fixture
def bls(models: dict[str, TorchModel], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bls]:
    double = Bls(target=TorchEngine(models["target"], max_draft_len=8), draft=TorchEngine(models["draft"]))
    monkeypatch.setattr(calls, "pb_utils", double)
    yield double
    double.close()


def engines(mode: SamplingMode, tokens: int, **options: Any) -> BlsEngines:
    return BlsEngines("target", "draft", tokens, tokens, mode, **options)


def verify(drafts: tuple[int, ...], sampling: Sampling = GREEDY, number: int = 1, **more: Any) -> Verify:
    return Verify(
        (3, number), PROMPT.tolist(), len(PROMPT), drafts, False, sampling, more.pop("options", PLAIN), **more
    )


def plain(model: TorchModel, count: int, sampling: Sampling = GREEDY, options: GenerationOptions = PLAIN) -> list[int]:
    request = GenerationRequest(
        PROMPT,
        count,
        bad_words=options.bad_words,
        embedding_bias=bias_of(options, model.vocab_size) if options.logit_bias else None,
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        temperature=sampling.temperature,
        runtime_top_k=sampling.top_k,
        runtime_top_p=sampling.top_p,
        seed=sampling.seed,
    )
    (result,) = TorchEngine(model).generate([request])
    return result.output_ids.tolist()  # type: ignore[union-attr]


def test_a_verification(bls, models):
    text = plain(models["target"], 5)
    called = engines(SamplingMode.TENSORRT_LLM, models["target"].vocab_size)
    wrong = (text[2] + 1) % models["target"].vocab_size
    assert called.verify(verify(tuple(text[:4])), PROMPT, 1e4).tokens == tuple(text)
    answer = called.verify(verify((*text[:2], wrong, text[3]), blocks=True), PROMPT, 1e4)
    assert answer.tokens == tuple(text[:3])
    assert answer.engine_ms > 0.0
    assert len(answer.blocks) == 3
    # The controller looks for these itself; greedy needs no seed and no logits.
    for _, _, tensors in bls.requests:
        assert not {"end_id", "stop_words_list", "seed", "draft_logits", "min_tokens"} & tensors.keys()
    assert len({request for request, _, _ in bls.requests}) == 1
    assert not bls.requests[0][0][0].isdigit()


def test_a_round_has_a_seed_and_one_hot_logits_of_its_own(bls, models):
    called = engines(SamplingMode.TENSORRT_LLM, models["target"].vocab_size)
    for drafts in ((5, 6), ()):
        called.verify(verify(drafts, SAMPLED), PROMPT, 1e4)
        called.verify(verify(drafts, SAMPLED), PROMPT[:4], 1e4)
    assert [int(seed.item()) for seed in bls.sent("target", "seed")] == [round_seed(7, 5), round_seed(7, 4)] * 2
    assert [logits.shape[1] for logits in bls.sent("target", "draft_logits")] == [2, 2]
    assert not bls.sent("target", "draft_acceptance_threshold")


def test_an_error_of_the_engine(bls, models):
    called = engines(SamplingMode.COUPLED, models["target"].vocab_size)
    with pytest.raises(EngineError, match=r"target: draft_input_ids: number of draft tokens \(9\)"):
        called.verify(verify(tuple(range(9))), PROMPT, 1e4)


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_call_is_stopped(models, monkeypatch, decoupled):
    """A generation of 500 steps of 20 ms each ends within a few of them."""
    paced = TorchEngine(models["draft"], pace=Pace(20.0))
    double = Bls(decoupled=decoupled, target=TorchEngine(models["target"]), draft=paced)
    monkeypatch.setattr(calls, "pb_utils", double)
    called = engines(SamplingMode.COUPLED, models["target"].vocab_size, decoupled=decoupled)
    ended: list[Exception] = []

    def draft() -> None:
        try:
            calls.generate(
                "draft",
                PROMPT,
                500,
                {},
                log_probs=True,
                timeout_ms=1e4,
                decoupled=decoupled,
                request_id=called._id((3, 9)),
            )
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=draft)
    thread.start()
    time.sleep(0.1)
    called.stop((3, 8))  # another one's
    time.sleep(0.1)
    assert thread.is_alive()
    began = time.monotonic()
    called.stop((3, 9))
    thread.join(10)
    assert time.monotonic() - began < 5
    assert [type(error) for error in ended] == [RequestStoppedError]
    double.close()


# The experiment: the controller draws


def served(body: ControllerBody, policy: str, sampling: Sampling, options: GenerationOptions = PLAIN) -> list[int]:
    client = Client()
    parameters = {"k": 3} if policy == "local" else {}
    body.submit(
        Request(tuple(PROMPT.tolist()), 40, policy=policy, parameters=parameters, sampling=sampling, options=options),
        client,
    )
    assert client.reason() == "length", client.end
    return client.tokens


@pytest.fixture
def body(bls: Bls, models: dict[str, TorchModel]) -> Iterator[ControllerBody]:
    vocab = models["target"].vocab_size
    config = ControllerConfig(
        Fingerprint(b"t" * 32, vocab), links=0, context=512, max_draft=8, sampling=SamplingMode.LOGITS
    )
    running = ControllerBody(config, engines(SamplingMode.LOGITS, vocab))
    running.start()
    yield running
    running.close()


OPTIONS = GenerationOptions(
    bad_words=((50,), (7, 8)),
    repetition_penalty=1.25,
    presence_penalty=0.5,
    frequency_penalty=0.25,
    logit_bias=((60, 2.0),),
)


@pytest.mark.parametrize(
    ("sampling", "options"),
    [
        (SAMPLED, PLAIN),
        (Sampling(1.0, 40, 1.0, (1 << 64) - 1), PLAIN),
        (Sampling(1.0, 0, 1.0, 3), OPTIONS),
        (GREEDY, PLAIN),
    ],
)
def test_drafts_change_nothing_where_the_controller_draws(body, bls, models, sampling, options):
    alone = served(body, "target_only", sampling, options)
    assert served(body, "local", sampling, options) == alone
    drafts = bls.sent("target", "draft_input_ids")
    assert len(drafts) > 5
    # What our own engine draws by itself, from the same logits: FP32 here, float64 there.
    assert alone == plain(models["target"], 40, sampling, options)
    thresholds = {float(value.item()) for value in bls.sent("target", "draft_acceptance_threshold")}
    assert thresholds == {float(np.float32(1e-30))}
    if not sampling.greedy:
        # Every draft was accepted by the engine, so that rounds are as long as the controller finds them.
        assert not bls.sent("target", "runtime_top_k")
        assert not bls.sent("target", "embedding_bias")


def test_rounds_of_the_experiment_take_several_tokens(body, bls):
    served(body, "local", Sampling(0.25, 0, 1.0, 5))
    assert len(bls.sent("target", "input_ids")) < 35


def test_fewer_rows_than_tokens_are_enough(bls, models, monkeypatch):
    """Whether TensorRT-LLM returns the row of the bonus token is not known; without it fewer tokens come."""
    vocab, answer = models["target"].vocab_size, calls.verify
    called = engines(SamplingMode.LOGITS, vocab)
    whole = called.verify(verify((5, 6, 7), SAMPLED), PROMPT, 1e4).tokens
    text = plain(models["target"], 4, SAMPLED)
    for rows in (0, 1, 2, 3):

        def cut(*args, rows=rows, **options):
            got = answer(*args, **options)
            return calls.EngineAnswer(got.tokens, (), got.engine_ms, (), got.logits[: rows if args[2] else 1])

        monkeypatch.setattr(calls, "verify", cut)
        got = called.verify(verify(tuple(text[:3]), SAMPLED), PROMPT, 1e4).tokens
        assert got == tuple(text[: max(1, rows)])
    assert whole[0] == text[0]


def test_an_engine_without_logits(bls, models, monkeypatch):
    answer = calls.verify
    monkeypatch.setattr(calls, "verify", lambda *args, **options: answer(*args, **(options | {"logits": False})))
    with pytest.raises(EngineError, match="its answer lacks generation_logits"):
        engines(SamplingMode.LOGITS, models["target"].vocab_size).verify(verify((5,), SAMPLED), PROMPT, 1e4)


def test_a_bias_is_as_wide_as_the_drafts_own_logits(bls, models):
    """Padding makes the target's wider: of the draft's, a bias beyond them has no column."""
    tokens = models["target"].vocab_size
    called = BlsEngines("target", "draft", tokens + 128, tokens, SamplingMode.COUPLED, draft_columns=tokens)
    options = GenerationOptions(logit_bias=((3, 50.0), (tokens + 5, 50.0)))
    answer = called.draft(Draft((3, 1), PROMPT.tolist(), len(PROMPT), (), 2, options=options), PROMPT, 1e4)
    assert answer.tokens == (3, 3)


def test_a_target_that_cannot_be_stopped_leaves_no_draft_running(monkeypatch):
    told = []

    def stop(model: str, request_id: str, **options: Any) -> None:
        told.append(model)
        if model == "target":
            raise EngineError("target: busy")

    monkeypatch.setattr(calls, "stop", stop)
    with pytest.raises(EngineError, match="target: busy"):
        engines(SamplingMode.COUPLED, 10).stop((3, 1))
    assert told == ["target", "draft"]
