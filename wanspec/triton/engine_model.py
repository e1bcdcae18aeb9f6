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
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

from wanspec.engines.config import EngineConfig, build_engine
from wanspec.engines.contract import GenerationResult
from wanspec.engines.inputs import ContractRequest, read_requests, stop_requested
from wanspec.engines.runner import EngineRunner
from wanspec.engines.shared_gpu import SharedGpu
from wanspec.engines.tensors import check_requested_outputs, write_result
from wanspec.errors import InvalidRequestError, RequestCancelledError, RequestStoppedError, WanspecError
from wanspec.triton.engine_metrics import EngineMetrics
from wanspec.triton.stub import prepare_stub, settle_memory

logger = logging.getLogger(__name__)

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One engine in a thread of its own. Errors are per request."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine that the parameters of config.pbtxt describe (see :class:`EngineConfig`).

        Raises:
            ConfigError: a parameter cannot work.
            ModelError: the model cannot be used.
        """
        prepare_stub()
        model_config = json.loads(args["model_config"])
        entries = model_config.get("parameters", {})
        self._decoupled = bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))
        parameters = {name: str(entry["string_value"]) for name, entry in entries.items()}
        config = EngineConfig.from_parameters(parameters)
        self._exclude_input = parameters.get("exclude_input_in_output", "").lower() == "true"
        started = time.monotonic()
        engine = build_engine(config)
        logger.info("engine %s loaded in %.1f s: %s", args["model_name"], time.monotonic() - started, config)
        gpu = SharedGpu(config.shared_gpu, args["model_name"]) if config.shared_gpu else None
        self._runner = EngineRunner(engine, args["model_name"], gpu=gpu)
        self._metrics = EngineMetrics(args, lambda: self._runner.load)
        settle_memory()

    def execute(self, requests: Sequence[Any]) -> None:
        """Queue requests; each is answered through its response sender."""
        arrival = time.monotonic_ns()
        for request in requests:
            self._submit(request, arrival)

    def finalize(self) -> None:
        """End the engine's thread; requests still running get an error."""
        self._metrics.close()
        self._runner.close()

    def _submit(self, request: Any, arrival_ns: int) -> None:
        sender = request.get_response_sender()
        try:
            # Copied: the tensors live in shared memory that may go with the request.
            tensors = {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()}
            if stop_requested(tensors):
                self._stop(request.request_id())
                sender.send(pb_utils.InferenceResponse(output_tensors=[]), flags=_FINAL)
                return
            outputs = frozenset(request.requested_output_names())
            check_requested_outputs(outputs)
            parsed = read_requests(
                tensors, exclude_input=self._exclude_input, decoupled=self._decoupled, arrival_ns=arrival_ns
            )
        except WanspecError as error:
            sender.send(_error(error), flags=_FINAL)
            return
        answers = _Answers(sender, outputs, len(parsed))
        for entry in parsed:
            self._runner.submit(
                entry.generation,
                partial(answers.end, entry),
                sender.is_cancelled,
                on_tokens=partial(answers.tokens, entry) if entry.streaming else None,
                name=request.request_id(),
            )

    def _stop(self, request_id: str) -> None:
        if not request_id:
            raise InvalidRequestError("stop", "needs the request_id of the request to stop: this one has none")
        self._runner.stop(request_id)


class _Answers:
    """The responses of one Triton request; the last one ends it. Called by one thread at a time."""

    def __init__(self, sender: Any, outputs: frozenset[str], pending: int) -> None:
        self._sender, self._outputs, self._pending = sender, outputs, pending

    def tokens(self, request: ContractRequest, result: GenerationResult) -> None:
        """Send new tokens of a request that goes on."""
        self._sender.send(_response(request, result, self._outputs))

    def end(self, request: ContractRequest, answer: GenerationResult | WanspecError) -> None:
        """Send what ends a request."""
        self._pending -= 1
        if isinstance(answer, GenerationResult):
            response = _response(request, answer, self._outputs)
        elif isinstance(answer, RequestStoppedError):
            response = pb_utils.InferenceResponse(output_tensors=[])
        else:
            response = _error(answer)
        self._sender.send(response, flags=0 if self._pending else _FINAL)


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
