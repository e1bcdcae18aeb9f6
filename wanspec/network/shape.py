"""What a WAN path does to bytes: the relay's settings, and its changes over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from wanspec.errors import ConfigError

LinkState: TypeAlias = Literal["on", "off", "cut"]

DEFAULT_RTT_MS = 30.0
"""Of deployments on one machine that are not told otherwise."""

LEAST_RTO_MS = 200.0
"""Linux's shortest retransmission timeout."""

#: Changes with their time in ms after the relay's start.
Script: TypeAlias = Sequence[tuple[float, Mapping[str, object]]]


@dataclass(frozen=True, slots=True)
class LinkShape:
    """One path, the same in both directions.

    Attributes:
        delay_ms: one-way delay.
        jitter_ms: the delay of each chunk varies by up to this much either way, uniformly; order is kept, so a late
            chunk holds up those behind it.
        rate_mbps: bandwidth of each direction in 10^6 bits per second, shared by all connections; None is unlimited.
        loss: probability that a packet of ``mss`` bytes is lost. TCP repairs it, so what is seen is a stall: one RTT
            after three more packets of the connection (fast retransmission), ``rto_ms`` where that is sooner.
        state: "on"; "off": bytes are held and connections stay (a black hole); "cut": connections are reset and new
            ones refused.
        handshake: the first bytes of a connection wait for the round trip that opening it costs on a real path (the
            relay's own accept is immediate).
        mss: bytes of payload in one packet.
        least_rto_ms: shortest retransmission timeout.
        buffer_bytes: what may be under way in one direction of a connection before its sender is held back.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_mbps: float | None = None
    loss: float = 0.0
    state: LinkState = "on"
    handshake: bool = True
    mss: int = 1448
    least_rto_ms: float = LEAST_RTO_MS
    buffer_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        _require(self.delay_ms >= 0, "delay_ms", self.delay_ms, "must be 0 or more")
        _require(0 <= self.jitter_ms <= self.delay_ms, "jitter_ms", self.jitter_ms, "must be between 0 and delay_ms")
        _require(self.rate_mbps is None or self.rate_mbps > 0, "rate_mbps", self.rate_mbps, "must be above 0, or None")
        _require(0 <= self.loss <= 0.5, "loss", self.loss, "must be between 0 and 0.5")
        _require(self.state in get_args(LinkState), "state", self.state, "must be on, off or cut")
        _require(self.least_rto_ms > 0, "least_rto_ms", self.least_rto_ms, "must be above 0")
        _require(self.mss > 0, "mss", self.mss, "must be above 0")
        _require(self.buffer_bytes > 0, "buffer_bytes", self.buffer_bytes, "must be above 0")

    @property
    def rtt_ms(self) -> float:
        """Round-trip time without jitter and queueing."""
        return 2 * self.delay_ms

    @property
    def rto_ms(self) -> float:
        """Retransmission timeout: the shortest there is or two RTTs, whichever is longer."""
        return max(self.least_rto_ms, 2 * self.rtt_ms)

    def changed(self, changes: Mapping[str, object]) -> LinkShape:
        """This shape with other values for the fields named in ``changes``.

        Raises:
            ConfigError: an unknown field, or a value out of its limits.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(name, f"is not a property of a link; these are: {', '.join(known)}")
        try:
            return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(", ".join(changes), f"a value has the wrong type: {error}") from error


def check_script(shape: LinkShape, script: Script) -> list[tuple[float, dict[str, object]]]:
    """``script`` in the order of time, every change tried on ``shape`` and what came before it.

    Raises:
        ConfigError: a negative time, an unknown field, or a value out of its limits.
    """
    ordered = sorted(((float(at), dict(changes)) for at, changes in script), key=lambda entry: entry[0])
    for at_ms, changes in ordered:
        _require(at_ms >= 0, "script", at_ms, "times in ms after the start must be 0 or more")
        shape = shape.changed(changes)
    return ordered


def _require(holds: bool, field: str, value: object, limit: str) -> None:
    if not holds:
        raise ConfigError(field, f"{value!r} given; it {limit}")
