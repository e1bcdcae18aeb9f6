from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.kv_cache import KVBuffer
from wanspec.engines.pace import Pace
from wanspec.engines.running import share_rows
from wanspec.engines.segments import append_segment
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import InvalidRequestError


def prompt_of(count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 61, count).astype(np.int32)


def array(*tokens: int) -> NDArray[np.int32]:
    return np.asarray(tokens, dtype=np.int32)


def greedy(model: TorchModel, prompt: NDArray[np.int32], count: int) -> tuple[list[int], list[float]]:
    """The slowest and plainest way: the whole prefix again for every token."""
    tokens, log_probs = prompt.tolist(), []
    for _ in range(count):
        logits = model.forward([append_segment(KVBuffer(model.kv_shape, 128), 0, tokens, 1)])[0]
        tokens.append(int(logits.argmax()))
        log_probs.append(float(logits.log_softmax(-1)[tokens[-1]]))
    return tokens[len(prompt) :], log_probs


def one(engine: TorchEngine, request: GenerationRequest) -> GenerationResult:
    (result,) = engine.generate([request])
    assert isinstance(result, GenerationResult), result
    return result


def test_plain_generation_with_log_probs(model: TorchModel) -> None:
    prompt = prompt_of(20)
    expected, log_probs = greedy(model, prompt, 15)
    result = one(TorchEngine(model), GenerationRequest(prompt, 15, return_log_probs=True))
    assert result.output_ids.tolist() == expected
    assert result.log_probs is not None
    np.testing.assert_allclose(result.log_probs, log_probs, atol=1e-5)
    assert result.cum_log_prob == pytest.approx(sum(log_probs), abs=1e-4)
    assert (result.total_drafts, result.acceptance_rate) == (0, 0.0)


@pytest.mark.parametrize("agreeing", range(5))
def test_drafts_return_the_accepted_prefix_and_one_token_more(model: TorchModel, agreeing: int) -> None:
    prompt = prompt_of(20)
    expected, log_probs = greedy(model, prompt, 5)
    drafts = array(*expected[:agreeing], *[(expected[i] + 1) % 61 for i in range(agreeing, 4)])
    result = one(TorchEngine(model, max_draft_len=4), GenerationRequest(prompt, 5, drafts, return_log_probs=True))
    assert result.output_ids.tolist() == expected[: agreeing + 1]
    assert (result.accepted_drafts, result.total_drafts) == (agreeing, 4)
    assert result.acceptance_rate == agreeing / 4
    np.testing.assert_allclose(result.log_probs, log_probs[: agreeing + 1], atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), slack=st.integers(0, 3))
def test_rounds_of_drafts_equal_plain_generation(model: TorchModel, seed: int, slack: int) -> None:
    """Two sequences verified together, round by round, on an engine with little cache, against plain generation."""
    engine = TorchEngine(model, max_draft_len=4, kv_tokens=128 * (1 + slack))
    choose = np.random.default_rng(seed)
    prompts = [prompt_of(int(choose.integers(1, 60)), seed + i) for i in range(2)]
    expected = [greedy(model, prompt, 30)[0] for prompt in prompts]
    done: list[list[int]] = [[], []]
    while any(len(tokens) < 20 for tokens in done):
        requests = []
        for prompt, tokens, truth in zip(prompts, done, expected, strict=True):
            drafts = np.asarray(truth[len(tokens) :][: int(choose.integers(0, 4))], dtype=np.int32)
            drafts[choose.random(len(drafts)) < 0.3] = 0
            prefix = np.concatenate((prompt, np.asarray(tokens, dtype=np.int32)))
            requests.append(GenerationRequest(prefix, len(drafts) + 1, drafts))
        for tokens, truth, result in zip(done, expected, engine.generate(requests), strict=True):
            assert isinstance(result, GenerationResult), result
            tokens += result.output_ids.tolist()
            assert tokens == truth[: len(tokens)]
            del tokens[20:]


