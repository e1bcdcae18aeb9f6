"""How `wanspec render` has a worker draft."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from wanspec.cli.devices import device_number
from wanspec.errors import ConfigError
from wanspec.triton.worker_draft import WorkerDraft

if TYPE_CHECKING:
    from wanspec.triton.engine_pair import EnginePair
    from wanspec.triton.regions import RegionSettings

DRAFT_ENGINES = {"pytorch": "", "tensorrt-llm": "tensorrt_llm", "chain": "triton"}
"""As it is typed, and as the worker's configuration has it."""
MOST_KV_CONTEXTS = 32
"""As PyTorch's draft engine has by default."""


def check_region(options: dict[str, Any]) -> None:
    """Refuse options of the other region, or of another profile.

    Raises:
        click.UsageError: says which goes with what.
        ConfigError: a device that cannot be.
    """
    worker, fast = options["region"] == "worker", options["profile"] == "tensorrt-llm"
    for name, value, right in (
        ("--draft-engine", options["draft_engine"], worker),
        ("--worker-url", options["worker_urls"], not worker),
        ("--sampling", options["sampling"], not worker),
    ):
        if value and not right:
            raise click.UsageError(f"{name} goes with --region {'controller' if worker else 'worker'}")
    if options["draft_engine"] == "tensorrt-llm" and not fast:
        raise click.UsageError("--draft-engine tensorrt-llm goes with --profile tensorrt-llm")
    if options["sampling"] == "coupled" and fast:
        raise click.UsageError("--sampling coupled goes with --profile cpu: TensorRT-LLM draws with noise of its own")
    if options["device"] is not None and device_number("device", options["device"]) is None and fast and worker:
        raise ConfigError("device", "the worker of --profile tensorrt-llm drafts on a GPU; use cuda or cuda:N")


def worker_settings(settings: RegionSettings, draft_engine: str | None, pair: EnginePair | None) -> RegionSettings:
    """How the worker drafts: as chosen, within what its GPU holds where ``pair`` tells.

    Raises:
        ConfigError: the draft's engine is not one for the worker's own process.
    """
    chosen = DRAFT_ENGINES[draft_engine or "pytorch"]
    if pair is None:
        return replace(settings, worker_draft=WorkerDraft(chosen))
    alone = pair.only("draft").draft
    how = WorkerDraft(chosen, max_seq_len=pair.context)
    if chosen != "tensorrt_llm":
        # PyTorch's buffers double as they grow, and the one that is left is there until the new one is filled.
        tokens = min(MOST_KV_CONTEXTS * pair.context, alone.kv_tokens // 2)
        return replace(settings, worker=replace(settings.worker, kv_tokens=tokens), worker_draft=how)
    if alone.tensor_parallel != 1:
        raise ConfigError(
            "draft_engine",
            f"the draft's engine is of {alone.tensor_parallel} GPUs (tensor_parallel), and a worker's own process has "
            "one: build it for one, or use chain",
        )
    return replace(
        settings,
        worker=replace(settings.worker, kv_tokens=alone.kv_tokens),
        worker_draft=replace(how, engine_dir=alone.engine_dir),
        # A pass of more requests than the engine batches is several steps.
        max_leaves=min(settings.max_leaves, alone.max_batch_size),
    )
