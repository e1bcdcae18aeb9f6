"""A pair of TensorRT-LLM engines as ``wanspec build-engines`` describes it, for the repositories that serve it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wanspec.errors import ConfigError

MOST_KV = 0.95
"""Largest share of free memory for KV cache."""

_TOKENS_TOGETHER = 128
"""The largest block of KV cache; only whole blocks count."""

FILE = "engines.json"
"""Name of the description in the folder of the engines."""


class Engine(BaseModel):
    """One engine. Bytes are of one GPU.

    Attributes:
        engine_dir: where it lies, as the server sees it.
        model_dir: the Hugging Face folder it was built from: tokenizer and configuration.
        tensor_parallel: GPUs that share it.
        max_batch_size, max_input_len, max_seq_len, max_draft_len: as it was built.
        padded_vocab_size: columns of its logits.
        kv_tokens: tokens of KV cache that it may take: beside the other engine where both share a GPU.
        kv_bytes_per_token: of KV cache.
        loaded_bytes: estimate of all else that it holds: weights, activations, CUDA.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    engine_dir: str = Field(min_length=1)
    model_dir: str = Field(min_length=1)
    tensor_parallel: int = Field(ge=1)
    max_batch_size: int = Field(ge=1)
    max_input_len: int = Field(ge=1)
    max_seq_len: int = Field(ge=1)
    max_draft_len: int = Field(ge=0)
    padded_vocab_size: int = Field(ge=1)
    kv_tokens: int = Field(ge=1)
    kv_bytes_per_token: int = Field(ge=1)
    loaded_bytes: int = Field(ge=0)


class EnginePair(BaseModel):
    """Both engines, and the GPUs that they are for.

    Attributes:
        name: of the recipe.
        tensorrt_llm: version that they were built with; empty in a plan.
        gpu, gpu_memory: kind of GPU, and its memory in bytes.
        context: longest sequence that is served.
        local_draft: whether the draft runs beside the target, on its first GPU.
        target, draft: the engines.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    tensorrt_llm: str
    gpu: str
    gpu_memory: int = Field(ge=1)
    context: int = Field(ge=2)
    local_draft: bool
    target: Engine
    draft: Engine

    @classmethod
    def read(cls, path: Path) -> EnginePair:
        """Read a description: the file, its folder, or what ``wanspec build-engines --plan --json`` printed.

        Raises:
            ConfigError: there is none, or it is not one.
        """
        file = path / FILE if path.is_dir() else path
        try:
            content: Any = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                "engines", f"cannot read {file}: {error.strerror}; `wanspec build-engines` writes it"
            ) from error
        except ValueError as error:
            raise ConfigError("engines", f"{file} is not JSON: {error}") from error
        if isinstance(content, dict) and "engines" in content:
            content = content["engines"]
        try:
            return cls.model_validate(content)._moved(lambda path: str(file.parent.absolute() / path))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise ConfigError("engines", f"{file}: {field or 'the whole'}: {first['msg']}") from error

    def write(self, folder: Path) -> None:
        """Write it into the folder of the engines; paths in that folder are written relative to it."""
        text = self._moved(lambda path: _within(Path(path), folder)).model_dump_json(indent=2)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def kv_fractions(self) -> dict[str, float]:
        """Share of the memory free at its loading that each engine's KV cache takes, by role, in the order of loading.

        The draft loads first: it takes its little, and the target most of what is left. ``kv_tokens`` caps both, so
        that another order fits too.
        """
        shares, free = {}, self.gpu_memory
        for role in self.order():
            engine = self.target if role == "target" else self.draft
            free -= engine.loaded_bytes
            wanted = engine.kv_tokens * engine.kv_bytes_per_token
            # Rounded up to thousandths: the cap is exact, the share need only not be below it.
            if wanted > free:
                raise ConfigError("engines", f"the {role} does not fit into {self.gpu}; build for a larger one")
            shares[role] = min(MOST_KV, -(-wanted * 1000 // free) / 1000)
            free -= wanted
        return shares

    def apart(self) -> EnginePair:
        """The same with KV cache for engines that share no GPU: each has all that it leaves.

        Raises:
            ConfigError: an engine does not fit by itself.
        """
        return self.model_copy(update={"target": self._alone("target"), "draft": self._alone("draft")})

    def only(self, role: str) -> EnginePair:
        """The same, of a server that loads but one of the engines.

        Raises:
            ConfigError: an engine does not fit by itself.
        """
        alone = self._alone(role)
        return self.model_copy(update={"local_draft": False, "target": alone, "draft": alone})

    def _alone(self, role: str) -> Engine:
        engine = self.target if role == "target" else self.draft
        free = int(self.gpu_memory * MOST_KV) - engine.loaded_bytes
        tokens = free // engine.kv_bytes_per_token // _TOKENS_TOGETHER * _TOKENS_TOGETHER
        if tokens < 1:
            raise ConfigError("engines", f"the {role} does not fit into {self.gpu}; build for a larger one")
        return engine.model_copy(update={"kv_tokens": tokens})

    def _moved(self, change: Callable[[str], str]) -> EnginePair:
        changed = {
            role: each.model_copy(update={name: change(getattr(each, name)) for name in ("engine_dir", "model_dir")})
            for role, each in (("target", self.target), ("draft", self.draft))
        }
        return self.model_copy(update=changed)

    def engines(self) -> dict[str, Engine]:
        """The engines on the controller's server, by the names of their models, in the order of loading."""
        return {role: self.target if role == "target" else self.draft for role in self.order()}

    def order(self) -> tuple[str, ...]:
        """Roles of the engines on the controller's server, in the order of loading."""
        return ("draft", "target") if self.local_draft else ("target",)


def _within(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
