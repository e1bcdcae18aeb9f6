"""The commands that make both engines of a recipe, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines import memory
from build_engines.flags import Tool, arguments
from build_engines.gpus import GIB
from build_engines.recipe import AWQ_BLOCK, AWQ_FORMATS, ModelSection, Recipe, Shape
from wanspec.errors import ConfigError
from wanspec.models.locate import is_hub_id
from wanspec.triton.engine_pair import Engine, EnginePair

ROLES = ("target", "draft")
BY_CONVERT = ("none", "int8_wo")
"""Formats that convert_checkpoint.py makes by itself; the others need calibration, by quantize.py."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are.

    Attributes:
        output: folder of the engines and of all that leads to them.
        examples: TensorRT-LLM's examples, as in its images.
        python: interpreter that has tensorrt_llm.
    """

    output: Path
    examples: Path = Path("/app/examples")
    python: str = "python3"

    def model(self, role: str, section: ModelSection) -> Path:
        """The Hugging Face folder: given, or where it is fetched to."""
        return self.output / role / "model" if is_hub_id(section.model) else Path(section.model).expanduser().absolute()

    def checkpoint(self, role: str) -> Path:
        """The converted checkpoint."""
        return self.output / role / "checkpoint"

    def engine(self, role: str) -> Path:
        """The engine."""
        return self.output / role / "engine"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        name: such as ``target.checkpoint``.
        title: for people.
        argv: the command; empty for a download, which is done in this process.
        source: what it reads.
        result: the folder that it makes.
        size: about how many bytes the result takes.
    """

    name: str
    title: str
    argv: tuple[str, ...]
    source: Path | str
    result: Path
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, what they lead to, and what the engines are estimated to need. ``roles``: of those built."""

    recipe: Recipe
    layout: Layout
    steps: tuple[Step, ...]
    engines: EnginePair
    estimates: Mapping[str, memory.Estimate]
    roles: tuple[str, ...]

    @property
    def gpus(self) -> int:
        """How many this machine needs: the draft alone, its own."""
        return self.recipe.gpu.count if "target" in self.roles else self.recipe.draft.tensor_parallel


def roles_of(recipe: Recipe, only: str | None) -> tuple[str, ...]:
    """The engines to build: ``only`` one, or those that the controller's server loads."""
    if only is not None:
        return (only,)
    return ROLES if recipe.local_draft else ("target",)


def make_plan(recipe: Recipe, layout: Layout, shapes: Mapping[str, Shape], roles: tuple[str, ...] = ROLES) -> Plan:
    """Plan a recipe.

    Args:
        recipe: what to build.
        layout: where.
        shapes: of both models.
        roles: of the engines to build; both are estimated, since they may share a GPU.

    Raises:
        ConfigError: the engines do not fit their GPUs, or a command would have a flag that the tool does not take.
    """
    estimates = {role: memory.estimate(recipe, role, shapes[role]) for role in ROLES}
    tokens = memory.share(recipe, estimates["target"], estimates["draft"])
    for role in roles:
        _check_calibration(recipe, role, shapes[role])
    # The draft is small, and the pair is checked by it; a target is not fetched for that alone.
    fetched = [role for role in ROLES if role in (*roles, "draft")]
    steps = [step for role in fetched for step in _fetch(recipe, layout, role, shapes[role])]
    steps += [step for role in roles for step in _steps(recipe, layout, role, shapes[role])]
    engines = {role: _engine(recipe, layout, role, shapes[role], estimates[role], tokens[role]) for role in ROLES}
    pair = EnginePair(
        name=recipe.name,
        tensorrt_llm="",
        gpu=recipe.gpu.name,
        gpu_memory=recipe.gpu.kind.memory,
        context=recipe.context,
        local_draft=recipe.local_draft,
        **engines,
    )
    return Plan(recipe, layout, tuple(steps), pair, estimates, roles)


def recipe_shapes(recipe: Recipe) -> dict[str, Shape]:
    """Shapes that the recipe states.

    Raises:
        ConfigError: it does not state one.
    """
    found = {}
    for role in ROLES:
        shape = recipe.section(role).shape
        if shape is None:
            raise ConfigError(f"{role}.shape", "is needed for an estimate before the model is fetched")
        found[role] = shape
    return found


def as_plain(plan: Plan) -> dict[str, Any]:
    """The plan for programs."""
    return {
        "recipe": plan.recipe.name,
        "steps": [
            {"name": step.name, "argv": list(step.argv), "source": str(step.source), "result": str(step.result)}
            for step in plan.steps
        ],
        "memory": {
            role: {
                "weights": each.weights,
                "activations": each.activations,
                "cuda": memory.CUDA_BYTES,
                "kv_bytes_per_token": each.kv_per_token,
                "kv_least": each.kv_least,
            }
            for role, each in plan.estimates.items()
        },
        "disk_bytes": sum(step.size for step in plan.steps),
        "engines": plan.engines.model_dump(),
        "tested_on_a_gpu": False,
    }


