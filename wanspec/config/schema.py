"""What a configuration may hold. Defaults are those of the dataclasses that the values go into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, Strict, model_validator

from wanspec.core.policies import POLICIES, make_policy
from wanspec.defaults import default_of
from wanspec.engines.config import Dtype, Weights
from wanspec.errors import ConfigError
from wanspec.models import DEFAULT_PAIR, PAIRS
from wanspec.network.shape import DEFAULT_RTT_MS, LinkShape
from wanspec.openai.settings import FrontSettings
from wanspec.telemetry.settings import TraceSettings, check_url
from wanspec.triton.client import DEFAULT_URL
from wanspec.triton.regions import MOST_STREAMS, EngineSettings, RegionSettings

File = Annotated[Path, Strict(False)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _known(pair: str) -> str:
    if pair not in PAIRS:
        raise ValueError(f"{pair!r} is not one of {', '.join(PAIRS)}")
    return pair


Pair = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(PAIRS)})]
PolicyName = Annotated[str, Field(json_schema_extra={"enum": list(POLICIES)})]


def _of(kind: type[Any], name: str, description: str, **limits: Any) -> Any:
    """A field with the default of a dataclass's field."""
    return Field(default=default_of(kind, name), description=description, **limits)


class Section(BaseModel):
    """Part of a configuration: unknown fields and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PaceMs(Section):
    """Least duration of a step of each engine, ms; 0 for none."""

    target: float = _of(EngineSettings, "pace_ms", "Of the target.", ge=0, lt=60_000)
    draft: float = _of(EngineSettings, "pace_ms", "Of the local draft.", ge=0, lt=60_000)
    worker: float = _of(EngineSettings, "pace_ms", "Of the worker's draft.", ge=0, lt=60_000)


class Regions(Section):
    """Models and engines of both regions."""

    pair: Pair | None = Field(default=None, description=f"Target and draft that fit; null: {DEFAULT_PAIR}.")
    target: str | None = Field(default=None, description="Name, folder or hub id of the target; goes with draft.")
    draft: str | None = Field(default=None, description="The same of the draft, of the target's own tokenizer.")
    local_draft: bool = _of(RegionSettings, "local_draft_model", "Whether a draft model runs beside the target.")
    dtype: Dtype = _of(EngineSettings, "dtype", "Of all models.")
    weights: Weights = _of(EngineSettings, "weights", "Of linear layers: as dtype, or int8.")
    device: str = _of(EngineSettings, "device", "Of target and local draft: cpu, cuda or cuda:N.")
    worker_device: str | None = Field(default=None, description="Of the worker's draft; as device where null.")
    threads: int | None = Field(default=None, ge=1, description="Of each engine; half of the cores where null.")
    pace_ms: PaceMs = Field(default=PaceMs(), description="Least duration of a step, ms.")
    time_scale: float = _of(RegionSettings, "time_scale", "Stretches paces and RTT.", ge=0.01, le=1000)
    context: int | None = _of(RegionSettings, "context", "Longest sequence, tokens; null: the target's.", ge=2)
    compat: bool = _of(RegionSettings, "compat", "Also serve tensorrt_llm, ensemble and more.")
    decoupled: bool = _of(RegionSettings, "decoupled", "With compat: these can stream, and refuse unary calls.")

    @model_validator(mode="after")
    def _models(self) -> Regions:
        if self.pair and (self.target or self.draft):
            raise ValueError("give pair, or target and draft")
        if bool(self.target) != bool(self.draft):
            raise ValueError("target and draft go together")
        if self.decoupled and not self.compat:
            raise ValueError("decoupled goes with compat")
        return self


class Link(Section):
    """The emulated WAN between the regions."""

    rtt_ms: float = Field(default=DEFAULT_RTT_MS, ge=0, le=10_000, description="Round trip, ms.")
    jitter_ms: float = _of(LinkShape, "jitter_ms", "One-way delay varies by so much, ms; at most rtt_ms / 2.", ge=0)
    rate_mbps: float | None = _of(LinkShape, "rate_mbps", "Bandwidth, 10^6 bits/s; null: unlimited.", gt=0)
    loss: float = _of(LinkShape, "loss", "Share of packets lost.", ge=0, le=0.5)
    streams: int = _of(RegionSettings, "streams", "TCP connections to the worker.", ge=1, le=MOST_STREAMS)
    worker_tls: File | None = Field(default=None, description="Folder of certificates for mutual TLS with the worker.")

    @model_validator(mode="after")
    def _delays(self) -> Link:
        if self.jitter_ms > self.rtt_ms / 2:
            most = f"{self.rtt_ms / 2:g}, half of rtt_ms"
            raise ConfigError("jitter_ms", f"{self.jitter_ms:g} is above {most}: delays would be negative")
        return self


class PolicySection(Section):
    """How requests that name no policy are decoded."""

    name: PolicyName = _of(RegionSettings, "policy", "The policy.")
    parameters: dict[str, int | float | str] = Field(default={}, description="Its parameters, such as k: 3.")

    @model_validator(mode="after")
    def _fits(self) -> PolicySection:
        make_policy(self.name, self.parameters)
        return self


class Server(Section):
    """The target's Triton."""

    grpc_port: Port | None = Field(default=None, description="gRPC; 8001, or a free one, where null.")
    http_port: Port | None = Field(default=None, description="HTTP; 8000, or a free one, where null.")
    metrics_port: Port | None = Field(default=None, description="Prometheus metrics; 8002, or a free one, where null.")
    log_dir: File | None = Field(default=None, description="Where the servers' logs go and stay.")
    event_log: File | None = Field(default=None, description="File for the controller's event log.")
    auth_token_file: File | None = Field(
        default=None, description="Holds a token that the regions, and `wanspec control`, have to show."
    )


