"""The worker's draft engine over TensorRT-LLM's executor, against a double of its bindings."""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.doubles.engines import DOUBLES, write_engine
from wanspec.core.drafting import SequenceLeaves
from wanspec.core.sampling import Sampling
from wanspec.engines.config import EngineConfig, build_engine
from wanspec.engines.drafting import build_draft_engine
from wanspec.engines.torch_model import TorchModel
from wanspec.engines.tree import TreeDraftEngine
from wanspec.engines.trtllm.bindings import device_ids, load_bindings
from wanspec.engines.trtllm.draft_engine import TrtLlmDraftEngine
from wanspec.errors import ConfigError, EngineError

VOCAB, CONTEXT, COLUMNS = 61, 128, 64
SAMPLED = Sampling(0.75, 0, 0.875, 7)
PREFIX = [5, 6, 7, 8, 9, 10, 11, 12]


@pytest.fixture(scope="module")
def bindings() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOUBLES))
    try:
        yield load_bindings()
    finally:
        sys.path.remove(str(DOUBLES))
        for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def engine_dir(build_llama: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trtllm")
    build_llama(1).save_pretrained(folder / "model")
    return write_engine(folder / "engine", folder / "model", COLUMNS, max_seq_len=CONTEXT, max_batch_size=16)


@pytest.fixture(params=["post_processor", "generation"])
def engine(request, bindings: ModuleType, engine_dir: Path) -> Iterator[TrtLlmDraftEngine]:
    yield from started(engine_dir, logits=request.param)


def started(folder: Path, **parameters: str) -> Iterator[TrtLlmDraftEngine]:
    given = {"engine": "tensorrt_llm", "engine_dir": str(folder), "device": "cuda", "vocab_size": str(VOCAB)}
    built = build_draft_engine(EngineConfig.from_parameters(given | parameters))
    assert isinstance(built, TrtLlmDraftEngine)
    yield built
    built.close()


def loop_of(engine: TrtLlmDraftEngine) -> Any:
    return engine._executor._loop


def leaves_of(key: object, prefix: list[int], *paths: tuple[int, ...], sampling: Sampling | None = None):
    return SequenceLeaves(key, prefix, len(prefix), paths, sampling)


@pytest.mark.parametrize("sampling", [None, SAMPLED])
def test_it_ranks_what_the_tree_engine_ranks(engine, model: TorchModel, sampling):
    batch = [
        leaves_of("a", PREFIX, (), (3,), (3, 4), (9,), sampling=sampling),
        leaves_of("b", [1, 2], (), sampling=None),
        leaves_of("c", list(range(50)), (60, 1, 2)),
    ]
    tree = TreeDraftEngine(model)
    for _ in range(2):
        found, expected = engine.expand(batch, 4), tree.expand(batch, 4)
        assert found.tokens.tolist() == expected.tokens.tolist()
        np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-4)
        np.testing.assert_allclose(found.entropies, expected.entropies, atol=1e-4)
        assert (found.margins is None) == (expected.margins is None) == (sampling is None)
        assert found.engine_ms > 0.0
    assert found.tokens.dtype == np.int32
    assert found.tokens.max() < VOCAB  # the logits' padding is larger than any token's, and no token


def test_greedy_drafting_is_greedy_decoding(engine, model: TorchModel):
    """A chain of first children, in passes of their own, with commits between."""
    prefix, tree = list(PREFIX), TreeDraftEngine(model)
    for step in range(12):
        path: tuple[int, ...] = ()
        for _ in range(3):
            found = engine.expand([leaves_of("s", prefix, path)], 2)
            expected = tree.expand([leaves_of("s", prefix, path)], 2)
            assert found.tokens[0].tolist() == expected.tokens[0].tolist()
            path += (int(found.tokens[0, 0]),)
        prefix += path[: 1 + step % 3]
    requests = loop_of(engine).requests
    assert {request.max_tokens for request in requests} == {1}
    assert loop_of(engine).config.kv_cache_config.enable_block_reuse


