"""The link's transport against a gRPC server of the test's own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from wanspec.network import link
from wanspec.network.link import LinkClient, LinkConnection, LinkTarget

LIMIT_S = 30.0


class Echo(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers each frame with itself; ``end`` ends the stream, ``refuse`` is an error of the link's request."""

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            (frame,) = request.raw_input_contents
            if frame == b"end":
                return
            response = service_pb2.ModelStreamInferResponse()
            response.infer_response.id = request.id
            if frame == b"refuse":
                response.error_message = "no such model"
            elif frame != b"empty":
                response.infer_response.raw_output_contents.append(frame)
            yield response


class Listener:
    """Keeps what it is told, with the connection."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[tuple[LinkConnection, str | bytes]] = queue.SimpleQueue()

    def connected(self, connection: LinkConnection) -> None:
        self.told.put((connection, "connected"))

    def received(self, connection: LinkConnection, data: bytes) -> None:
        self.told.put((connection, data))

    def disconnected(self, connection: LinkConnection, reason: str) -> None:
        self.told.put((connection, f"down: {reason}"))

    def next(self) -> str | bytes:
        return self.told.get(timeout=LIMIT_S)[1]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Echo(), server)
    number = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield number
    server.stop(None)


@pytest.fixture
def opened(port: int) -> Iterator[tuple[LinkClient, Listener]]:
    listener = Listener()
    client = LinkClient(LinkTarget(f"127.0.0.1:{port}"), listener)
    client.connect()
    assert listener.next() == "connected"
    yield client, listener
    connection = client.close()
    if connection is not None:
        connection.join(LIMIT_S)


def test_frames_arrive_in_order_and_what_carries_none_is_left_out(opened: tuple[LinkClient, Listener]) -> None:
    client, listener = opened
    client.send(b"first", opening=True)
    client.send(b"empty")
    for number in range(50):
        client.send(bytes([number]))
    assert [listener.next() for _ in range(51)] == [b"first", *(bytes([number]) for number in range(50))]


def test_a_stream_that_the_worker_ends_is_told_once(opened: tuple[LinkClient, Listener]) -> None:
    client, listener = opened
    connection = client.connection
    assert connection is not None
    client.send(b"end")
    assert listener.next() == "down: closed by the worker"
    connection.join(LIMIT_S)
    client.send(b"late")
    assert listener.told.empty()


def test_an_error_of_the_links_own_request_ends_it(opened: tuple[LinkClient, Listener]) -> None:
    client, listener = opened
    client.send(b"refuse", opening=True)
    assert listener.next() == "down: no such model"


def test_what_is_closed_says_no_more_and_another_connection_is_told_apart(
    opened: tuple[LinkClient, Listener],
) -> None:
    client, listener = opened
    first = client.connection
    client.connect()
    assert first is not None
    first.join(LIMIT_S)
    second, what = listener.told.get(timeout=LIMIT_S)
    assert (what, second is client.connection, second is first) == ("connected", True, False)
    client.send(b"again", opening=True)
    assert listener.told.get(timeout=LIMIT_S) == (second, b"again")
    assert client.close() is second
    assert client.close() is None
    second.join(LIMIT_S)
    assert listener.told.empty()


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", 0.05)
    listener = Listener()
    client = LinkClient(LinkTarget("127.0.0.1:1"), listener)
    client.connect()
    said = str(listener.next())
    assert said.startswith("down: 127.0.0.1:1 did not answer within 0.05 s: ")
    assert said.endswith("Connection refused")


def test_what_is_closed_while_it_connects_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", LIMIT_S)
    listener = Listener()
    client = LinkClient(LinkTarget("127.0.0.1:1"), listener)
    client.connect()
    time.sleep(0.05)
    connection = client.close()
    assert connection is not None
    connection.join(LIMIT_S / 2)
    assert "wanspec-link 127.0.0.1:1" not in {thread.name for thread in threading.enumerate()}
    assert listener.told.empty()
