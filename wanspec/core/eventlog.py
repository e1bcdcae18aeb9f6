"""The event log: every event of a controller or of one request, as JSON lines, and its replay."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from wanspec.core import events
from wanspec.core.config import ControllerConfig, Fingerprint, LinkConfig, SamplingMode
from wanspec.core.control import Control, Speculation
from wanspec.core.costs import CostModel
from wanspec.core.events import Controlled, Event, Received, Request, Submitted
from wanspec.core.link import LinkSnapshot
from wanspec.core.options import GenerationOptions
from wanspec.core.sampling import Sampling
from wanspec.errors import ProtocolError

LOG_VERSION = 3
_COSTS = ("verify_costs", "draft_costs")

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        events.Submitted,
        events.Cancelled,
        events.Verified,
        events.Drafted,
        events.Failed,
        events.Connected,
        events.Disconnected,
        events.Received,
        events.Tick,
        events.Observed,
        events.Controlled,
    )
}


@dataclass(frozen=True, slots=True)
class LogStart:
    """The first line of a log: what the controller was when it began."""

    config: ControllerConfig
    instance: bytes
    estimators: dict[str, list[float]]
    links: tuple[LinkSnapshot, ...]
    control: Control


def start_line(start: LogStart, now: float) -> str:
    """Encode the first line. The authentication token is left out."""
    config = start.config
    settings = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("fingerprint", "link")}
    settings["auth_token"] = ""
    for name in _COSTS:
        settings[name] = None if settings[name] is None else settings[name].to_plain()
    entry = {
        "log": LOG_VERSION,
        "now": now,
        "config": settings,
        "link": {f.name: getattr(config.link, f.name) for f in fields(config.link)},
        "fingerprint": [
            config.fingerprint.tokenizer_hash.hex(),
            config.fingerprint.vocab_size,
            config.fingerprint.draft_id,
        ],
        "instance": start.instance.hex(),
        "estimators": start.estimators,
        "links": [asdict(link) for link in start.links],
        "control": _plain(start.control),
    }
    return json.dumps(entry, separators=(",", ":"))


def event_line(event: Event, now: float) -> str:
    """Encode one event."""
    entry: dict[str, Any] = {"t": now, "e": type(event).__name__}
    for field in fields(event):
        entry[field.name] = _plain(getattr(event, field.name))
    return json.dumps(entry, separators=(",", ":"))


def read_log(lines: Iterable[str]) -> tuple[LogStart, float, list[tuple[float, Event]]]:
    """Decode a log: its start, the time of that, and the events with theirs.

    Raises:
        ProtocolError: the log is of another version or malformed; the message names the line.
    """
    start: LogStart | None = None
    began = 0.0
    entries: list[tuple[float, Event]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if start is None:
                start, began = _read_start(entry), entry["now"]
            else:
                entries.append((entry.pop("t"), _read_event(entry)))
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"event log line {number}: {type(error).__name__}: {error}") from error
    if start is None:
        raise ProtocolError("event log: empty")
    return start, began, entries


def _read_start(entry: dict[str, Any]) -> LogStart:
    if entry.get("log") != LOG_VERSION:
        raise ValueError(f"log version {entry.get('log')}, this program reads {LOG_VERSION}")
    digest, vocab, draft_id = entry["fingerprint"]
    settings = dict(entry["config"])
    for name in _COSTS:
        plain = settings.get(name)
        settings[name] = None if plain is None else CostModel.from_plain(plain)
    config = ControllerConfig(
        fingerprint=Fingerprint(bytes.fromhex(digest), vocab, draft_id),
        link=LinkConfig(**entry["link"]),
        sampling=SamplingMode(settings.pop("sampling", SamplingMode.COUPLED)),
        **settings,
    )
    links = tuple(LinkSnapshot(**link) for link in entry["links"])
    # Logs from before there was a control have none.
    control = _read_control(entry.get("control", {}))
    return LogStart(config, bytes.fromhex(entry["instance"]), entry["estimators"], links, control)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, (Request, Sampling, GenerationOptions, Control)):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _read_event(entry: dict[str, Any]) -> Event:
    kind = _KINDS[entry.pop("e")]
    if kind is Received:
        return Received(entry["link"], base64.b64decode(entry["data"]))
    if kind is Submitted:
        named = entry["claims"]
        claims = None if named is None else tuple((link, length) for link, length in named)
        return Submitted(entry["sequence"], _read_request(entry["request"]), entry.get("waited_ms", 0.0), claims)
    if kind is Controlled:
        return Controlled(_read_control(entry["control"]))
    event: Event = kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()})
    return event


def _read_request(values: dict[str, Any]) -> Request:
    # Logs from before there was sampling have neither of the last two.
    sampling, options = Sampling(**values.pop("sampling", {})), _read_options(values.pop("options", {}))
    prompt, end_ids = tuple(values.pop("prompt")), frozenset(values.pop("end_ids"))
    return Request(prompt=prompt, end_ids=end_ids, sampling=sampling, options=options, **values)


def _read_control(values: dict[str, Any]) -> Control:
    return Control(**values | {"speculation": Speculation(values.get("speculation", Speculation.REMOTE))})


def _read_options(values: dict[str, Any]) -> GenerationOptions:
    lists = {name: tuple(map(tuple, value)) for name, value in values.items() if isinstance(value, list)}
    return GenerationOptions(**(values | lists))