def test_what_leaves_the_gpu(bindings, engine_dir):
    """With the post-processor no request returns logits; without it all do, and the executor is told to keep them."""
    for logits, returned in (("post_processor", False), ("generation", True)):
        for engine in started(engine_dir, logits=logits):
            engine.expand([leaves_of("s", PREFIX, (), (3,))], 2)
            loop = loop_of(engine)
            assert [request.output_config.return_generation_logits for request in loop.requests] == [returned] * 2
            assert loop.config.gather_generation_logits == returned
            assert (loop.config.logits_post_processor_config is None) == returned


def test_a_leaf_that_a_commit_made_useless_is_cancelled(engine):
    loop, prefix = loop_of(engine), list(PREFIX)
    loop.stalled = True
    batch = [leaves_of("s", prefix, (), (3,), (3, 4), (9,)), leaves_of("t", [1, 2], (8,))]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(engine.expand(batch, 3)))
    thread.start()
    time.sleep(0.05)
    prefix.append(3)  # committed: (3,) is the root now, (9,) is pruned
    deadline = time.monotonic() + 10
    while not loop.cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loop.cancelled == [4]
    loop.stalled = False
    thread.join(10)
    assert found[0].tokens.shape == (5, 3)
    assert found[0].tokens[3].tolist() == [0, 1, 2]  # says nothing
    np.testing.assert_allclose(found[0].log_probs[3], -np.log(VOCAB), rtol=1e-5)
    # The answer to what was given up is no answer to the next pass.
    again = engine.expand([leaves_of("u", PREFIX, (3,))], 3)
    assert again.tokens[0].tolist() == found[0].tokens[1].tolist()


def test_a_part_of_a_prompt_is_computed_though_its_rest_is_there(engine):
    engine.expand([SequenceLeaves("s", PREFIX * 4, 16, ((),))], 1)
    assert [len(request.input_token_ids) for request in loop_of(engine).requests] == [16]
    assert loop_of(engine).cancelled == []


def test_a_pass_has_a_deadline(bindings, engine_dir):
    for engine in started(engine_dir, pass_timeout_ms="60"):
        loop_of(engine).stalled = True
        began = time.monotonic()
        with pytest.raises(EngineError, match="did not answer within 60 ms for 2 of 2 leaves"):
            engine.expand([leaves_of("s", PREFIX, (3,), (4,))], 2)
        assert time.monotonic() - began < 5
        assert loop_of(engine).cancelled == [1, 2]
        loop_of(engine).stalled = False
        assert engine.expand([leaves_of("s", PREFIX, (3,))], 2).tokens.shape == (1, 2)


def test_errors_of_the_executor(engine):
    with pytest.raises(EngineError, match=r"TensorRT-LLM: input_ids: token ids must be in \[0, 61\)"):
        engine.expand([leaves_of("s", [VOCAB + 1, 2], ())], 2)
    with pytest.raises(EngineError, match="prefix and leaf are 128 tokens, the draft takes 127"):
        engine.expand([leaves_of("s", [1] * 127, (1,))], 2)
    with pytest.raises(EngineError, match=r"executor failed: TypeError: .*input_token_ids"):
        engine.expand([leaves_of("s", [np.int32(3), 4], ())], 2)  # type: ignore[list-item]
    assert engine.expand([leaves_of("s", PREFIX, ())], 2).tokens.shape == (1, 2)
    engine._executor.shutdown()
    with pytest.raises(EngineError, match="takes no requests: it has ended"):
        engine.expand([leaves_of("s", PREFIX, ())], 2)


def test_a_post_processor_that_fails_is_an_error_and_not_the_end(bindings, engine_dir, monkeypatch):
    for engine in started(engine_dir):
        with monkeypatch.context() as patch:
            patch.setattr("wanspec.engines.trtllm.top_tokens.top_tokens", lambda *_: 1 / 0)
            with pytest.raises(EngineError, match="the logits could not be read: division by zero"):
                engine.expand([leaves_of("s", PREFIX, ())], 2)
        assert engine.expand([leaves_of("s", PREFIX, ())], 2).tokens.shape == (1, 2)


def test_a_post_processor_that_is_never_called_is_an_error(bindings, engine_dir, monkeypatch):
    monkeypatch.setattr("wanspec.engines.trtllm.top_tokens.TopTokens.__call__", lambda *_: None)
    engine = next(iter(started(engine_dir)))
    with pytest.raises(EngineError, match="answered 1 leaves whose logits never came"):
        engine.expand([leaves_of("s", PREFIX, ())], 2)


