"""Build an engine from the string parameters of a Triton model configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from wanspec.engines.contract import GenerationEngine
from wanspec.engines.pace import Pace
from wanspec.errors import ConfigError

ENGINES = ("torch", "zero")
"""Of target and local draft."""
DRAFT_ENGINES = (*ENGINES, "tensorrt_llm", "triton")
"""Of a worker."""
LOGITS = ("post_processor", "generation")
Dtype: TypeAlias = Literal["float32", "float64", "bfloat16", "float16"]
Weights: TypeAlias = Literal["same", "int8"]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of an engine of the contract; each is a parameter of the same name. Lengths are in tokens.

    Attributes:
        engine: torch, or zero (no model: for benchmarks and tests); of a worker also tensorrt_llm (an engine of
            TensorRT-LLM in its own process) or triton (a model of its server, by the contract).
        model_dir: a Hugging Face folder; not for zero.
        dtype: float32, float64, bfloat16 or float16.
        weights: ``same``: of ``dtype``; ``int8``: the linear layers' are int8, all else is of ``dtype``.
        device: as PyTorch names them.
        threads: of PyTorch.
        pace_ms: least duration of a step; 0 for none.
        pace_per_token_ms: added to it for each new token of the step.
        time_scale: stretches paces.
        max_draft_len: drafts of one request.
        max_input_len: prompt and drafts; the context if None.
        max_seq_len: caps the context; the model's own if None.
        kv_tokens: budget of KV cache; if None 4 GiB of them, four contexts at least (worker: 32 contexts).
        max_num_tokens: rows of one step of the contract's engine; the engine's own default if None.
        max_batch_size: most requests in one step of the contract's engine; 0 for no limit.
        vocab_size: of zero.
        agreement: of zero: how often it agrees with the zero target; 1 makes it the target.
        shared_gpu: folder that stands for the GPU which engines of several processes share; its own GPU if empty.
        engine_dir: of tensorrt_llm: folder of ``trtllm-build``.
        kv_fraction: of tensorrt_llm: share of free GPU memory for KV cache; its own default if None.
        logits: of tensorrt_llm: ``post_processor`` or ``generation``, see ``docs/worker_engines.md``.
        draft_model: of triton: name of the model.
        chain_tokens: of triton: tokens of one request to it.
        decoupled: of triton: whether the model is deployed so.
        pass_timeout_ms: of tensorrt_llm and triton: longest wait for a pass.
    """

    engine: str = "torch"
    model_dir: str = ""
    dtype: str = "float32"
    weights: str = "same"
    device: str = "cpu"
    threads: int = 1
    pace_ms: float = 0.0
    pace_per_token_ms: float = 0.0
    time_scale: float = 1.0
    max_draft_len: int = 0
    max_input_len: int | None = None
    max_seq_len: int | None = None
    kv_tokens: int | None = None
    max_num_tokens: int | None = None
    max_batch_size: int = 0
    vocab_size: int = 4096
    agreement: float = 1.0
    shared_gpu: str = ""
    engine_dir: str = ""
    kv_fraction: float | None = None
    logits: str = LOGITS[0]
    draft_model: str = "draft"
    chain_tokens: int = 8
    decoupled: bool = False
    pass_timeout_ms: float = 20_000.0

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> EngineConfig:
        """Read parameters; absent, empty and unfilled (``${...}``) ones mean the default.

        Raises:
            ConfigError: a value that is no number, or out of range.
        """
        given = {name: text for name, text in parameters.items() if text and not text.startswith("${")}
        config = cls(
            engine=given.get("engine", "torch"),
            model_dir=given.get("model_dir", ""),
            dtype=given.get("dtype", "float32"),
            weights=given.get("weights", "same"),
            device=given.get("device", "cpu"),
            threads=_number(given, "threads", int, 1, least=1),
            pace_ms=_number(given, "pace_ms", float, 0.0, least=0.0),
            pace_per_token_ms=_number(given, "pace_per_token_ms", float, 0.0, least=0.0),
            time_scale=_number(given, "time_scale", float, 1.0, least=0.0),
            max_draft_len=_number(given, "max_draft_len", int, 0, least=0),
            # 0 is a template's way to say: not set.
            max_input_len=_number(given, "max_input_len", int, 0, least=0) or None,
            max_seq_len=_number(given, "max_seq_len", int, 0, least=0) or None,
            kv_tokens=_number(given, "kv_tokens", int, 0, least=0) or None,
            max_num_tokens=_number(given, "max_num_tokens", int, 0, least=0) or None,
            max_batch_size=_number(given, "max_batch_size", int, 0, least=0),
            vocab_size=_number(given, "vocab_size", int, 4096, least=2),
            agreement=_number(given, "agreement", float, 1.0, least=0.0),
            shared_gpu=given.get("shared_gpu", ""),
            engine_dir=given.get("engine_dir", ""),
            kv_fraction=_number(given, "kv_fraction", float, 0.0, least=0.0) or None,
            logits=given.get("logits", LOGITS[0]),
            draft_model=given.get("draft_model", "draft"),
            chain_tokens=_number(given, "chain_tokens", int, 8, least=1),
            decoupled=given.get("decoupled", "false") == "true",
            pass_timeout_ms=_number(given, "pass_timeout_ms", float, 20_000.0, least=1.0),
        )
        for name, value, known in (("engine", config.engine, DRAFT_ENGINES), ("logits", config.logits, LOGITS)):
            if value not in known:
                raise ConfigError(name, f"{value!r} is unknown: use one of {', '.join(known)}")
        if config.kv_fraction is not None and config.kv_fraction >= 1.0:
            raise ConfigError("kv_fraction", f"is {config.kv_fraction:g}: must be below 1")
        if config.engine == "torch" and not config.model_dir:
            raise ConfigError("model_dir", "is not set: give the folder of a Hugging Face causal LM")
        return config

    @property
    def pace(self) -> Pace:
        """Pace of a step, scaled."""
        return Pace.scaled(self.pace_ms, self.time_scale, self.pace_per_token_ms)


