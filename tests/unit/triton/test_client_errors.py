"""The client where nobody answers, and what it leaves behind."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from wanspec.errors import BusyError, RequestCancelledError, ServerError, UnavailableError
from wanspec.network.ports import reserve_ports
from wanspec.triton.client import WanspecClient


def test_an_endpoint_that_is_not_there_is_unavailable_however_soon_that_is_known() -> None:
    with reserve_ports(1) as (port,):
        client = WanspecClient(f"127.0.0.1:{port}", timeout_s=20.0)
        assert not client.ready()
        for _ in range(20):
            with pytest.raises(UnavailableError, match="failed to connect"):
                client.ask("x").result()


def test_whoever_waits_can_be_interrupted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pending = WanspecClient(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=20.0).ask("x")
        threading.Timer(0.05, pending.interrupt).start()
        with pytest.raises(RequestCancelledError):
            pending.result()


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers `end` by one whole answer, `fail` by an error, and anything else by a piece and then nothing."""

    def ModelStreamInfer(self, requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            prompt = bytes(request.raw_input_contents[0][4:])
            response = service_pb2.ModelStreamInferResponse()
            if prompt == b"fail":
                response.error_message = "broken"
            if prompt == b"busy":
                response.error_message = "busy: 1 requests are under way; try again later"
            outputs = [("text_output", "BYTES", b"\1\0\0\0x"), ("output_ids", "INT32", b"\1\0\0\0")]
            outputs += [("origins", "UINT8", b"\0"), ("num_input_tokens", "INT32", b"\7\0\0\0")]
            if prompt == b"end":
                outputs.append(("finish_reason", "BYTES", b"\4\0\0\0stop"))
            for name, kind, data in outputs:
                tensor = response.infer_response.outputs.add()
                tensor.name, tensor.datatype = name, kind
                tensor.shape.extend([1, 1])
                response.infer_response.raw_output_contents.append(data)
            yield response


def test_busy_is_known_by_its_code_whatever_else_the_message_says() -> None:
    with serving() as client:
        with pytest.raises(BusyError, match=r"^busy: 1 requests are under way; try again later$"):
            client.ask("busy").result()
        with pytest.raises(ServerError, match="broken") as caught:
            client.ask("fail").result()
        assert not isinstance(caught.value, UnavailableError)


@contextmanager
def serving() -> Iterator[WanspecClient]:
    pool = ThreadPoolExecutor(16)
    server = grpc.server(pool)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Server(), server)
    client = WanspecClient(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", timeout_s=20.0)
    server.start()
    try:
        yield client
    finally:
        server.stop(0).wait()
        pool.shutdown()


def test_no_thread_is_left_of_a_request_however_it_ends() -> None:
    with serving() as client:
        before = others()
        for _ in range(5):
            assert client.ask("end").result().prompt_tokens == 7
            with pytest.raises(ServerError, match="broken"):
                client.ask("fail").result()
            left = client.ask("go on")
            assert next(iter(left)).prompt_tokens == 7
            left.cancel()
        deadline = time.monotonic() + 5.0
        while others() - before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not others() - before


def others() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith("ThreadPoolExecutor")}