def test_settings_reach_the_executor(bindings, engine_dir):
    for engine in started(engine_dir, device="cuda:3", kv_tokens="640", kv_fraction="0.5", max_seq_len="100"):
        config = loop_of(engine).config
        assert config.parallel_config.device_ids == [3]
        assert (config.kv_cache_config.max_tokens, config.kv_cache_config.free_gpu_memory_fraction) == (640, 0.5)
        assert (engine.context, engine.vocab_size) == (100, VOCAB)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"engine_dir": ""}, "engine_dir: is not set"),
        ({"engine_dir": "/nowhere"}, "engine_dir: /nowhere is no folder of trtllm-build: config.json: No such file"),
        ({"device": "cpu"}, "device: 'cpu' is no GPU"),
        ({"kv_fraction": "1.5"}, "kv_fraction: is 1.5"),
        ({"logits": "none"}, "logits: 'none' is unknown: use one of post_processor, generation"),
    ],
)
def test_settings_that_cannot_work(bindings, engine_dir, changed, problem):
    with pytest.raises(ConfigError) as caught:
        for _ in started(engine_dir, **changed):
            pass
    assert problem in str(caught.value)


def test_an_engine_that_does_not_load(bindings, engine_dir, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"build_config": {"max_seq_len": 64}}))
    with pytest.raises(ConfigError, match=r"engine_dir: TensorRT-LLM cannot load .*File does not exist"):
        next(started(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"max_seq_len: .* does not tell it"):
        next(started(tmp_path))


def test_without_tensorrt_llm_one_error_says_what_to_install(engine_dir, monkeypatch):
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(DOUBLES)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"TensorRT-LLM is not installed here; .*26\.07-trtllm-python-py3"):
        next(started(engine_dir))


def test_another_version(bindings, monkeypatch):
    monkeypatch.setattr(sys.modules["tensorrt_llm"], "__version__", "1.3.0")
    with pytest.raises(ConfigError, match=r"TensorRT-LLM 1\.3\.0 is installed, .* is that of 1\.2\.1"):
        load_bindings()


def test_the_target_is_never_served_so():
    config = EngineConfig.from_parameters({"engine": "tensorrt_llm", "engine_dir": "/engines/draft"})
    with pytest.raises(ConfigError, match="tensorrt_llm drafts for a worker only"):
        build_engine(config)


def test_devices():
    assert (device_ids("cuda"), device_ids("cuda:0"), device_ids("cuda:12")) == (None, [0], [12])


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.Request([1], 1, None, None),
        lambda e: e.Request([1.0], 1),
        lambda e: e.Request((1,), 1),
        lambda e: e.Request([1], 1, max_new_tokens=3),
        lambda e: e.SamplingConfig(1, 1),
        lambda e: e.SamplingConfig(top_k=1.0),
        lambda e: e.OutputConfig(return_generation_logits=1),
        lambda e: e.KvCacheConfig(max_tokens=1.0),
        lambda e: e.KvCacheConfig(True, None, None, None, None, None, True, None, None, 0, True),
        lambda e: e.ExecutorConfig(1, free_gpu_memory_fraction=0.5),
    ],
)
def test_the_double_refuses_what_the_bindings_refuse(bindings, call):
    with pytest.raises(TypeError):
        call(bindings)
    with pytest.raises(RuntimeError):
        bindings.Request([], 1)


def test_logits_in_half_precision(bindings, engine_dir):
    """As an engine built with float16 logits returns them."""
    for engine in started(engine_dir, logits="generation"):
        collect = engine._top_tokens._collect
        halves = partial(lambda collect, numbers, rows: collect(numbers, [row.half() for row in rows]), collect)
        engine._top_tokens._collect = halves  # type: ignore[method-assign]
        for sampling in (None, SAMPLED):
            found = engine.expand([leaves_of("s", PREFIX, (), sampling=sampling)], 3)
            assert np.isfinite(found.log_probs).all()
    assert torch.finfo(torch.float16).max > 1e4
