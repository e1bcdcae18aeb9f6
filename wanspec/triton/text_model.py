"""The Triton python-backend models around the engine that turn text into tensors and back, as NVIDIA's clients expect.

Two entries of ``model_repo/compat`` are made from it. Requests are independent: an error is that request's own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from wanspec.errors import WanspecError
from wanspec.triton.parameters import Parameters
from wanspec.triton.request_tensors import Tensors
from wanspec.triton.stub import prepare_stub, settle_memory

try:
    import triton_python_backend_utils as pb_utils
except ImportError:  # outside Triton's stub; only what runs inside it calls
    pb_utils = None

logger = logging.getLogger(__name__)


class Processor(Protocol):
    """What a model does."""

    def outputs(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Outputs for inputs, both by name."""
        ...


class TextModel:
    """A model without state. Subclasses make its processor."""

    def make(self, parameters: Parameters) -> Processor:
        """Make the processor that the parameters of config.pbtxt describe."""
        raise NotImplementedError

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the tokenizer.

        Raises:
            ConfigError: a parameter is missing.
            ModelError: the model folder is unusable.
        """
        prepare_stub()
        self._processor = self.make(Parameters.of(args))
        settle_memory()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            outputs = self._processor.outputs({tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
        except WanspecError as error:
            return _error(str(error), "INVALID_ARG")
        except Exception as error:  # a fault of ours must not reach the other requests of this call
            logger.exception("a request failed")
            return _error(f"{type(error).__name__}: {error}", "INTERNAL")
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])


def _error(message: str, code: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))
