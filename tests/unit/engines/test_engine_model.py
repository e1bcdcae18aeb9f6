"""The Triton model against a stand-in for the python backend's utilities; the real one is an integration test's."""

from __future__ import annotations

import importlib
import json
import queue
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

OUTPUTS = ("output_ids", "sequence_length", "acceptance_rate")


class FakeTensor:
    def __init__(self, name: str, value: np.ndarray) -> None:
        self._name, self._value = name, value

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._value


class FakeError(Exception):
    INVALID_ARG, INTERNAL, CANCELLED = "invalid", "internal", "cancelled"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class FakeRequest:
    def __init__(self, outputs: tuple[str, ...] = OUTPUTS, **tensors: object) -> None:
        self.answers: queue.Queue = queue.Queue()
        self.cancelled = False
        self._outputs = outputs
        self._tensors = [FakeTensor(name, np.asarray(value)) for name, value in tensors.items()]

    def inputs(self) -> list[FakeTensor]:
        return self._tensors

    def requested_output_names(self) -> list[str]:
        return list(self._outputs)

    def get_response_sender(self) -> FakeRequest:
        return self

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: SimpleNamespace, flags: int) -> None:
        assert flags == 1
        self.answers.put(response)

    def answer(self) -> SimpleNamespace:
        response = self.answers.get(timeout=5)
        assert self.answers.empty()
        return response


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    backend = ModuleType("triton_python_backend_utils")
    backend.Tensor = FakeTensor
    backend.TritonError = FakeError
    backend.InferenceResponse = lambda output_tensors=(), error=None: SimpleNamespace(
        tensors={tensor.name(): tensor.as_numpy() for tensor in output_tensors}, error=error
    )
    backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    monkeypatch.delitem(sys.modules, "wanspec.triton.engine_model", raising=False)
    module = importlib.import_module("wanspec.triton.engine_model")
    parameters = {"engine": "zero", "max_draft_len": "4", "exclude_input_in_output": "true", "pace_ms": "2"}
    config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(config), "model_name": "target"})
    yield model
    model.finalize()
    sys.modules.pop("wanspec.triton.engine_model", None)


def request(count: int = 3, **tensors: object) -> FakeRequest:
    ids = np.array([[5, 6, 7]], dtype=np.int32)
    lengths = np.array([[3]], dtype=np.int32)
    return FakeRequest(
        input_ids=ids, input_lengths=lengths, request_output_len=np.array([[count]], np.int32), **tensors
    )


def test_each_request_of_a_batch_gets_its_own_answer(served) -> None:
    good, bad, other = request(), request(0), request(return_perf_metrics=np.array([[True]]))
    assert served.execute([good, bad, other]) is None
    answer = good.answer()
    assert answer.error is None
    assert answer.tensors["output_ids"].shape == (1, 1, 3)
    assert answer.tensors.keys() == {"output_ids", "sequence_length"}
    assert other.answer().tensors.keys() == set(OUTPUTS)
    error = bad.answer().error
    assert (error.code, "request_output_len: is 0" in str(error)) == ("invalid", True)


def test_only_requested_outputs_are_sent(served) -> None:
    asked = FakeRequest(
        ("output_ids", "sequence_length"),
        **{tensor.name(): tensor.as_numpy() for tensor in request(return_perf_metrics=np.array([[True]])).inputs()},
    )
    served.execute([asked])
    assert asked.answer().tensors.keys() == {"output_ids", "sequence_length"}
    refused = FakeRequest(("output_ids",))
    served.execute([refused])
    assert "sequence_length: must be present" in str(refused.answer().error)


def test_a_cancelled_request_is_answered_as_cancelled(served) -> None:
    gone = request(100_000)
    gone.cancelled = True
    served.execute([gone])
    assert gone.answer().error.code == "cancelled"
