"""Free TCP ports of 127.0.0.1, reserved across processes.

Asking the kernel for port 0 and closing the socket races with everybody else who does the same, and a Triton server
binds its ports long after they were chosen. A reservation therefore also holds a Unix socket with an abstract name made
of the port's number. The kernel allows one holder, and frees the name when it dies: two test runs, or two
``wanspec up``, never choose the same port.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType

from wanspec.errors import ServerError

# Below the usual ephemeral range (32768-60999), so that no outgoing connection takes a port that is reserved here.
PORT_RANGE = range(20_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on ``host:port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


class PortReservation:
    """Ports that no other holder of a reservation gets until ``release`` (or the end of this process)."""

    def __init__(self, ports: list[int], locks: list[socket.socket]) -> None:
        self.ports = ports
        self._locks = locks

    def release(self) -> None:
        """Give the ports back. May be called twice."""
        while self._locks:
            self._locks.pop().close()

    def _take(self, port: int) -> bool:
        """Add a port; false where somebody uses or holds it."""
        lock = _lock(port)
        if lock is None:
            return False
        if not is_free(port):
            lock.close()
            return False
        self.ports.append(port)
        self._locks.append(lock)
        return True

    def __enter__(self) -> list[int]:
        return self.ports

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def reserve_ports(count: int, preferred: Sequence[int | None] = ()) -> PortReservation:
    """Reserve ``count`` different free ports of 127.0.0.1.

    Args:
        count: how many.
        preferred: the first, second... port is this one where it can be had; None for any.

    Raises:
        ServerError: fewer than ``count`` ports of ``PORT_RANGE`` are free.
    """
    reservation = PortReservation([], [])
    candidates = _candidates()
    for index in range(count):
        wanted = preferred[index] if index < len(preferred) else None
        if wanted is not None and reservation._take(wanted):
            continue
        if not any(reservation._take(port) for port in candidates):
            reservation.release()
            raise ServerError(
                f"ports: {count} free ports wanted between {PORT_RANGE.start} and {PORT_RANGE.stop}, fewer are left; "
                "stop servers that are no longer needed"
            )
    return reservation


def _candidates() -> Iterator[int]:
    start = random.SystemRandom().randrange(len(PORT_RANGE))
    for offset in range(len(PORT_RANGE)):
        yield PORT_RANGE[(start + offset) % len(PORT_RANGE)]


def _lock(port: int) -> socket.socket | None:
    """A socket that holds the lock of ``port``, or None when another holder has it."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(f"\0wanspec-port-{port}")
    except OSError:
        holder.close()
        return None
    return holder
