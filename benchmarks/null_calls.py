"""The least that a round can cost here: a BLS call to a model that does nothing, and a round trip through the relay."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wanspec.network.relay_host import RelayProcess
from wanspec.triton.server import TritonServer

_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input [{{ name: "x" data_type: TYPE_INT32 dims: [-1] }}]
output [{{ name: "x" data_type: {kind} dims: [-1] }}]
"""
_NULL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.get_input_tensor_by_name(request, "x")]) for request in requests]
"""
_CALLER = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self._serve(int(pb_utils.get_input_tensor_by_name(r, "x").as_numpy()[0])) for r in requests]

    def _serve(self, count):
        times = np.empty(count)
        for index in range(count):
            began = time.perf_counter()
            tensor = pb_utils.Tensor("x", np.zeros(8, dtype=np.int32))
            pb_utils.InferenceRequest(model_name="null", inputs=[tensor], requested_output_names=["x"]).exec()
            times[index] = 1e3 * (time.perf_counter() - began)
        return pb_utils.InferenceResponse([pb_utils.Tensor("x", times)])
"""
_FRAME = b"x" * 64


class NullServer:
    """A Triton with two python models: one that does nothing, and one that calls it."""

    def __init__(self, folder: Path) -> None:
        """``folder``: empty, for the repository."""
        for name, kind, source in (("null", "TYPE_INT32", _NULL), ("caller", "TYPE_FP64", _CALLER)):
            (folder / name / "1").mkdir(parents=True)
            (folder / name / "config.pbtxt").write_text(_CONFIG.format(name=name, kind=kind))
            (folder / name / "1" / "model.py").write_text(source)
        self.server = TritonServer(folder, name="null", stages=[["null"], ["caller"]])

    def call_ms(self, count: int) -> list[float]:
        """Time so many BLS calls, one after the other."""
        inputs = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [count]}]}
        url = f"http://127.0.0.1:{self.server.ports.http}/v2/models/caller/infer"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(inputs).encode()), timeout=60) as answer:
            times: list[float] = json.load(answer)["outputs"][0]["data"]
        return times


@contextmanager
def null_relay() -> Iterator[socket.socket]:
    """A connection through a relay without delay, to a peer that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_echo, args=(listener,), name="echo", daemon=True).start()
        relay = RelayProcess("127.0.0.1", listener.getsockname()[1])
        with relay, socket.create_connection(("127.0.0.1", relay.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection


def relay_ms(connection: socket.socket, count: int) -> list[float]:
    """Time so many round trips of a small frame."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        connection.sendall(_FRAME)
        left = len(_FRAME)
        while left:
            left -= len(connection.recv(left))
        times.append(1e3 * (time.perf_counter() - began))
    return times


def _echo(listener: socket.socket) -> None:
    with suppress(OSError):
        peer, _ = listener.accept()
        with peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := peer.recv(65536):
                peer.sendall(data)