def _url(url: str) -> str:
    return check_url("url", url)


class Traces(Section):
    """OpenTelemetry traces of both regions."""

    url: Annotated[str, AfterValidator(_url)] = _of(
        TraceSettings, "url", "OTLP/HTTP endpoint, http://HOST:4318/v1/traces; empty: nothing is traced."
    )
    rate: int = _of(TraceSettings, "rate", "Trace one request of so many; 0: those whose caller traces.", ge=0)
    slow_ms: float = _of(TraceSettings, "slow_ms", "Trace requests that take so long in any case, ms; 0: do not.", ge=0)
    content: bool = _of(TraceSettings, "content", "Text and tokens of requests go into traces.")


class Limits(Section):
    """What bounds the endpoint's work."""

    max_draft_len: int = _of(RegionSettings, "max_draft_len", "Most drafts in one verification.", ge=0, le=256)
    engine_timeout_ms: float = _of(RegionSettings, "engine_timeout_ms", "Longest engine call, ms.", ge=1)
    max_sequences: int = _of(
        RegionSettings, "max_sequences", "Most requests that decode at once; others wait.", ge=1, le=1024
    )
    max_reserved_tokens: int | None = _of(
        RegionSettings,
        "max_reserved_tokens",
        "Most tokens, prompts and `max_tokens`, of these together; null: no limit.",
        ge=2,
    )
    max_queue: int = _of(
        RegionSettings, "max_queue", "Most requests that wait; more are refused as busy.", ge=0, le=65_536
    )
    deadline_ms: float = _of(RegionSettings, "deadline_ms", "Longest time for requests that do not say, ms.", ge=1)
    max_deadline_ms: float = _of(RegionSettings, "max_deadline_ms", "Longest time for any request, ms.", ge=1)

    @model_validator(mode="after")
    def _deadlines(self) -> Limits:
        if self.deadline_ms > self.max_deadline_ms:
            raise ConfigError("deadline_ms", f"{self.deadline_ms:g} is above max_deadline_ms, {self.max_deadline_ms:g}")
        return self


class Endpoint(Section):
    """The endpoint that `generate`, `chat` and `serve-openai` ask."""

    url: str = Field(default=DEFAULT_URL, description="HOST:PORT of its gRPC.")
    tls_ca: File | None = Field(default=None, description="Authority of its certificate, PEM; null: plaintext.")
    tls_cert: File | None = Field(default=None, description="Certificate to show it, PEM; goes with tls_key.")
    tls_key: File | None = Field(default=None, description="Key of that certificate, PEM.")


class Generation(Section):
    """What applies to requests that do not say; where null, the endpoint's (or OpenAI's) default."""

    max_tokens: int | None = Field(default=None, ge=1, description="Longest answer, tokens.")
    temperature: float | None = Field(default=None, ge=0, description="Above 0 the answer is drawn.")
    top_k: int | None = Field(default=None, ge=0, description="Draw from so many tokens only; 0: all.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Draw from so much probability.")


class OpenAI(Section):
    """`wanspec serve-openai`."""

    host: str = _of(FrontSettings, "host", "Address to listen on.")
    port: Port = _of(FrontSettings, "port", "Port to listen on.")
    model_name: str = _of(FrontSettings, "model", "The model's name in requests.", min_length=1)
    api_key: SecretStr | None = Field(default=None, description="Bearer token of clients; null: none is asked for.")
    max_requests: int = _of(FrontSettings, "max_requests", "Answers under way at once.", ge=1, le=1024)
    timeout_s: float = _of(FrontSettings, "timeout_s", "Longest time for an answer, s.", gt=0, le=86_400)


class Config(Section):
    """The configuration."""

    regions: Regions = Regions()
    link: Link = Link()
    policy: PolicySection = PolicySection()
    server: Server = Server()
    limits: Limits = Limits()
    traces: Traces = Traces()
    endpoint: Endpoint = Endpoint()
    generation: Generation = Generation()
    openai: OpenAI = OpenAI()
