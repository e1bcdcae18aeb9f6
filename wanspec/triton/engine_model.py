"""The Triton python-backend model ``target`` or ``draft``: TensorRT-LLM's tensors, answered by one of our engines.

``execute`` only hands requests over: the engine batches them itself, between its steps, as TensorRT-LLM's in-flight
batching does. Triton's dynamic batcher would keep requests with drafts and requests without apart, because it batches
only requests that have the same number of inputs.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from wanspec.engines.config import EngineConfig, build_engine
from wanspec.engines.contract import GenerationResult
from wanspec.engines.runner import EngineRunner
from wanspec.engines.tensors import ContractRequest, check_requested_outputs, read_request, write_result
from wanspec.errors import InvalidRequestError, RequestCancelledError, WanspecError
from wanspec.triton.stub import prepare_stub, settle_memory

logger = logging.getLogger(__name__)


class TritonPythonModel:
    """One engine in a thread of its own. Errors are per request."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine that the parameters of config.pbtxt describe (see :class:`EngineConfig`).

        Raises:
            ConfigError: a parameter cannot work.
            ModelError: the model cannot be used.
        """
        prepare_stub()
        entries = json.loads(args["model_config"]).get("parameters", {})
        parameters = {name: str(entry["string_value"]) for name, entry in entries.items()}
        config = EngineConfig.from_parameters(parameters)
        self._exclude_input = parameters.get("exclude_input_in_output", "").lower() == "true"
        started = time.monotonic()
        engine = build_engine(config)
        logger.info("engine %s loaded in %.1f s: %s", args["model_name"], time.monotonic() - started, config)
        self._runner = EngineRunner(engine, args["model_name"])
        settle_memory()

    def execute(self, requests: Sequence[Any]) -> None:
        """Queue requests; each is answered through its response sender."""
        arrival = time.monotonic_ns()
        for request in requests:
            self._submit(request, arrival)

    def finalize(self) -> None:
        """End the engine's thread; requests still running get an error."""
        self._runner.close()

    def _submit(self, request: Any, arrival_ns: int) -> None:
        sender = request.get_response_sender()
        try:
            outputs = frozenset(request.requested_output_names())
            check_requested_outputs(outputs)
            # Copied: the tensors live in shared memory that may go with the request.
            tensors = {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()}
            parsed = read_request(tensors, exclude_input=self._exclude_input, arrival_ns=arrival_ns)
        except WanspecError as error:
            _send(sender, _error(error))
            return

        def done(answer: GenerationResult | WanspecError) -> None:
            if isinstance(answer, WanspecError):
                _send(sender, _error(answer))
            else:
                _send(sender, _response(parsed, answer, outputs))

        self._runner.submit(parsed.generation, done, sender.is_cancelled)


def _send(sender: Any, response: Any) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _response(parsed: ContractRequest, result: GenerationResult, outputs: frozenset[str]) -> Any:
    tensors = write_result(parsed, result)
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, value) for name, value in tensors.items() if name in outputs]
    )


def _error(error: WanspecError) -> Any:
    codes = pb_utils.TritonError
    if isinstance(error, InvalidRequestError):
        code = codes.INVALID_ARG
    else:
        code = codes.CANCELLED if isinstance(error, RequestCancelledError) else codes.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
