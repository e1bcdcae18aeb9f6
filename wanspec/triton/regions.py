"""The two regions' model repositories: which models each serves, and the values of their configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanspec.core.config import DEFAULT_POLICY
from wanspec.engines.config import EngineConfig
from wanspec.engines.stored_costs import ROLES, any_stored, describe_engine, find_costs
from wanspec.errors import ConfigError
from wanspec.models.folders import read_json
from wanspec.network.tls import tls_in
from wanspec.telemetry.settings import TraceSettings
from wanspec.triton import compatibility
from wanspec.triton.repository import ModelRepository, Value, region_folder
from wanspec.triton.traces import trace_parameters
from wanspec.triton.worker_draft import CHAIN_MODEL, WorkerDraft

MAX_BATCH_SIZE = 64
DEFAULT_STREAMS, MOST_STREAMS = 1, 16
DEFAULT_LEAVES = 64
WORKER_TLS = ("worker_tls_ca", "worker_tls_cert", "worker_tls_key")
"""Parameters of the model ``wanspec``: PEM files for the links to workers, all empty for plaintext."""
_CALLERS = ("wanspec", compatibility.ENSEMBLE)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How one engine runs. ``docs/models.md`` and ``wanspec.engines.config`` describe each.

    Attributes:
        engine: ``torch``, or ``zero`` (no model; for measuring everything else).
        dtype, device, threads: of PyTorch.
        weights: ``same`` as ``dtype``, or ``int8``.
        pace_ms: least duration of a step, 0 for none.
        agreement: of ``zero``: how often it agrees with the zero target.
        kv_tokens: budget of KV cache, 0 for the engine's default (``wanspec.engines.config``).
        max_batch_size: most requests of one step, 0 for no limit; not of a worker.
    """

    engine: str = "torch"
    dtype: str = "float32"
    weights: str = "same"
    device: str = "cpu"
    threads: int = 1
    pace_ms: float = 0.0
    agreement: float = 1.0
    kv_tokens: int = 0
    max_batch_size: int = 0


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """What both regions serve.

    Attributes:
        target_dir, draft_dir: Hugging Face folders with one tokenizer.
        target, local_draft, worker: how the engines run.
        local_draft_model: whether the controller's region has a draft model of its own.
        time_scale: stretches all paces.
        policy, policy_parameters: what applies to a request that names none.
        max_draft_len: most drafts in one verification.
        context: longest sequence in tokens; the target's own limit where None.
        engine_timeout_ms: longest that an engine call may take.
        max_sequences: most requests that decode at once; others wait for their turn.
        max_reserved_tokens: most tokens that they may come to hold together, each its prompt and ``max_tokens``; the
            target's ``kv_tokens`` where None, and no limit where that is not given either.
        max_queue: most requests that wait; more are refused as busy.
        deadline_ms: longest time for a request that does not limit itself.
        max_deadline_ms: longest time for any request.
        sampling: how drafts are verified above temperature 0: ``coupled``, ``tensorrt_llm`` or, an experiment,
            ``logits`` (``docs/sampling.md``).
        padded_vocab_size: columns of the target's logits, 0 where there is no padding.
        auth_token_file: holds the token that the controller shows to the worker; empty for none.
        event_log: file that receives the controller's event log; empty for none.
        compat: name the engines' models as NVIDIA's clients do, and serve the other models that these call.
        decoupled: the engines' models may answer in pieces, and then take streams only.
        worker_tls: folder with ``wanspec.network.tls.CLIENT_FILES`` for mutual TLS with the worker; empty: plaintext.
        streams: TCP connections between controller and worker; a sequence stays on one.
        max_leaves: most leaves in one pass of the worker, of all sequences.
        shared_gpu: folder that stands for one GPU of target and local draft; empty: each has its own.
        traces: what is traced, and where that goes.
        costs: files of measured costs by role (``target``, ``draft``, ``worker``); :func:`with_stored_costs` fills it.
        worker_draft: how the worker drafts, other than by the engine that ``worker`` describes.
    """

    target_dir: Path
    draft_dir: Path
    target: EngineSettings = EngineSettings()
    local_draft: EngineSettings = EngineSettings()
    worker: EngineSettings = EngineSettings()
    local_draft_model: bool = True
    time_scale: float = 1.0
    policy: str = DEFAULT_POLICY
    policy_parameters: Mapping[str, float | int | str] = field(default_factory=dict)
    max_draft_len: int = 32
    context: int | None = None
    engine_timeout_ms: float = 60_000.0
    max_sequences: int = 64
    max_reserved_tokens: int | None = None
    max_queue: int = 256
    deadline_ms: float = 600_000.0
    max_deadline_ms: float = 3_600_000.0
    sampling: str = "coupled"
    padded_vocab_size: int = 0
    auth_token_file: str = ""
    event_log: str = ""
    compat: bool = False
    decoupled: bool = False
    worker_tls: str = ""
    streams: int = DEFAULT_STREAMS
    max_leaves: int = DEFAULT_LEAVES
    shared_gpu: str = ""
    traces: TraceSettings = field(default_factory=TraceSettings)
    costs: Mapping[str, str] = field(default_factory=dict)
    worker_draft: WorkerDraft = field(default_factory=WorkerDraft)


