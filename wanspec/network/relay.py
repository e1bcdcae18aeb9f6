"""The WAN emulator: a TCP relay that delays, as a long path would, what it passes on.

Delay is pipelined (each piece has its own due time), order is kept within a connection, bandwidth is shared by all
connections of a direction, and everything can be changed while it runs. Any user can run it: no kernel module, no root.

``Relay`` lives in a running asyncio loop; ``relay_host`` has it in a thread and in a process of its own.
``python -m wanspec.network.relay --help`` runs one by hand.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Mapping

from wanspec.errors import ServerError
from wanspec.network.delay_line import Path
from wanspec.network.relayed import Connection
from wanspec.network.shape import LinkShape, Script, check_script
from wanspec.network.stats import ConnectionStats, DirectionStats, RelayStats
from wanspec.network.timing import PreciseSchedule

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S = 10.0
CLOSED_KEPT = 100


class Relay:
    """Relays a port to one target over a path of a given shape. Use it from one event loop.

    Args:
        target_host, target_port: where the connections go.
        shape: the path; ``set`` changes it.
        listen_host: IPv4 address, or name of one, to listen on.
        listen_port: None lets the kernel choose one (see ``port``).
        seed: of jitter and loss.
        time_scale: multiplies every duration (delay, jitter, stalls, script) and divides the rate.
        script: changes over time, from ``start`` on.

    Raises:
        ConfigError: the script has an unknown field or a value out of its limits.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        shape: LinkShape | None = None,
        *,
        listen_host: str = HOST,
        listen_port: int | None = None,
        seed: int = 0,
        time_scale: float = 1.0,
        script: Script = (),
    ) -> None:
        self._target = (target_host, target_port)
        self._shape = shape or LinkShape()
        self._script = check_script(self._shape, script)
        self._host, self._port = listen_host, listen_port or 0
        self._paths = Path(f"{seed} up", time_scale), Path(f"{seed} down", time_scale)
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._schedule: PreciseSchedule | None = None
        self._connections: dict[int, Connection] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed: deque[ConnectionStats] = deque(maxlen=CLOSED_KEPT)
        self._closed_up, self._closed_down = DirectionStats(), DirectionStats()
        self._opened = 0

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def shape(self) -> LinkShape:
        """The path as it is now."""
        return self._shape

    async def start(self) -> None:
        """Listen, and start the script.

        Raises:
            ServerError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        self._schedule = PreciseSchedule(loop)
        try:
            self._bind()
        except OSError as error:
            self._schedule.close()
            raise ServerError(
                f"relay: cannot listen on {self._host}:{self._port}: {error.strerror}; choose another"
            ) from error
        if self._shape.state != "cut":
            await self._listen()
        for at_ms, changes in self._script:
            self._schedule.call_at(loop.time() + self._paths[0].seconds(at_ms), _Change(self, changes))

    async def stop(self) -> None:
        """Reset all connections and stop listening. May be called twice."""
        if self._schedule is not None:
            self._schedule.close()
        self._reset_all()
        self._close_listener()
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        await asyncio.sleep(0)  # the transports' own last callbacks

    async def set(self, **changes: object) -> None:
        """Change the path: any field of ``LinkShape``. What is under way keeps the delay that it was given.

        Raises:
            ConfigError: an unknown field, or a value out of its limits; nothing is changed then.
        """
        self.apply(changes)
        await asyncio.sleep(0)  # after "cut": let the resets go out

    def apply(self, changes: Mapping[str, object]) -> None:
        """The same as ``set``, from within the loop."""
        before, self._shape = self._shape, self._shape.changed(changes)
        logger.info("relay %d: %s", self._port, self._shape)
        if before.state == self._shape.state:
            return
        if self._shape.state == "cut":
            self._reset_all()
            self._close_listener()
            self._bind()  # bound but not listening: the port stays ours, and connecting is refused
        elif before.state == "cut":
            task = asyncio.ensure_future(self._listen())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        if self._shape.state == "on":
            self._resume()

    def stats(self) -> RelayStats:
        """What it has carried until now."""
        live = [connection.stats() for connection in self._connections.values()]
        up, down = DirectionStats(), DirectionStats()
        up.add(self._closed_up)
        down.add(self._closed_down)
        for entry in live:
            up.add(entry.up)
            down.add(entry.down)
        return RelayStats(self._opened, len(live), up, down, [*self._closed, *live])

    def _bind(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        self._listener = listener

    async def _listen(self) -> None:
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._connection().client, sock=self._listener, backlog=512)

    def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _connection(self) -> Connection:
        assert self._schedule is not None
        self._opened += 1
        connection = Connection(
            self._opened,
            schedule=self._schedule,
            shape=lambda: self._shape,
            paths=self._paths,
            connect=self._connect,
            forget=self._forget,
        )
        self._connections[connection.number] = connection
        return connection

    def _connect(self, connection: Connection) -> None:
        task = asyncio.ensure_future(self._open_target(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _open_target(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(lambda: connection.target, *self._target)
        try:
            await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError) as error:
            logger.info("relay %d: target %s:%d: %s", self._port, *self._target, error)
            connection.client.reset()

    def _forget(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) is not None:
            final = connection.stats()
            self._closed.append(final)
            self._closed_up.add(final.up)
            self._closed_down.add(final.down)

    def _reset_all(self) -> None:
        for connection in list(self._connections.values()):
            connection.reset()

    def _resume(self) -> None:
        """After "off": what was held sets out now."""
        arrival = asyncio.get_running_loop().time() + self._paths[0].seconds(self._shape.delay_ms)
        for connection in list(self._connections.values()):
            connection.up.postpone(arrival)
            connection.down.postpone(arrival)


class _Change:
    """One entry of the script."""

    def __init__(self, relay: Relay, changes: Mapping[str, object]) -> None:
        self._relay, self._changes = relay, changes

    def __call__(self) -> None:
        self._relay.apply(self._changes)


if __name__ == "__main__":
    from wanspec.network.relay_main import main

    main()