def _fetch(recipe: Recipe, layout: Layout, role: str, shape: Shape) -> list[Step]:
    section = recipe.section(role)
    if not is_hub_id(section.model):
        return []
    folder, size = layout.model(role, section), 2 * memory.parameters(shape)
    return [Step(f"{role}.model", f"fetch {section.model}", (), section.model, folder, size)]


def _steps(recipe: Recipe, layout: Layout, role: str, shape: Shape) -> list[Step]:
    section = recipe.section(role)
    model, checkpoint, engine = layout.model(role, section), layout.checkpoint(role), layout.engine(role)
    size = memory.checkpoint_bytes(shape, section.quantization, section.tensor_parallel)
    convert = _convert(section, model, checkpoint, layout)
    title = "convert" if section.quantization == "none" else f"quantise to {section.quantization}"
    build = _build(recipe, role, checkpoint, engine, layout.output / "timing.cache")
    return [
        Step(f"{role}.checkpoint", title, convert, model, checkpoint, size),
        Step(f"{role}.engine", "build", build, checkpoint, engine, size),
    ]


def _convert(section: ModelSection, model: Path, checkpoint: Path, layout: Layout) -> tuple[str, ...]:
    common: dict[str, str | int | bool] = {
        "model_dir": str(model),
        "output_dir": str(checkpoint),
        "dtype": section.dtype,
        "tp_size": section.tensor_parallel,
    }
    if section.quantization in BY_CONVERT:
        script = layout.examples / "models" / "core" / section.family / "convert_checkpoint.py"
        if section.quantization == "int8_wo":
            common |= {"use_weight_only": True, "weight_only_precision": "int8"}
        return arguments(Tool(section.family, (layout.python, str(script))), common)
    common |= {"qformat": section.quantization, "calib_size": section.calibration_samples}
    if section.calibration_dataset is not None:
        common["calib_dataset"] = section.calibration_dataset
    if section.quantization in AWQ_FORMATS:
        common["awq_block_size"] = AWQ_BLOCK
    if section.kv_cache == "fp8":
        common["kv_cache_dtype"] = "fp8"
    script = layout.examples / "quantization" / "quantize.py"
    return arguments(Tool("quantize", (layout.python, str(script))), common)


def _build(recipe: Recipe, role: str, checkpoint: Path, engine: Path, timings: Path) -> tuple[str, ...]:
    section = recipe.section(role)
    # Every round of a verification is a new request whose prompt is the whole prefix, and TensorRT-LLM cuts drafts
    # that do not fit behind it.
    longest = recipe.input_length(role)
    flags: dict[str, str | int | bool] = {
        "checkpoint_dir": str(checkpoint),
        "output_dir": str(engine),
        "max_batch_size": section.max_batch_size,
        "max_beam_width": 1,
        "max_input_len": longest,
        "max_seq_len": longest,
        "max_num_tokens": memory.max_num_tokens(recipe, role),
        "kv_cache_type": "paged",
        "tokens_per_block": section.tokens_per_block,
        "remove_input_padding": "enable",
        # Needed for KV cache that is reused from the round before.
        "use_paged_context_fmha": "enable",
        "use_fp8_context_fmha": "enable" if section.kv_cache == "fp8" else "disable",
        "gemm_plugin": "disable" if section.quantization == "fp8" else "auto",
        # The model's configuration says FP32, and the backend compares.
        "logits_dtype": "float32",
        "workers": section.tensor_parallel,
        "input_timing_cache": str(timings),
        "output_timing_cache": str(timings),
        "log_level": "info",
    }
    if role == "target":
        flags |= {"speculative_decoding_mode": "draft_tokens_external", "max_draft_len": recipe.max_draft_len}
    return arguments(Tool("trtllm-build", ("trtllm-build",)), flags)


def _check_calibration(recipe: Recipe, role: str, shape: Shape) -> None:
    """quantize.py holds the whole 16-bit model on the GPUs."""
    section, gpu = recipe.section(role), recipe.gpu.kind
    whole = 2 * memory.parameters(shape)
    there = int(gpu.memory * memory.USABLE) * recipe.gpu.count
    if section.quantization not in BY_CONVERT and whole > there:
        raise ConfigError(
            f"{role}.quantization",
            f"{section.quantization} is calibrated with the 16-bit model on the GPUs: {whole / GIB:.0f} GiB, "
            f"and {recipe.gpu.count} {gpu.name} have {there / GIB:.0f}",
        )


def _engine(recipe: Recipe, layout: Layout, role: str, shape: Shape, estimate: memory.Estimate, tokens: int) -> Engine:
    section = recipe.section(role)
    return Engine(
        engine_dir=str(layout.engine(role)),
        model_dir=str(layout.model(role, section)),
        tensor_parallel=section.tensor_parallel,
        max_batch_size=section.max_batch_size,
        max_input_len=recipe.input_length(role),
        max_seq_len=recipe.input_length(role),
        max_draft_len=recipe.max_draft_len if role == "target" else 0,
        padded_vocab_size=memory.padded_vocab(shape, section.tensor_parallel),
        kv_tokens=tokens,
        kv_bytes_per_token=estimate.kv_per_token,
        loaded_bytes=estimate.loaded,
    )
