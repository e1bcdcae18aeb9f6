"""The Triton model against a stand-in for the python backend's utilities; the real one is an integration test's."""

from __future__ import annotations

import importlib
import json
import queue
import sys
from collections.abc import Callable, Iterator
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


class FakeFamily:
    GAUGE = "gauge"

    def __init__(self, **about: object) -> None:
        self.about = about

    def Metric(self, labels: dict[str, str]) -> SimpleNamespace:  # noqa: N802 - Triton's name
        return SimpleNamespace(set=lambda value: None)


class FakeRequest:
    def __init__(self, outputs: tuple[str, ...] = OUTPUTS, **tensors: object) -> None:
        self.answers: queue.Queue = queue.Queue()
        self.cancelled = False
        self.id = ""
        self._outputs = outputs
        self._tensors = [FakeTensor(name, np.asarray(value)) for name, value in tensors.items()]

    def inputs(self) -> list[FakeTensor]:
        return self._tensors

    def requested_output_names(self) -> list[str]:
        return list(self._outputs)

    def request_id(self) -> str:
        return self.id

    def get_response_sender(self) -> FakeRequest:
        return self

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: SimpleNamespace, flags: int = 0) -> None:
        self.answers.put((response, flags))

    def answer(self) -> SimpleNamespace:
        """The only response."""
        (response,) = self.all_answers()
        return response

    def all_answers(self) -> list[SimpleNamespace]:
        found = []
        while True:
            response, flags = self.answers.get(timeout=5)
            found.append(response)
            if flags:
                assert self.answers.empty()
                return found


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], object]]:
    backend = ModuleType("triton_python_backend_utils")
    backend.Tensor = FakeTensor
    backend.TritonError = FakeError
    backend.InferenceResponse = lambda output_tensors=(), error=None: SimpleNamespace(
        tensors={tensor.name(): tensor.as_numpy() for tensor in output_tensors}, error=error
    )
    backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    backend.MetricFamily = FakeFamily
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    for name in ("engine_model", "engine_metrics"):
        monkeypatch.delitem(sys.modules, f"wanspec.triton.{name}", raising=False)
    module = importlib.import_module("wanspec.triton.engine_model")
    models = []

    def start(decoupled: bool) -> object:
        parameters = {"engine": "zero", "max_draft_len": "4", "exclude_input_in_output": "true", "pace_ms": "2"}
        config = {
            "parameters": {name: {"string_value": value} for name, value in parameters.items()},
            "model_transaction_policy": {"decoupled": decoupled},
        }
        models.append(module.TritonPythonModel())
        models[-1].initialize({"model_config": json.dumps(config), "model_name": "target", "model_version": "1"})
        return models[-1]

    yield start
    for model in models:
        model.finalize()
    sys.modules.pop("wanspec.triton.engine_model", None)


@pytest.fixture
def served(serve) -> object:
    return serve(False)


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


def test_streaming_sends_every_token_once(serve) -> None:
    model = serve(True)
    whole, streamed = request(6), request(6, streaming=np.array([[True]]))
    model.execute([whole, streamed])
    parts = [part.tensors["output_ids"][0, 0].tolist() for part in streamed.all_answers()]
    assert [token for part in parts for token in part] == whole.answer().tensors["output_ids"][0, 0].tolist()
    assert len(parts) == 6


def test_a_batch_and_several_sequences_are_answered_one_by_one(serve) -> None:
    model = serve(True)
    outputs = (*OUTPUTS, "batch_index", "sequence_index")
    batch = FakeRequest(
        outputs,
        input_ids=np.array([[5, 6], [7, 8]], np.int32),
        input_lengths=np.array([[2], [2]], np.int32),
        request_output_len=np.array([[4], [0]], np.int32),
        num_return_sequences=np.array([[2], [1]], np.int32),
    )
    model.execute([batch])
    answers = batch.all_answers()
    found = {
        (answer.tensors["batch_index"].item(), answer.tensors["sequence_index"].item())
        for answer in answers
        if answer.error is None
    }
    assert found == {(0, 0), (0, 1)}
    (refused,) = [answer.error for answer in answers if answer.error is not None]
    assert "request_output_len: is 0" in str(refused)


def test_stop_ends_the_request_of_that_id(served) -> None:
    running, other, stop, nameless = request(100_000), request(20), request(stop=np.array([[True]])), request()
    running.id, other.id, stop.id = "one", "two", "one"
    nameless._tensors.append(FakeTensor("stop", np.array([[True]])))
    served.execute([running, other])
    served.execute([stop, nameless])
    for ended in (stop, running):
        answer = ended.answer()
        assert (answer.error, answer.tensors) == (None, {})
    assert "stop: needs the request_id" in str(nameless.answer().error)
    assert len(other.answer().tensors["output_ids"][0, 0]) == 20