def test_a_round_computes_only_its_new_tokens(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(model, max_draft_len=4)
    prompt = prompt_of(70)
    expected, _ = greedy(model, prompt, 10)
    rows: list[int] = []
    forward = TorchModel.forward

    def counting(self: TorchModel, segments: list) -> torch.Tensor:
        rows.append(sum(len(segment.tokens) for segment in segments))
        return forward(self, segments)

    monkeypatch.setattr(TorchModel, "forward", counting)
    one(engine, GenerationRequest(prompt, 3, array(*expected[:2])))
    result = one(engine, GenerationRequest(np.concatenate((prompt, array(*expected[:3]))), 3, array(expected[3], 0)))
    assert rows == [72, 3]
    assert (result.reused_blocks, result.alloc_new_blocks, result.alloc_total_blocks) == (3, 0, 1)


def test_end_id_ends_the_output_and_is_not_part_of_it(model: TorchModel) -> None:
    prompt = prompt_of(20)
    expected, _ = greedy(model, prompt, 8)
    end = next(token for i, token in enumerate(expected) if i >= 2 and token not in expected[:i])
    stop = expected.index(end)
    engine = TorchEngine(model, max_draft_len=8)
    assert one(engine, GenerationRequest(prompt, 8, end_id=end)).output_ids.tolist() == expected[:stop]
    verified = one(engine, GenerationRequest(prompt, 8, array(*expected[:7]), end_id=end))
    assert verified.output_ids.tolist() == expected[:stop]
    first = one(engine, GenerationRequest(prompt, 8, end_id=expected[0], return_log_probs=True))
    assert (len(first.output_ids), first.cum_log_prob) == (0, 0.0)
    later = np.concatenate((prompt, array(*expected[:stop])))
    assert one(engine, GenerationRequest(later, 3)).output_ids.tolist() == greedy(model, later, 3)[0]


def test_a_bad_request_does_not_disturb_the_others(model: TorchModel) -> None:
    good = GenerationRequest(prompt_of(10), 4)
    results = TorchEngine(model).generate([good, GenerationRequest(array(), 4), replace(good, beam_width=2), good])
    assert isinstance(results[1], InvalidRequestError)
    assert isinstance(results[2], InvalidRequestError)
    expected = greedy(model, good.input_ids, 4)[0]
    for index in (0, 3):
        result = results[index]
        assert isinstance(result, GenerationResult)
        assert result.output_ids.tolist() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": array()}, "input_ids: the prompt is empty"),
        ({"input_ids": array(61)}, r"input_ids: token ids must be in \[0, 61\)"),
        ({"input_ids": array(-1)}, r"input_ids: token ids must be in \[0, 61\)"),
        ({"input_ids": prompt_of(121)}, r"prompt length \(121\) exceeds maximum input length \(120\)"),
        ({"request_output_len": 0}, "request_output_len: is 0"),
        ({"draft_input_ids": prompt_of(5)}, r"draft tokens \(5\) is larger than maximum number of draft tokens \(4\)"),
        ({"draft_input_ids": array(99)}, "draft_input_ids: token ids"),
        ({"runtime_top_k": -1}, "runtime_top_k: is -1: must be at least 0"),
        ({"runtime_top_p": 1.5}, "runtime_top_p: is 1.5: must be from 0 to 1"),
        ({"runtime_top_p": float("nan")}, "runtime_top_p: is nan"),
        ({"temperature": -0.5}, "temperature: is -0.5: must be at least 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: is 0: must be above 0"),
        ({"presence_penalty": float("inf")}, "presence_penalty: is inf"),
        ({"min_tokens": -1}, "min_tokens: is -1"),
        ({"embedding_bias": np.zeros(60, np.float32)}, r"embedding_bias: has shape \[60\]: must be \[61\]"),
        ({"bad_words": ((61,),)}, "bad_words_list: token ids"),
        ({"stop_words": ((-1,),)}, "stop_words_list: token ids"),
        ({"draft_acceptance_threshold": 1.5}, "draft_acceptance_threshold: is 1.5"),
        (
            {"draft_input_ids": array(1, 2), "draft_logits": np.zeros((1, 61), np.float32)},
            r"draft_logits: has shape \[1, 61\]: must be \[2, 61\]",
        ),
        ({"return_context_logits": True}, "return_context_logits: is not available"),
        ({"beam_width": 2}, "beam_width: is 2"),
        ({"num_return_sequences": 2}, "num_return_sequences: is 2"),
    ],
)
def test_errors_name_the_input_and_the_limit(model: TorchModel, change: dict[str, object], message: str) -> None:
    request = replace(GenerationRequest(prompt_of(5), 4), **change)  # type: ignore[arg-type]
    (result,) = TorchEngine(model, max_draft_len=4, max_input_len=120).generate([request])
    with pytest.raises(InvalidRequestError, match=message):
        raise result  # type: ignore[misc]