def controller_repository(settings: RegionSettings, worker_urls: str) -> ModelRepository:
    """Repository of the scarce region.

    Args:
        settings: what to serve.
        worker_urls: ``host:port`` of the workers' gRPC, separated by commas; empty for none.

    Raises:
        ConfigError: the target's configuration gives no context length, or the one asked for is above it.
    """
    context = _context(settings)
    target, draft = (compatibility.TARGET, compatibility.DRAFT) if settings.compat else ("target", "draft")
    values: dict[str, dict[str, Value]] = {
        target: _engine(settings, settings.target, settings.target_dir, settings.max_draft_len)
        | {"max_input_len": context, "max_seq_len": context}
    }
    if settings.local_draft_model:
        values[draft] = _draft_engine(settings, settings.local_draft)
    chat = (settings.target_dir / "chat_template.jinja").is_file() or "chat_template" in read_json(
        settings.target_dir / "tokenizer_config.json"
    )
    values["wanspec"] = {
        "target_dir": str(settings.target_dir),
        "draft_dir": str(settings.draft_dir) if settings.local_draft_model else "",
        "target_model": target,
        "draft_model": draft if settings.local_draft_model else "",
        "engines_decoupled": settings.decoupled,
        "worker_urls": worker_urls,
        "worker_streams": settings.streams,
        **_worker_tls(settings),
        "auth_token_file": settings.auth_token_file,
        "context": context,
        "max_sequences": settings.max_sequences,
        "max_reserved_tokens": settings.max_reserved_tokens or settings.target.kv_tokens,
        "max_queue": settings.max_queue,
        "deadline_ms": settings.deadline_ms,
        "max_deadline_ms": settings.max_deadline_ms,
        "max_draft_len": settings.max_draft_len,
        "policy": settings.policy,
        "policy_parameters": json.dumps(dict(settings.policy_parameters)),
        "engine_timeout_ms": settings.engine_timeout_ms,
        "sampling": settings.sampling,
        "padded_vocab_size": settings.padded_vocab_size,
        "engine_threads": settings.max_sequences,
        "event_log": settings.event_log,
        "verify_costs_file": settings.costs.get("target", ""),
        "draft_costs_file": settings.costs.get("draft", ""),
        "chat_template": "yes" if chat else "no",
        **trace_parameters(settings.traces),
    }
    if settings.compat:
        vocabulary = values[target]["vocab_size"]
        values |= compatibility.text_models(settings.target_dir, vocabulary, MAX_BATCH_SIZE)
    return ModelRepository(region_folder("controller"), values, compatibility.templates(values))


