"""Triton's BLS without Triton: requests to models of this process, which speak the contract as ``engine_model`` does.

Types, and which inputs must be there, are those of the model's own config.pbtxt.
"""

from __future__ import annotations

import queue
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from wanspec.engines.contract import GenerationEngine, GenerationResult
from wanspec.engines.inputs import read_requests, stop_requested
from wanspec.engines.runner import EngineRunner
from wanspec.engines.tensors import check_requested_outputs, write_result
from wanspec.errors import RequestStoppedError, WanspecError

LIMIT_S = 60.0
CONFIG = (Path(__file__).parents[3] / "model_repo" / "controller" / "target" / "config.pbtxt").read_text()
DTYPES = {"TYPE_INT32": np.int32, "TYPE_FP32": np.float32, "TYPE_BOOL": np.bool_, "TYPE_UINT64": np.uint64}
INPUTS = {
    name: (dtype, "optional: true" in rest)
    for name, dtype, rest in re.findall(r'name: "(\w+)" data_type: (\w+)([^\n]*)', CONFIG.partition("output [")[0])
}


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class Response:
    def __init__(self, tensors: dict[str, np.ndarray], error: str = "") -> None:
        self._tensors, self._error = tensors, error

    def has_error(self) -> bool:
        return bool(self._error)

    def error(self) -> Any:
        return SimpleNamespace(message=lambda: self._error)

    def output_tensors(self) -> list[Tensor]:
        return [Tensor(name, value) for name, value in self._tensors.items()]


class Bls:
    """Stands for ``pb_utils``. ``requests`` has the tensors of every request, with its id and model, in order."""

    Tensor = Tensor

    def __init__(self, *, decoupled: bool = False, **engines: GenerationEngine) -> None:
        self.decoupled = decoupled
        self.requests: list[tuple[str, str, dict[str, np.ndarray]]] = []
        self._runners = {name: EngineRunner(engine, name) for name, engine in engines.items()}
        self.InferenceRequest = self._request

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()

    def sent(self, model: str, name: str) -> list[np.ndarray]:
        """The tensors of this name that a model was sent."""
        return [tensors[name] for _, to, tensors in self.requests if to == model and name in tensors]

    def _request(self, *, request_id: str, model_name: str, inputs, requested_output_names, timeout: int) -> Any:
        assert timeout > 0, "nothing waits without a deadline"
        tensors = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        self.requests.append((request_id, model_name, tensors))

        def execute(decoupled: bool = False) -> Any:
            answers = self._execute(request_id, model_name, tensors, frozenset(requested_output_names))
            if decoupled:
                return iter([*answers, Response({})])
            assert not self.decoupled, f"{model_name} is using the decoupled"
            (answer,) = answers
            return answer

        return SimpleNamespace(exec=execute)

    def _execute(
        self, name: str, model: str, tensors: dict[str, np.ndarray], outputs: frozenset[str]
    ) -> list[Response]:
        for key, (dtype, optional) in INPUTS.items():
            assert key in tensors or optional, f"{key} is required"
            if key in tensors:
                assert tensors[key].dtype == DTYPES[dtype], f"{key} is {tensors[key].dtype}, and must be {dtype}"
        assert tensors.keys() <= INPUTS.keys()
        runner = self._runners[model]
        try:
            if stop_requested(tensors):
                assert name, "stop needs a request id"
                runner.stop(name)
                return [Response({})]
            check_requested_outputs(outputs)
            (parsed,) = read_requests(tensors, decoupled=self.decoupled)
        except WanspecError as error:
            return [Response({}, str(error))]
        answers: queue.SimpleQueue[GenerationResult | WanspecError] = queue.SimpleQueue()
        runner.submit(parsed.generation, answers.put, name=name)
        answer = answers.get(timeout=LIMIT_S)
        if isinstance(answer, RequestStoppedError):
            return [Response({})]
        if isinstance(answer, WanspecError):
            return [Response({}, str(answer))]
        written = write_result(parsed, answer)
        return [Response({key: value for key, value in written.items() if key in outputs})]