@pytest.mark.parametrize(
    "change", [{"runtime_top_k": 1, "runtime_top_p": 0.5, "temperature": 3.0}, {"runtime_top_p": 0.0}]
)
def test_inputs_that_mean_greedy_are_accepted(model: TorchModel, change: dict[str, object]) -> None:
    plain = GenerationRequest(prompt_of(5), 4)
    engine = TorchEngine(model)
    changed = one(engine, replace(plain, **change))  # type: ignore[arg-type]
    assert changed.output_ids.tolist() == one(engine, plain).output_ids.tolist()


def test_outputs_and_drafts_are_cut_to_the_limits(model: TorchModel, caplog: pytest.LogCaptureFixture) -> None:
    engine = TorchEngine(model, max_draft_len=8, max_input_len=124)
    with caplog.at_level(logging.WARNING):
        assert len(one(engine, GenerationRequest(prompt_of(120), 50)).output_ids) == 8
        assert one(engine, GenerationRequest(prompt_of(120), 9, prompt_of(8))).total_drafts == 4
    assert "request_output_len reduced from 50 to 8" in caplog.text
    assert "drafts truncated from 8 to 4" in caplog.text
    assert len(one(engine, GenerationRequest(prompt_of(10), 2, prompt_of(4, 1))).output_ids) <= 2


def test_requests_wait_for_room_in_the_cache(model: TorchModel) -> None:
    engine = TorchEngine(model, kv_tokens=128)
    requests = [GenerationRequest(prompt_of(60, seed), 10) for seed in range(4)]
    for request, result in zip(requests, engine.generate(requests), strict=True):
        assert isinstance(result, GenerationResult), result
        assert result.output_ids.tolist() == greedy(model, request.input_ids, 10)[0]


def test_timings_are_ordered_and_include_the_pace(model: TorchModel) -> None:
    timings = one(TorchEngine(model, pace=Pace(5.0)), GenerationRequest(prompt_of(5), 3)).timings
    assert timings.arrival_ns <= timings.first_scheduled_ns
    assert timings.first_token_ns - timings.first_scheduled_ns >= 5e6
    assert timings.last_token_ns - timings.first_token_ns >= 10e6


