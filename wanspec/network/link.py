"""The transport of a link: one gRPC stream to a worker's Triton (ModelStreamInfer), on asyncio."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

logger = logging.getLogger(__name__)

WORKER_MODEL = "wanspec_worker"
LINK_REQUEST_ID = "link"
CONNECT_TIMEOUT_S = 4.0

_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """Where a worker is: ``host:port`` of its Triton's gRPC, and the model's name there."""

    url: str
    model: str = WORKER_MODEL


class LinkListener(Protocol):
    """Told of what happens on a link, on the event loop."""

    def connected(self) -> None:
        """The transport is up."""
        ...

    def received(self, data: bytes) -> None:
        """A frame has arrived."""
        ...

    def disconnected(self, reason: str) -> None:
        """The transport is gone, or could not be had."""
        ...


class LinkClient:
    """One connection at a time. All methods on the event loop; none blocks."""

    def __init__(self, target: LinkTarget, listener: LinkListener) -> None:
        self._target = target
        self._listener = listener
        self._task: asyncio.Task[None] | None = None
        self._outgoing: asyncio.Queue[Any] | None = None

    def connect(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to connect; the listener hears of the outcome."""
        self.close()
        self._outgoing = asyncio.Queue()
        self._task = loop.create_task(self._run(self._outgoing))

    def send(self, data: bytes, opening: bool = False) -> None:
        """Queue a frame. The request of an ``opening`` one stays open: its responses are what the worker sends."""
        if self._outgoing is not None:
            self._outgoing.put_nowait(self._request(data, opening))

    def close(self) -> None:
        """Drop the connection without telling the listener."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._outgoing = None

    async def aclose(self) -> None:
        """Drop the connection and wait until it is gone."""
        task = self._task
        self.close()
        if task is not None:
            await asyncio.wait([task], timeout=CONNECT_TIMEOUT_S)

    async def _run(self, outgoing: asyncio.Queue[Any]) -> None:
        reason = "closed by the worker"
        channel = grpc.aio.insecure_channel(self._target.url, options=_OPTIONS)
        try:
            await asyncio.wait_for(channel.channel_ready(), CONNECT_TIMEOUT_S)
            # Before Python 3.12 wait_for may swallow a cancellation that comes as the channel gets ready.
            if self._outgoing is outgoing:
                await self._stream(channel, outgoing)
        except asyncio.CancelledError:
            return
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            reason = f"{self._target.url} did not answer within {CONNECT_TIMEOUT_S:g} s"
        except Exception as error:
            logger.exception("link to %s failed", self._target.url)
            reason = f"{type(error).__name__}: {error}"
        finally:
            await channel.close(None)
        if self._outgoing is outgoing:
            self._outgoing = self._task = None
            self._listener.disconnected(reason)

    async def _stream(self, channel: grpc.aio.Channel, outgoing: asyncio.Queue[Any]) -> None:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        writer = asyncio.ensure_future(self._write(call, outgoing))
        try:
            self._listener.connected()
            async for response in call:
                if response.error_message:
                    logger.warning("link to %s: %s", self._target.url, response.error_message)
                    if response.infer_response.id == LINK_REQUEST_ID or not response.infer_response.id:
                        raise ConnectionError(response.error_message)
                elif response.infer_response.raw_output_contents:
                    # A string tensor of one element would carry a length; UINT8 is the frame as it is.
                    self._listener.received(response.infer_response.raw_output_contents[0])
        finally:
            writer.cancel()
            call.cancel()

    @staticmethod
    async def _write(call: Any, outgoing: asyncio.Queue[Any]) -> None:
        while True:
            await call.write(await outgoing.get())

    def _request(self, data: bytes, opening: bool) -> Any:
        request = service_pb2.ModelInferRequest(
            model_name=self._target.model, id=LINK_REQUEST_ID if opening else "", raw_input_contents=[data]
        )
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = "frame", "UINT8"
        tensor.shape.append(len(data))
        return request