def build_engine(config: EngineConfig) -> GenerationEngine:
    """Load what ``config`` describes.

    Raises:
        ConfigError: a setting cannot work.
        ModelError: the model cannot be used.
    """
    if config.engine not in ENGINES:
        raise ConfigError("engine", f"{config.engine} drafts for a worker only; use one of {', '.join(ENGINES)}")
    if config.engine == "zero":
        from wanspec.engines.zero import ZeroEngine, ZeroModel

        return ZeroEngine(
            ZeroModel(config.vocab_size, config.agreement),
            max_draft_len=config.max_draft_len,
            max_input_len=config.max_input_len,
            max_seq_len=config.max_seq_len,
            max_batch_size=config.max_batch_size,
            pace=config.pace,
        )
    from wanspec.engines.generation import DEFAULT_MAX_NUM_TOKENS, TorchEngine
    from wanspec.engines.torch_model import TorchModel

    model = TorchModel.load(
        config.model_dir,
        dtype=config.dtype,
        device=config.device,
        threads=config.threads,
        max_seq_len=config.max_seq_len,
        weights=config.weights,
    )
    return TorchEngine(
        model,
        max_draft_len=config.max_draft_len,
        max_input_len=config.max_input_len,
        kv_tokens=config.kv_tokens,
        max_num_tokens=config.max_num_tokens or DEFAULT_MAX_NUM_TOKENS,
        max_batch_size=config.max_batch_size,
        pace=config.pace,
    )


def _number(
    given: Mapping[str, str], name: str, kind: Callable[[str], Number], default: Number, least: Number
) -> Number:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(name, f"{text!r} is not a number") from None
    if not value >= least:
        raise ConfigError(name, f"is {text}: must be at least {least}")
    return value