def test_a_failed_pass_ends_its_requests_only(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(model)
    request = GenerationRequest(prompt_of(5), 3)
    with monkeypatch.context() as patch:
        patch.setattr(TorchModel, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        (failed,) = engine.generate([request])
    assert "out of memory" in str(failed)
    assert one(engine, request).output_ids.tolist() == greedy(model, request.input_ids, 3)[0]


@pytest.mark.parametrize(
    ("remaining", "budget", "expected"),
    [
        ([], 8, []),
        ([5], 8, [5]),
        ([50], 8, [8]),
        ([50, 2], 8, [6, 2]),
        ([50, 9, 3], 8, [2, 3, 3]),
        ([50, 2], 0, [0, 0]),
        ([9, 9], 1, [1, 0]),
    ],
)
def test_short_requests_first_and_a_quarter_for_the_oldest(
    remaining: list[int], budget: int, expected: list[int]
) -> None:
    assert share_rows(remaining, budget) == expected


@given(st.lists(st.integers(1, 100), max_size=8), st.integers(0, 64))
def test_rows_are_never_given_twice(remaining: list[int], budget: int) -> None:
    given_rows = share_rows(remaining, budget)
    assert sum(given_rows) == min(budget, sum(remaining))
    assert all(0 <= rows <= most for rows, most in zip(given_rows, remaining, strict=True))


def test_a_long_prompt_delays_the_others_by_parts_only(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(model, max_draft_len=2, max_num_tokens=16)
    rows: list[int] = []
    forward = TorchModel.forward

    def counting(self: TorchModel, segments: list) -> torch.Tensor:
        rows.append(sum(len(segment.tokens) for segment in segments))
        return forward(self, segments)

    monkeypatch.setattr(TorchModel, "forward", counting)
    short, long, verified = prompt_of(3), prompt_of(100, 1), prompt_of(4, 2)
    expected = [greedy(model, short, 12)[0], greedy(model, long, 3)[0], greedy(model, verified, 3)[0]]
    rows.clear()
    generating = engine.add(GenerationRequest(short, 12))
    engine.step()
    prefilling = engine.add(GenerationRequest(long, 3))
    engine.step()
    assert len(generating.output) == 2, "goes on beside the long prompt"
    verifying = engine.add(GenerationRequest(verified, 3, array(*expected[2][:2])))
    assert verifying in engine.step(), "does not wait for the long prompt"
    assert not prefilling.output
    while not engine.idle:
        engine.step()
    assert max(rows) <= 16
    assert [running.output for running in (generating, prefilling, verifying)] == expected


def test_a_step_takes_at_most_max_batch_size_requests(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(model, max_draft_len=2, max_batch_size=2)
    prompts = [prompt_of(4, number) for number in range(5)]
    expected = [greedy(model, prompt, 4)[0] for prompt in prompts]
    taken: list[int] = []
    forward = TorchModel.forward

    def counting(self: TorchModel, segments: list) -> torch.Tensor:
        taken.append(len(segments))
        return forward(self, segments)

    monkeypatch.setattr(TorchModel, "forward", counting)
    running = [engine.add(GenerationRequest(prompt, 4)) for prompt in prompts]
    cancelled = running.pop()
    assert engine.load.waiting == 5
    engine.step()
    assert (engine.load.active, engine.load.waiting) == (2, 3)
    engine.cancel(cancelled)
    while not engine.idle:
        engine.step()
    assert taken == [2] * 8, "the oldest two to their end, then the next"
    assert [each.output for each in running] == expected[:4]


@pytest.mark.parametrize("budget", [1, 2, 5, 300])
def test_parts_of_prompts_and_drafts_give_what_one_pass_gives(model: TorchModel, budget: int) -> None:
    engine = TorchEngine(model, max_draft_len=4, max_num_tokens=budget)
    prompts = [prompt_of(count, count) for count in (1, 2, 31, 60)]
    for prompt in prompts:
        expected = greedy(model, prompt, 5)[0]
        drafts = array(*expected[:2], (expected[2] + 1) % 61)
        assert one(engine, GenerationRequest(prompt, 4, drafts)).output_ids.tolist() == expected[:3]
    results = engine.generate([GenerationRequest(prompt, 5) for prompt in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        assert isinstance(result, GenerationResult)
        assert result.output_ids.tolist() == greedy(model, prompt, 5)[0]


def test_logits_of_prompt_and_output(model: TorchModel) -> None:
    prompt = prompt_of(40)
    engine = TorchEngine(model, max_num_tokens=16)
    one(engine, GenerationRequest(prompt, 1))
    result = one(engine, GenerationRequest(prompt, 3, return_context_logits=True, return_generation_logits=True))
    tokens = np.concatenate((prompt, result.output_ids))
    whole = model.forward([append_segment(KVBuffer(model.kv_shape, 128), 0, tokens, len(tokens))]).float().numpy()
    assert result.context_logits is not None
    assert result.generation_logits is not None
    np.testing.assert_allclose(result.context_logits, whole[:40], atol=1e-5)
    np.testing.assert_allclose(result.generation_logits, whole[39:42], atol=1e-5)


def test_what_is_out_so_far(model: TorchModel) -> None:
    engine = TorchEngine(model)
    running = engine.add(GenerationRequest(prompt_of(5), 4, return_log_probs=True, return_generation_logits=True))
    assert running.so_far() is None
    engine.step()
    engine.step()
    part = running.so_far()
    assert part is not None
    assert part.output_ids.tolist() == running.output[:2]
    rest = part.since(1)
    assert (len(rest.output_ids), len(rest.log_probs), len(rest.generation_logits)) == (1, 1, 1)
    assert rest.cum_log_prob == pytest.approx(part.cum_log_prob)


def test_load_counts_the_blocks_of_running_requests_only(model: TorchModel) -> None:
    engine = TorchEngine(model, kv_tokens=1024)
    assert (engine.load.active, engine.load.blocks_used, engine.load.blocks_max) == (0, 0, 32)
    engine.add(GenerationRequest(prompt_of(40), 3))
    assert (engine.load.active, engine.load.waiting, engine.load.blocks_used) == (0, 1, 0)
    engine.step()
    assert (engine.load.active, engine.load.waiting) == (1, 0)
    assert engine.load.blocks_used >= 2
    while not engine.idle:
        engine.step()
    assert (engine.load.active, engine.load.blocks_used) == (0, 0), "what is left for reuse is free"
