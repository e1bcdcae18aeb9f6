"""The Triton python-backend model ``target`` or ``draft``: TensorRT-LLM's tensors, answered by one of our engines."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from wanspec.engines.config import EngineConfig, build_engine
from wanspec.engines.contract import GenerationResult
from wanspec.engines.tensors import ContractRequest, check_requested_outputs, read_request, write_result
from wanspec.errors import InvalidRequestError, WanspecError

logger = logging.getLogger(__name__)


class TritonPythonModel:
    """One engine; all requests of one ``execute`` are one batch. Errors are per request."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine that the parameters of config.pbtxt describe (see :class:`EngineConfig`).

        Raises:
            ConfigError: a parameter cannot work.
            ModelError: the model cannot be used.
        """
        model_config = json.loads(args["model_config"])
        entries = model_config.get("parameters", {})
        parameters = {name: str(entry["string_value"]) for name, entry in entries.items()}
        config = EngineConfig.from_parameters(parameters)
        self._exclude_input = parameters.get("exclude_input_in_output", "").lower() == "true"
        started = time.monotonic()
        self._engine = build_engine(config)
        logger.info("engine %s loaded in %.1f s: %s", args["model_name"], time.monotonic() - started, config)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests, each by its own result or error."""
        arrival = time.monotonic_ns()
        parsed = [self._read(request, arrival) for request in requests]
        good = [entry for entry in parsed if isinstance(entry, ContractRequest)]
        results = iter(self._engine.generate([entry.generation for entry in good]))
        return [
            _response(request, entry, next(results)) if isinstance(entry, ContractRequest) else _error(entry)
            for request, entry in zip(requests, parsed, strict=True)
        ]

    def finalize(self) -> None:
        """Drop the engine's memory before Triton unloads the model."""
        del self._engine

    def _read(self, request: Any, arrival_ns: int) -> ContractRequest | WanspecError:
        try:
            check_requested_outputs(request.requested_output_names())
            tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            return read_request(tensors, exclude_input=self._exclude_input, arrival_ns=arrival_ns)
        except WanspecError as error:
            return error


def _response(request: Any, parsed: ContractRequest, result: GenerationResult | WanspecError) -> Any:
    if isinstance(result, WanspecError):
        return _error(result)
    wanted = set(request.requested_output_names())
    tensors = write_result(parsed, result)
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, value) for name, value in tensors.items() if name in wanted]
    )


def _error(error: WanspecError) -> Any:
    code = pb_utils.TritonError.INVALID_ARG if isinstance(error, InvalidRequestError) else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