def controller_stages(settings: RegionSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Order of loading in the controller's server: models that call others come second.

    Raises:
        ConfigError: as :func:`controller_repository`.
    """
    models = controller_repository(settings, "").values
    return tuple(name for name in models if name not in _CALLERS), tuple(name for name in models if name in _CALLERS)


def worker_repository(settings: RegionSettings) -> ModelRepository:
    """Repository of the idle region."""
    shared = _shared(settings, settings.worker, settings.draft_dir)
    own: dict[str, Value] = {
        "max_sequences": 256,
        "max_leaves": settings.max_leaves,
        "auth_token_file": settings.auth_token_file,
        "costs_file": settings.costs.get("worker", ""),
        "trace_url": settings.traces.url,
    }
    draft = settings.worker_draft
    values = {"wanspec_worker": shared | draft.values(settings.decoupled) | own}
    templates: dict[str, Path] = {}
    if draft.engine == "triton":
        values[CHAIN_MODEL] = _draft_engine(settings, settings.worker) | {"shared_gpu": ""}
        templates[CHAIN_MODEL] = region_folder("controller") / "draft"
    if settings.compat:
        values[compatibility.TARGET] = _draft_engine(settings, settings.worker) | {"shared_gpu": ""}
        values[compatibility.PREPROCESSING] = compatibility.preprocessing(
            settings.draft_dir, shared["vocab_size"], MAX_BATCH_SIZE
        )
    return ModelRepository(region_folder("worker"), values, compatibility.templates(values) | templates)


def engine_roles(settings: RegionSettings) -> tuple[str, ...]:
    """The engines that both regions have, by role."""
    return tuple(role for role in ROLES if role != "draft" or settings.local_draft_model)


def engine_config(settings: RegionSettings, role: str) -> EngineConfig:
    """What the server makes of an engine's parameters.

    Raises:
        ConfigError: a setting cannot work.
    """
    settings = replace(settings, compat=False)  # there, engines go by other names
    if role == "worker":
        values = worker_repository(settings).values["wanspec_worker"]
    else:
        values = controller_repository(settings, "").values[role]
    return EngineConfig.from_parameters({name: str(value) for name, value in values.items()})


def with_stored_costs(settings: RegionSettings) -> tuple[RegionSettings, list[str]]:
    """Add the files of measured costs that are stored for these engines; say why others are not used.

    Raises:
        ConfigError: a setting cannot work.
        ModelError: a model's folder is incomplete.
    """
    if not any_stored():  # describing engines reads their tokenizers, for which nobody need wait
        return settings, []
    found = {role: find_costs(describe_engine(role, engine_config(settings, role))) for role in engine_roles(settings)}
    files = {role: str(each.path) for role, each in found.items() if each.path is not None}
    return replace(settings, costs=files), [each.reason for each in found.values() if each.reason]


def model_context(folder: Path) -> int:
    """Longest sequence of a model, in tokens.

    Raises:
        ConfigError: its config.json does not say.
    """
    value = read_json(folder / "config.json").get("max_position_embeddings")
    if not isinstance(value, int):
        raise ConfigError("context", f"{folder / 'config.json'} has no max_position_embeddings; state the context")
    return value


def _context(settings: RegionSettings) -> int:
    if not settings.context:
        return model_context(settings.target_dir)
    limit = read_json(settings.target_dir / "config.json").get("max_position_embeddings")
    if isinstance(limit, int) and settings.context > limit:
        raise ConfigError(
            "context",
            f"{settings.context} tokens are above the target's limit of {limit} (max_position_embeddings of "
            f"{settings.target_dir.name}); give at most {limit}, or leave it out",
        )
    return settings.context


def _worker_tls(settings: RegionSettings) -> dict[str, Value]:
    if not settings.worker_tls:
        return dict.fromkeys(WORKER_TLS, "")
    tls = tls_in(Path(settings.worker_tls), WORKER_TLS)
    return dict(zip(WORKER_TLS, map(str, (tls.ca, tls.certificate, tls.key)), strict=True))


def _engine(settings: RegionSettings, engine: EngineSettings, folder: Path, max_draft_len: int) -> dict[str, Value]:
    return _shared(settings, engine, folder) | {
        "triton_max_batch_size": MAX_BATCH_SIZE,
        "max_batch_size": engine.max_batch_size,
        "max_draft_len": max_draft_len,
        "exclude_input_in_output": False,
        "decoupled": settings.decoupled,
        "shared_gpu": settings.shared_gpu,
    }


def _draft_engine(settings: RegionSettings, engine: EngineSettings) -> dict[str, Value]:
    return _engine(settings, engine, settings.draft_dir, 0) | {"max_input_len": 0, "max_seq_len": 0}


def _shared(settings: RegionSettings, engine: EngineSettings, folder: Path) -> dict[str, Value]:
    vocabulary = read_json(folder / "config.json").get("vocab_size", 0)
    return {
        "engine": engine.engine,
        "model_dir": str(folder),
        "dtype": engine.dtype,
        "weights": engine.weights,
        "device": engine.device,
        "threads": engine.threads,
        "pace_ms": engine.pace_ms,
        "time_scale": settings.time_scale,
        "kv_tokens": engine.kv_tokens,
        "vocab_size": vocabulary,
        "agreement": engine.agreement,
    }
