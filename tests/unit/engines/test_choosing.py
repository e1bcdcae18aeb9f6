"""Sampling, penalties, word lists and drafts: the engine against the plain definition, and the laws of the draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.engines import sampling_laws as laws
from wanspec.core.sampling import Sampling, filtered, sample
from wanspec.engines.choosing import TokenChooser, banned_tokens, chooser
from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.kv_cache import KVBuffer
from wanspec.engines.segments import append_segment
from wanspec.engines.torch_model import TorchModel

VOCAB = 61
NONE = np.zeros(0, dtype=np.int32)


def prompt_of(count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.int32)


def array(*tokens: int) -> NDArray[np.int32]:
    return np.asarray(tokens, dtype=np.int32)


def one(engine: TorchEngine, request: GenerationRequest) -> GenerationResult:
    (result,) = engine.generate([request])
    assert isinstance(result, GenerationResult), result
    return result


OPTIONS: list[dict[str, object]] = [
    {"temperature": 0.7, "runtime_top_p": 1.0, "seed": 3},
    {"runtime_top_k": 40, "seed": 2**64 - 1},
    {"temperature": 1.3, "runtime_top_k": 10, "runtime_top_p": 0.9},
    {"runtime_top_k": 20, "repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3, "seed": 9},
    {"repetition_penalty": 0.8, "temperature": 2.0, "presence_penalty": 1.0},
    {"runtime_top_k": 30, "temperature": 0.6, "frequency_penalty": 0.4, "seed": 2},
    {"runtime_top_p": 0.9, "embedding_bias": np.linspace(-2, 2, VOCAB, dtype=np.float32), "seed": 5},
    {"bad_words": tuple((token,) for token in range(0, VOCAB, 2)), "runtime_top_k": 5, "seed": 1},
]


def plainly(model: TorchModel, request: GenerationRequest) -> list[int]:
    """The whole prefix again for every token, and every rule written out."""
    tokens = request.input_ids.tolist()
    temperature = 1.0 if request.temperature is None else request.temperature
    top_k, top_p = request.runtime_top_k or 0, request.runtime_top_p or 0.0
    greedy = top_k == 1 or not (top_k or top_p)
    for _ in range(request.request_output_len):
        rows = model.forward([append_segment(KVBuffer(model.kv_shape, 128), 0, tokens, 1)])
        logits = rows[0].numpy().copy()
        if request.embedding_bias is not None:
            logits += request.embedding_bias
        logits /= temperature
        for token in set(tokens):
            value = logits[token]
            value = value * request.repetition_penalty if value < 0 else value / request.repetition_penalty
            value -= request.presence_penalty + request.frequency_penalty * tokens.count(token)
            logits[token] = value
        for word in request.bad_words:
            if tokens[len(tokens) - len(word) + 1 :] == list(word[:-1]):
                logits[word[-1]] = -np.inf
        setting = Sampling() if greedy else Sampling(1.0, top_k, top_p or 1.0, request.seed or 0)
        tokens.append(sample(logits, setting, len(tokens)))
    return tokens[len(request.input_ids) :]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options))
def test_generation_follows_the_rules(model: TorchModel, options: dict[str, object]) -> None:
    request = replace(GenerationRequest(prompt_of(20), 25), **options)  # type: ignore[arg-type]
    assert one(TorchEngine(model), request).output_ids.tolist() == plainly(model, request)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), options=st.sampled_from(OPTIONS), others=st.integers(0, 2))
def test_drafts_change_nothing(model: TorchModel, seed: int, options: dict[str, object], others: int) -> None:
    """Rounds with right, wrong and random drafts, beside others in the batch, give what one request gives."""
    engine = TorchEngine(model, max_draft_len=4, kv_tokens=512, max_num_tokens=24)
    choose = np.random.default_rng(seed)
    request = replace(GenerationRequest(prompt_of(int(choose.integers(1, 40)), seed), 20), **options)  # type: ignore[arg-type]
    expected = one(engine, request).output_ids.tolist()
    done: list[int] = []
    while len(done) < 20:
        drafts = np.asarray(expected[len(done) :][: int(choose.integers(0, 5))], dtype=np.int32)
        wrong = choose.random(len(drafts)) < 0.3
        drafts[wrong] = choose.integers(0, VOCAB, int(wrong.sum()))
        prefix = np.concatenate((request.input_ids, array(*done)))
        verify = replace(request, input_ids=prefix, request_output_len=len(drafts) + 1, draft_input_ids=drafts)
        beside = [GenerationRequest(prompt_of(5, other), 3, runtime_top_k=7) for other in range(others)]
        result = engine.generate([*beside, verify])[-1]
        assert isinstance(result, GenerationResult), result
        assert 1 <= len(result.output_ids) <= len(drafts) + 1
        done += result.output_ids.tolist()
        del done[20:]
        assert done == expected[: len(done)]


def test_without_a_seed_it_is_zero_and_other_seeds_differ(model: TorchModel) -> None:
    engine = TorchEngine(model)
    request = GenerationRequest(prompt_of(6), 20, runtime_top_p=1.0)
    unset, zero, one_ = (one(engine, replace(request, seed=seed)).output_ids.tolist() for seed in (None, 0, 1))
    assert unset == zero != one_


def test_temperature_zero_and_top_k_one_are_greedy(model: TorchModel) -> None:
    engine = TorchEngine(model)
    plain = GenerationRequest(prompt_of(6), 10)
    expected = one(engine, plain).output_ids.tolist()
    for options in ({"temperature": 0.0, "runtime_top_p": 0.9}, {"runtime_top_k": 1, "temperature": 2.0, "seed": 4}):
        assert one(engine, replace(plain, **options)).output_ids.tolist() == expected


def test_log_probs_are_those_of_the_tempered_distribution(model: TorchModel) -> None:
    request = GenerationRequest(prompt_of(6), 1, temperature=0.5, runtime_top_k=3, seed=8, return_log_probs=True)
    result = one(TorchEngine(model), request)
    logits = model.forward([append_segment(KVBuffer(model.kv_shape, 128), 0, request.input_ids, 1)])[0]
    assert result.log_probs is not None
    assert result.log_probs[0] == pytest.approx(float((logits / 0.5).log_softmax(-1)[result.output_ids[0]]), abs=1e-5)


def test_min_tokens_keeps_the_end_away(model: TorchModel) -> None:
    engine = TorchEngine(model, max_draft_len=4)
    plain = GenerationRequest(prompt_of(20), 12)
    expected = one(engine, plain).output_ids.tolist()
    early = replace(plain, end_id=expected[0])
    assert one(engine, early).output_ids.tolist() == []
    late = one(engine, replace(early, min_tokens=5)).output_ids.tolist()
    assert len(late) >= 5
    assert expected[0] not in late
    verified = one(engine, replace(early, min_tokens=5, request_output_len=5, draft_input_ids=array(*late[:4])))
    assert verified.output_ids.tolist() == late[:5]


def test_min_tokens_counts_the_drafts_before_a_token(model: TorchModel) -> None:
    plain = GenerationRequest(prompt_of(20), 5)
    engine = TorchEngine(model, max_draft_len=4)
    expected = one(engine, plain).output_ids.tolist()
    stop = next(place for place in range(1, 5) if expected[place] not in expected[:place])
    request = replace(plain, draft_input_ids=array(*expected[:4]), end_id=expected[stop], min_tokens=stop)
    assert one(engine, request).output_ids.tolist() == expected[:stop]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_stop_words_end_the_output_and_are_part_of_it(model: TorchModel, length: int) -> None:
    engine = TorchEngine(model, max_draft_len=8)
    plain = GenerationRequest(prompt_of(20), 12, runtime_top_k=50, seed=12)
    expected = one(engine, plain).output_ids.tolist()
    word = tuple(expected[3 : 3 + length])
    stop = replace(plain, stop_words=((60, 60, 60, 60), word))
    assert one(engine, stop).output_ids.tolist() == expected[: 3 + length]
    verified = one(engine, replace(stop, draft_input_ids=array(*expected[:8])))
    assert verified.output_ids.tolist() == expected[: 3 + length]
    assert verified.accepted_drafts == 3 + length
    prefix = np.concatenate((plain.input_ids, array(*expected[: 2 + length])))
    spanning = one(engine, replace(stop, input_ids=prefix, draft_input_ids=array(*expected[2 + length : 6 + length])))
    assert spanning.output_ids.tolist() == expected[2 + length : 3 + length], "a word that began before this round"


def test_bad_words_of_several_tokens(model: TorchModel) -> None:
    engine = TorchEngine(model)
    plain = GenerationRequest(prompt_of(20), 12)
    expected = one(engine, plain).output_ids.tolist()
    changed = one(engine, replace(plain, bad_words=((expected[2], expected[3]), (9, 9)))).output_ids.tolist()
    assert changed[:3] == expected[:3]
    assert changed[3] != expected[3]
    assert banned_tokens(((5,), (1, 2), (4, 3, 2)), [7, 4, 3]) == [5, 2]


def test_what_asks_for_nothing_stays_on_the_plain_path() -> None:
    plain = GenerationRequest(array(1), 1, temperature=0.5, seed=3, min_tokens=4, stop_words=((1,),))
    assert chooser(plain) is None
    assert chooser(replace(plain, end_id=3)) is not None


# The law with draft_logits


def _draws(request: GenerationRequest, logits: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """First tokens over many seeds, drafts as given."""
    rows = np.stack([logits, logits])
    chosen = []
    for seed in range(count):
        picked = TokenChooser(replace(request, seed=seed)).choose(rows, [1, 2], 0, request.draft_input_ids, False)
        chosen.append(picked.tokens[0])
    return np.bincount(chosen, minlength=len(logits))


LOGITS = np.random.default_rng(5).normal(0, 1.0, 12)
TARGET = GenerationRequest(array(1, 2), 2, temperature=0.8, runtime_top_k=9, runtime_top_p=0.95)
LAW = laws.law_of(LOGITS, 0.8, 9, 0.95)


@pytest.mark.parametrize("draft", [int(LOGITS.argmax()), int(LOGITS.argmin()), 3])
def test_a_one_hot_draft_leaves_the_law_as_it_is(draft: int) -> None:
    one_hot = np.full((1, 16), -1e4, dtype=np.float32)
    one_hot[0, draft] = 0.0
    request = replace(TARGET, draft_input_ids=array(draft), draft_logits=one_hot)
    assert laws.chi_square_passes(_draws(request, LOGITS, 12_000), LAW)


@pytest.mark.parametrize("first", [0.0, 2.5])
def test_drafts_drawn_from_their_own_distribution_leave_the_law_as_it_is(first: float) -> None:
    """Also when they were drawn with the same seed, as a coupled drafter does, and whichever token is likely."""
    draft_logits = (LOGITS + np.random.default_rng(6).normal(0, 1.0, 12)).astype(np.float32)
    draft_logits[0] += first
    counts = np.zeros(12, dtype=np.int64)
    accepted = 0
    for seed in range(12_000):
        draft = sample(draft_logits, Sampling(1.0, seed=seed), 2)
        request = replace(TARGET, draft_input_ids=array(draft), draft_logits=draft_logits[None], seed=seed)
        picked = TokenChooser(request).choose(np.stack([LOGITS, LOGITS]), [1, 2], 0, array(draft), False)
        counts[picked.tokens[0]] += 1
        accepted += picked.accepted
    assert laws.chi_square_passes(counts, LAW)
    drafted = np.exp(draft_logits.astype(np.float64))
    assert accepted / 12_000 == pytest.approx(np.minimum(LAW, drafted / drafted.sum()).sum(), abs=0.02)


def test_the_threshold_replaces_the_random_number_and_needs_logits() -> None:
    kept = filtered(LOGITS, Sampling(0.8, 9, 0.95))
    likely = int(kept.ids[kept.log_probs.argmax()])
    probability = float(np.exp(kept.log_probs.max()))
    one_hot = np.full((1, 12), -1e4, dtype=np.float32)
    one_hot[0, likely] = 0.0
    rows, drafts = np.stack([LOGITS, LOGITS]), array(likely)
    with_logits = replace(TARGET, draft_input_ids=drafts, draft_logits=one_hot)
    for threshold, accepted in ((probability * 0.99, 1), (probability * 1.01, 0)):
        for seed in range(20):
            request = replace(with_logits, draft_acceptance_threshold=threshold, seed=seed)
            assert TokenChooser(request).choose(rows, [1, 2], 0, drafts, False).accepted == accepted
    for seed in range(50):
        plain = replace(TARGET, draft_input_ids=drafts, seed=seed)
        chosen = TokenChooser(plain).choose(rows, [1, 2], 0, drafts, False)
        with_threshold = TokenChooser(replace(plain, draft_acceptance_threshold=1e-9))
        assert with_threshold.choose(rows, [1, 2], 0, drafts, False) == chosen
