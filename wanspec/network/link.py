"""The transport of a link: one gRPC stream to a worker's Triton (ModelStreamInfer), read by a thread of its own."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from wanspec.network.tls import open_channel, why_not

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
    """Where a worker is: ``host:port`` of its Triton's gRPC, the model's name there, and TLS unless plaintext."""

    url: str
    model: str = WORKER_MODEL
    credentials: grpc.ChannelCredentials | None = None


class LinkListener(Protocol):
    """Told of what happens on a link, on the thread of a connection.

    ``connection`` tells it apart from others of the same link: one that was given up may still have something to say.
    """

    def connected(self, connection: LinkConnection) -> None:
        """The transport is up."""
        ...

    def received(self, connection: LinkConnection, data: bytes) -> None:
        """A frame has arrived."""
        ...

    def disconnected(self, connection: LinkConnection, reason: str) -> None:
        """The transport is gone, or could not be had."""
        ...


class LinkClient:
    """One connection at a time. Calls come from one thread at a time; none blocks or calls the listener.

    Attributes:
        connection: the present one, None where there is none.
    """

    def __init__(self, target: LinkTarget, listener: LinkListener) -> None:
        self._target = target
        self._listener = listener
        self.connection: LinkConnection | None = None

    def connect(self) -> None:
        """Begin to connect; the listener hears of the outcome."""
        self.close()
        self.connection = LinkConnection(self._target, self._listener)

    def send(self, data: bytes, opening: bool = False) -> None:
        """Queue a frame. The request of an ``opening`` one stays open: its responses are what the worker sends."""
        if self.connection is not None:
            self.connection.send(data, opening)

    def close(self) -> LinkConnection | None:
        """Drop the connection, and return it: it may still tell the listener of what happened before."""
        dropped, self.connection = self.connection, None
        if dropped is not None:
            dropped.close()
        return dropped


class _RefusedError(Exception):
    """The worker's answer to the stream's opening, in its own words."""


class LinkConnection:
    """One stream, from the attempt to connect to its end."""

    def __init__(self, target: LinkTarget, listener: LinkListener) -> None:
        self._target = target
        self._listener = listener
        self._outgoing: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._call: Any = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"wanspec-link {target.url}", daemon=True)
        self._thread.start()

    def send(self, data: bytes, opening: bool) -> None:
        """Queue a frame."""
        request = service_pb2.ModelInferRequest(
            model_name=self._target.model, id=LINK_REQUEST_ID if opening else "", raw_input_contents=[data]
        )
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = "frame", "UINT8"
        tensor.shape.append(len(data))
        self._outgoing.put(request)

    def close(self) -> None:
        """Begin to end it."""
        with self._lock:
            self._closed = True
            call = self._call
        if call is not None:
            call.cancel()

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        reason = "closed by the worker"
        channel = open_channel(self._target.url, _OPTIONS, self._target.credentials)
        try:
            self._call = ready = grpc.channel_ready_future(channel)
            if not self._closed:  # else it came before there was anything to cancel
                ready.result(CONNECT_TIMEOUT_S)
            self._stream(channel)
        except grpc.FutureCancelledError:
            reason = "closed while it was connecting"
        except grpc.FutureTimeoutError:
            reason = f"{self._target.url} did not answer within {CONNECT_TIMEOUT_S:g} s"
            problem = "" if self._closed else why_not(channel)
            reason += f": {problem}" if problem else ""
        except grpc.RpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except _RefusedError as error:
            reason = str(error)
        except Exception as error:
            logger.exception("link to %s failed", self._target.url)
            reason = f"{type(error).__name__}: {error}"
        finally:
            self._outgoing.put(None)  # ends gRPC's thread that reads from it
            channel.close()
        if not self._closed:
            self._listener.disconnected(self, reason)

    def _stream(self, channel: grpc.Channel) -> None:
        with self._lock:
            if self._closed:
                return
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            call = self._call = stub.ModelStreamInfer(iter(self._outgoing.get, None))
        try:
            self._listener.connected(self)
            for response in call:
                if response.error_message:
                    logger.warning("link to %s: %s", self._target.url, response.error_message)
                    if response.infer_response.id == LINK_REQUEST_ID or not response.infer_response.id:
                        raise _RefusedError(response.error_message)
                elif response.infer_response.raw_output_contents:
                    # A string tensor of one element would carry a length; UINT8 is the frame as it is.
                    self._listener.received(self, response.infer_response.raw_output_contents[0])
        finally:
            call.cancel()
