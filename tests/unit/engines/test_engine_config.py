from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from wanspec.engines.config import EngineConfig, build_engine
from wanspec.engines.contract import GenerationRequest, GenerationResult, generate
from wanspec.engines.pace import Pace
from wanspec.errors import ConfigError


def test_absent_empty_zero_and_unfilled_parameters_mean_the_default() -> None:
    config = EngineConfig.from_parameters(
        {"engine": "zero", "dtype": "", "max_seq_len": "0", "kv_tokens": "${kv_tokens}", "pace_ms": "0"}
    )
    assert config == EngineConfig(engine="zero")


def test_paces_are_scaled() -> None:
    config = EngineConfig.from_parameters(
        {"engine": "zero", "pace_ms": "23.4", "pace_per_token_ms": "0.5", "time_scale": "2"}
    )
    assert config.pace == Pace(46.8, 1.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"engine": "magic"}, "engine: 'magic' is unknown"),
        ({"engine": "torch"}, "model_dir: is not set"),
        ({"engine": "zero", "threads": "many"}, "threads: 'many' is not a number"),
        ({"engine": "zero", "threads": "0"}, "threads: is 0: must be at least 1"),
        ({"engine": "zero", "pace_ms": "-1"}, "pace_ms: is -1"),
        ({"engine": "zero", "pace_ms": "nan"}, "pace_ms: is nan"),
    ],
)
def test_impossible_parameters_are_named(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig.from_parameters(parameters)


@pytest.mark.parametrize("kind", ["zero", "torch"])
def test_engines_are_built(kind: str, tmp_path: Path, build_llama: Callable[..., LlamaForCausalLM]) -> None:
    build_llama(0).save_pretrained(tmp_path)
    parameters = {"engine": kind, "model_dir": str(tmp_path), "vocab_size": "61", "max_draft_len": "3"}
    engine = build_engine(EngineConfig.from_parameters(parameters))
    assert engine.vocab_size == 61
    drafts = np.zeros(3, dtype=np.int32)
    (result,) = generate(engine, [GenerationRequest(np.array([1, 2], dtype=np.int32), 4, drafts)])
    assert isinstance(result, GenerationResult)
    assert result.total_drafts == 3
