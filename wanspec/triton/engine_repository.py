"""The controller's repository with TensorRT-LLM's engines in the place of ours: profile ``tensorrt-llm``.

All models but ``target`` and ``draft`` are those of :mod:`wanspec.triton.regions`, and so are the tensors of these two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wanspec.errors import ConfigError
from wanspec.triton.engine_pair import Engine, EnginePair
from wanspec.triton.regions import RegionSettings, controller_repository, worker_repository
from wanspec.triton.repository import CONFIG, ModelRepository, Value, region_folder
from wanspec.triton.worker_draft import CHAIN_MODEL

CANCELLATION_CHECK_PERIOD_MS = 10
STATS_CHECK_PERIOD_MS = 100
SAMPLING = ("tensorrt_llm", "logits")
"""How such a target can verify drafts above temperature 0; the first by default."""
_SECTION = re.compile(r"^(?:input|output) \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)
_RAGGED = "allow_ragged_batch: true "
# NVIDIA's configuration has ragged batches for tensors of varying length only, and for these of mRoPE not.
_NEVER_RAGGED = re.compile(r'reshape:|name: "mrope_')


@dataclass(frozen=True, slots=True)
class Placement:
    """Which GPUs the engines use. ``draft``: the target's first where empty."""

    target: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()

    def of(self, role: str, engine: Engine) -> tuple[int, ...]:
        """GPUs of an engine.

        Raises:
            ConfigError: as many GPUs as ranks are needed.
        """
        first = (self.target or tuple(range(engine.tensor_parallel)))[: engine.tensor_parallel]
        chosen = self.target or first if role == "target" else self.draft or first
        if len(chosen) != engine.tensor_parallel or len(set(chosen)) != len(chosen):
            given = ",".join(map(str, chosen))
            raise ConfigError(
                f"{role}_gpus", f"{given} must be {engine.tensor_parallel} different GPUs (tensor_parallel)"
            )
        return chosen


def engine_repository(
    settings: RegionSettings, pair: EnginePair, worker_urls: str, placement: Placement
) -> ModelRepository:
    """Repository of the scarce region.

    Args:
        settings: models' folders and policy; what the engines were built with goes before it.
        pair: the engines.
        worker_urls: ``host:port`` of the workers' gRPC, separated by commas; empty for none.
        placement: of the engines.

    Raises:
        ConfigError: a setting cannot work, or the engines do not fit their GPUs.
    """
    pair = placed(pair, placement)
    settings = replace(
        settings,
        local_draft_model=pair.local_draft,
        max_draft_len=pair.target.max_draft_len,
        context=pair.context,
        max_sequences=min(settings.max_sequences, pair.target.max_batch_size),
        max_reserved_tokens=settings.max_reserved_tokens or pair.target.kv_tokens,
        sampling=settings.sampling if settings.sampling in SAMPLING else SAMPLING[0],
        padded_vocab_size=pair.target.padded_vocab_size,
        compat=False,
        decoupled=False,
    )
    base = controller_repository(settings, worker_urls)
    shares = _shares(pair, placement)
    return _with(base, {role: _values(pair, role, shares[role], placement) for role in pair.order()})


def worker_engine_repository(settings: RegionSettings, pair: EnginePair, placement: Placement) -> ModelRepository:
    """Repository of the idle region, whose chain comes from the draft's engine beside the worker.

    Args:
        settings: models' folders; how the worker drafts.
        pair: the engines.
        placement: of the draft.

    Raises:
        ConfigError: a setting cannot work, or the engine does not fit its GPU.
    """
    alone = pair.only("draft")
    values = _values(alone, "draft", alone.kv_fractions()["target"], placement)
    return _with(worker_repository(settings), {CHAIN_MODEL: values})


def placed(pair: EnginePair, placement: Placement) -> EnginePair:
    """The pair with the KV cache that its engines have on these GPUs: all of it where they share none.

    Raises:
        ConfigError: an engine does not fit, or there are more or fewer GPUs than its ranks.
    """
    together = set(placement.of("target", pair.target)) & set(placement.of("draft", pair.draft))
    return pair.apart() if pair.local_draft and not together else pair


def _with(base: ModelRepository, engines: Mapping[str, Mapping[str, Value]]) -> ModelRepository:
    template = region_folder("tensorrt_llm") / "engine"
    tensors = contract_tensors(region_folder("controller") / "target" / CONFIG)
    return replace(
        base,
        values={**base.values, **engines},
        templates={**base.templates, **dict.fromkeys(engines, template)},
        appended=dict.fromkeys(engines, tensors),
    )


def contract_tensors(template: Path) -> str:
    """Inputs and outputs of the contract, as text, from the configuration of an engine of ours.

    Raises:
        ConfigError: it does not have both.
    """
    sections = _SECTION.findall(template.read_text(encoding="utf-8"))
    if len(sections) != 2:
        raise ConfigError(str(template), f"has {len(sections)} lists of tensors, not one of inputs and one of outputs")
    return "".join(_unragged(line) for section in sections for line in section.splitlines(keepends=True))


def gpus_of(pair: EnginePair, placement: Placement) -> tuple[int, ...]:
    """Every GPU that the controller's engines use, in order."""
    used = {gpu for role in pair.order() for gpu in placement.of(role, _engine(pair, role))}
    return tuple(sorted(used))


def _shares(pair: EnginePair, placement: Placement) -> Mapping[str, float]:
    target, draft = set(placement.of("target", pair.target)), set(placement.of("draft", pair.draft))
    if pair.local_draft and not target & draft:
        return {role: pair.only(role).kv_fractions()["target"] for role in pair.order()}
    return pair.kv_fractions()


def _values(pair: EnginePair, role: str, share: float, placement: Placement) -> dict[str, Value]:
    engine = _engine(pair, role)
    return {
        "max_batch_size": engine.max_batch_size,
        "decoupled": False,
        "max_queue_size": 0,
        "engine_dir": engine.engine_dir,
        "gpu_device_ids": _listed(placement.of(role, engine)),
        "kv_cache_free_gpu_mem_fraction": share,
        "max_tokens_in_paged_kv_cache": engine.kv_tokens,
        "cancellation_check_period_ms": CANCELLATION_CHECK_PERIOD_MS,
        "stats_check_period_ms": STATS_CHECK_PERIOD_MS,
    }


def _engine(pair: EnginePair, role: str) -> Engine:
    return pair.target if role == "target" else pair.draft


def _listed(gpus: Sequence[int]) -> str:
    return ",".join(map(str, gpus))


def _unragged(line: str) -> str:
    return line.replace(_RAGGED, "") if _NEVER_RAGGED.search(line) else line
