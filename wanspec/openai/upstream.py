"""The endpoint, asked from an event loop: several answers at once, each on a thread, with a bound on all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from wanspec.errors import RequestCancelledError, ServerError, WanspecError
from wanspec.openai.errors import busy
from wanspec.triton.client import Answer, Pending, Piece, Prompt


class Client(Protocol):
    """What is asked of the endpoint (``wanspec.triton.client.WanspecClient``)."""

    @property
    def ask(self) -> Callable[..., Pending]:
        """Sends a request: a prompt, and options by name."""
        ...

    def ready(self) -> bool:
        """Whether the endpoint serves."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is wanted."""

    prompt: Prompt
    options: Mapping[str, Any]


Arrival: TypeAlias = Piece | Answer | WanspecError
"""Of one answer: pieces, and then the whole or an error."""


class Upstream:
    """Asks the endpoint. All methods on the event loop; none blocks it."""

    def __init__(self, client: Client, max_requests: int) -> None:
        """``max_requests``: answers under way at once; more are refused."""
        self._client = client
        self._most = max_requests
        self._running = 0
        self._pool = ThreadPoolExecutor(max_requests, thread_name_prefix="wanspec-openai")

    @property
    def max_requests(self) -> int:
        """Answers under way at once."""
        return self._most

    @property
    def running(self) -> int:
        """Answers under way now."""
        return self._running

    async def ready(self) -> bool:
        """Whether the endpoint serves."""
        return await asyncio.to_thread(self._client.ready)

    def begin(self, asks: Sequence[Ask]) -> Answers:
        """Send requests.

        Raises:
            ApiError: too many are under way.
        """
        if self._running + len(asks) > self._most:
            raise busy(f"{self._running} of {self._most} answers are under way, and this request wants {len(asks)}")
        self._running += len(asks)
        return Answers(self._client, asks, self._pool, self._ended)

    def close(self) -> None:
        """Free the threads, once nothing is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self) -> None:
        self._running -= 1


class Answers:
    """Answers under way. Iterate for (number, arrival) as they come; then, or whenever enough is known, ``cancel``."""

    def __init__(self, client: Client, asks: Sequence[Ask], pool: ThreadPoolExecutor, ended: Any) -> None:
        self._arrivals: asyncio.Queue[tuple[int, Arrival]] = asyncio.Queue()
        self._left = len(asks)
        self._jobs = [_Job(client, ask) for ask in asks]
        loop = asyncio.get_running_loop()

        def arrived(number: int, arrival: Arrival) -> None:
            _call(loop, self._arrivals.put_nowait, (number, arrival))

        for number, job in enumerate(self._jobs):
            pool.submit(job.run, number, arrived, lambda: _call(loop, ended))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Arrival]]:
        """Yield what arrives until every answer has ended."""
        while self._left:
            number, arrival = await self._arrivals.get()
            self._left -= not isinstance(arrival, Piece)
            yield number, arrival

    def cancel(self, number: int | None = None) -> None:
        """End one answer, or all: the request ends in both regions. Nothing happens to those that have ended."""
        for job in self._jobs if number is None else [self._jobs[number]]:
            job.cancel()


class _Job:
    """One answer, taken on a thread of the pool."""

    def __init__(self, client: Client, ask: Ask) -> None:
        self._client = client
        self._ask = ask
        self._lock = threading.Lock()
        self._pending: Pending | None = None
        self._cancelled = False

    def run(self, number: int, arrived: Any, ended: Any) -> None:
        try:
            pending = self._send()
            for piece in pending:
                arrived(number, piece)
            arrived(number, pending.answer)
        except WanspecError as error:
            arrived(number, error)
        except Exception as error:  # a thread of a pool would swallow it
            arrived(number, ServerError(f"{type(error).__name__}: {error}"))
        finally:
            ended()

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._pending is not None:
                self._pending.interrupt()

    def _send(self) -> Pending:
        with self._lock:
            if self._cancelled:
                raise RequestCancelledError("the request was cancelled")
            self._pending = self._client.ask(self._ask.prompt, **self._ask.options)
            return self._pending


def _call(loop: asyncio.AbstractEventLoop, function: Any, *arguments: Any) -> None:
    """Call on the loop, unless the front has ended meanwhile."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise
