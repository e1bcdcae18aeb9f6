"""What a recipe may hold: one YAML file, typed. ``docs/build_engines.md`` describes each field."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from build_engines.gpus import GPUS, Gpu
from wanspec.config.schema import Section
from wanspec.errors import ConfigError

Family: TypeAlias = Literal["llama", "qwen"]
Quantization: TypeAlias = Literal["none", "fp8", "int8_sq", "int8_wo", "int4_awq", "w4a8_awq"]
Dtype: TypeAlias = Literal["bfloat16", "float16"]

FP8_FORMATS = ("fp8", "w4a8_awq")
AWQ_FORMATS = ("int4_awq", "w4a8_awq")
AWQ_BLOCK = 128
"""Weights that share a scale."""

MODEL_TYPES = {"llama": "llama", "qwen2": "qwen"}
"""``model_type`` of a Hugging Face config.json, to the family whose convert_checkpoint.py takes it."""


def _known(name: str) -> str:
    if name not in GPUS:
        raise ValueError(f"{name!r} is not one of {', '.join(GPUS)}")
    return name


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"{value} is not a power of 2")
    return value


Positive = Annotated[int, Field(ge=1)]


class Shape(Section):
    """A model's dimensions, as its config.json has them: for the estimate before anything is fetched."""

    num_hidden_layers: Positive = Field(description="Layers.")
    hidden_size: Positive = Field(description="Width.")
    num_attention_heads: Positive = Field(description="Query heads.")
    num_key_value_heads: Positive = Field(description="Key and value heads.")
    head_dim: Positive = Field(description="Width of a head.")
    intermediate_size: Positive = Field(description="Width inside the MLP.")
    vocab_size: Positive = Field(description="Columns of the logits, padding included.")
    max_position_embeddings: Positive = Field(description="Longest sequence, tokens.")
    tie_word_embeddings: bool = Field(default=False, description="Whether the output head is the embedding.")


class GpuSection(Section):
    """The GPUs that the engines are built on and for."""

    name: Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(GPUS)})] = Field(
        description="Kind of GPU."
    )
    count: int = Field(default=1, ge=1, le=8, description="How many of them.")

    @property
    def kind(self) -> Gpu:
        """Memory and architecture."""
        return GPUS[self.name]


class ModelSection(Section):
    """One model of the pair."""

    model: str = Field(min_length=1, description="Hugging Face folder, or hub id `org/name`.")
    family: Family = Field(description="Whose convert_checkpoint.py takes it.")
    dtype: Dtype = Field(default="bfloat16", description="Of what is not quantised.")
    quantization: Quantization = Field(default="none", description="Format of the weights.")
    kv_cache: Literal["auto", "fp8"] = Field(default="auto", description="Of the KV cache: as dtype, or fp8.")
    tensor_parallel: Literal[1, 2, 4, 8] = Field(default=1, description="GPUs that share the model.")
    max_batch_size: int = Field(default=16, ge=1, le=2048, description="Most requests in one step.")
    max_num_tokens: int | None = Field(
        default=None, ge=1, description="Rows of one step; null: a whole prefix and the drafts of all others."
    )
    tokens_per_block: Annotated[int, AfterValidator(_power_of_two)] = Field(
        default=32, ge=8, le=128, description="Tokens in a block of KV cache; a power of 2."
    )
    kv_sequences: int = Field(default=4, ge=1, description="Whole sequences that the KV cache must hold at least.")
    calibration_samples: int = Field(default=512, ge=1, description="Texts that quantisation is calibrated on.")
    calibration_dataset: str | None = Field(
        default=None, description="Folder or hub id of these texts; null: the tool's own default."
    )
    shape: Shape | None = Field(default=None, description="Dimensions; read from config.json once it is there.")

    @model_validator(mode="after")
    def _fits(self) -> ModelSection:
        # "FP8 Paged Context FMHA only works with fp8 quantization workflow": TensorRT-LLM, gptAttentionCommon.
        if self.kv_cache == "fp8" and self.quantization != "fp8":
            raise ConfigError("kv_cache", "fp8 goes with quantization: fp8 only (attention over reused KV needs both)")
        if self.shape is not None:
            self.check_shape(self.shape)
        return self

    def check_shape(self, shape: Shape) -> None:
        """Compare ``tensor_parallel`` and ``quantization`` with a model's dimensions.

        Raises:
            ConfigError: heads, the MLP or its quantised blocks cannot be shared out evenly.
        """
        heads, shared, parallel = shape.num_attention_heads, shape.num_key_value_heads, self.tensor_parallel
        if heads % parallel or (shared % parallel and parallel % shared):
            raise ConfigError("tensor_parallel", f"{parallel} does not divide {heads} and {shared} heads")
        unit = parallel * (AWQ_BLOCK if self.quantization in AWQ_FORMATS else 1)
        if shape.intermediate_size % unit:
            blocks = f" in whole blocks of {AWQ_BLOCK}" if self.quantization in AWQ_FORMATS else ""
            raise ConfigError(
                "tensor_parallel", f"{parallel} does not divide an MLP of {shape.intermediate_size}{blocks}"
            )


class Recipe(Section):
    """A pair of engines."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Of the pair.")
    description: str = Field(default="", description="For people.")
    gpu: GpuSection = Field(description="What they run on.")
    context: int = Field(ge=2, description="Longest sequence that is served, tokens, prompt included.")
    max_draft_len: int = Field(ge=1, le=256, description="Most drafts in one verification.")
    local_draft: bool = Field(
        default=True, description="Whether the draft also runs beside the target, on its first GPU."
    )
    chat_template: Literal["warn", "same"] = Field(
        default="warn", description="Whether the two chat templates may differ: only the target's is used."
    )
    target: ModelSection = Field(description="The target.")
    draft: ModelSection = Field(description="The draft.")

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        for role, model in (("target", self.target), ("draft", self.draft)):
            if model.tensor_parallel > self.gpu.count:
                raise ConfigError(
                    f"{role}.tensor_parallel", f"{model.tensor_parallel} GPUs are above gpu.count {self.gpu.count}"
                )
            if model.quantization in FP8_FORMATS and not self.gpu.kind.fp8:
                raise ConfigError(f"{role}.quantization", f"{self.gpu.name} has no FP8 (Ada, Hopper and later have)")
            least = self.input_length(role)
            if model.max_num_tokens is not None and model.max_num_tokens < least:
                raise ConfigError(
                    f"{role}.max_num_tokens", f"{model.max_num_tokens} does not hold one sequence of {least} tokens"
                )
            if model.shape is not None:
                self.check_length(role, model.shape)
        return self

    def section(self, role: str) -> ModelSection:
        """Of ``target`` or ``draft``."""
        return self.target if role == "target" else self.draft

    def input_length(self, role: str) -> int:
        """Longest input of the engine: every round's prompt is the whole prefix, and the target's drafts follow it."""
        return self.context + (self.max_draft_len if role == "target" else 0)

    def check_length(self, role: str, shape: Shape) -> None:
        """Compare the context with a model's limit.

        Raises:
            ConfigError: the model is shorter.
        """
        needed = self.input_length(role)
        if needed > shape.max_position_embeddings:
            drafts = f" and max_draft_len {self.max_draft_len}" if role == "target" else ""
            raise ConfigError(
                "context",
                f"{self.context}{drafts} are above the {role}'s {shape.max_position_embeddings} tokens "
                "(max_position_embeddings)",
            )
