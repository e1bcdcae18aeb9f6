"""What a relay has carried."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class DirectionStats:
    """One direction: what has come out of the path, and what is still under way.

    ``chunks`` counts writes to the receiver; ``held_bytes`` is under way now; ``lost_packets`` were sent again.
    """

    bytes: int = 0
    chunks: int = 0
    held_bytes: int = 0
    lost_packets: int = 0

    def add(self, other: DirectionStats) -> None:
        """Add ``other`` to this."""
        self.bytes += other.bytes
        self.chunks += other.chunks
        self.held_bytes += other.held_bytes
        self.lost_packets += other.lost_packets


@dataclass(slots=True)
class ConnectionStats:
    """One connection: ``up`` is from the client to the target, ``down`` the way back."""

    id: int
    open: bool
    up: DirectionStats
    down: DirectionStats


@dataclass(slots=True)
class RelayStats:
    """All connections since the start, and the totals. ``connections`` lists the open ones and the last 100 closed."""

    opened: int
    open: int
    up: DirectionStats
    down: DirectionStats
    connections: list[ConnectionStats]

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RelayStats:
        """The inverse of ``as_dict``."""
        connections = [
            ConnectionStats(entry["id"], entry["open"], DirectionStats(**entry["up"]), DirectionStats(**entry["down"]))
            for entry in values["connections"]
        ]
        up, down = DirectionStats(**values["up"]), DirectionStats(**values["down"])
        return cls(values["opened"], values["open"], up, down, connections)
