"""gRPC to a real Triton over the emulated WAN."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.integration.echo_models import write_model
from tests.unit.timing import in_bounds
from wanspec.network.relay_host import RelayProcess
from wanspec.network.shape import LinkShape
from wanspec.triton.server import TritonServer


def infer_ms(client: grpcclient.InferenceServerClient, timeout_s: float = 5.0) -> float:
    tensor = grpcclient.InferInput("x", [3], "INT32")
    tensor.set_data_from_numpy(np.array([1, 2, 3], np.int32))
    begin = time.perf_counter()
    client.infer("echo", [tensor], client_timeout=timeout_s)
    return (time.perf_counter() - begin) * 1000


def wait_until_it_answers(client: grpcclient.InferenceServerClient) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            infer_ms(client, timeout_s=1.0)
        except InferenceServerException:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def test_round_trip_off_cut_and_a_dead_server(tmp_path: Path) -> None:
    repository = write_model(tmp_path / "models", "echo")
    with TritonServer(repository, log_dir=tmp_path) as server:
        server.wait_ready(60)
        with (
            RelayProcess("127.0.0.1", server.ports.grpc, LinkShape(delay_ms=15)) as relay,
            grpcclient.InferenceServerClient(relay.endpoint) as client,
        ):
            infer_ms(client)
            took: list[float] = []
            while not in_bounds(took, 30, 55):
                took.append(statistics.median(infer_ms(client) for _ in range(10)))

            relay.set(state="off")
            with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
                infer_ms(client, timeout_s=0.3)
            relay.set(state="on")
            wait_until_it_answers(client)

            relay.set(state="cut")
            with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
                infer_ms(client)
            relay.set(state="on")
            wait_until_it_answers(client)

            server.kill()
            with pytest.raises(InferenceServerException):
                infer_ms(client)
            server.restart(0)
            server.wait_ready(60)
            wait_until_it_answers(client)
            assert relay.stats().opened >= 3
        server.stop(0)
