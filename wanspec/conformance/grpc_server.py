"""The gRPC side: ``ModelInfer``, and one ``ModelStreamInfer`` a request where the model is decoupled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from wanspec.conformance.server import NAMES, Call, ModelInfo, RefusedError, Response, Running, to_numpy
from wanspec.errors import ServerError
from wanspec.network.tls import Tls, open_channel, why_not

UNLIMITED = ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)


class GrpcServer:
    """A model by gRPC."""

    protocol = "grpc"
    can_cancel = True

    def __init__(
        self,
        url: str,
        model: str,
        parameters: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
        tls: Tls | None = None,
    ) -> None:
        """Connect to ``host:port``; ``parameters`` go with every request.

        Raises:
            ServerError: the server does not answer within ``timeout_s``, or has no such model.
            ConfigError: a file of ``tls`` cannot be used.
        """
        self._model = model
        self._parameters = dict(parameters or {})
        self._channel = open_channel(url, UNLIMITED, tls.credentials() if tls is not None else None)
        self._stub = GRPCInferenceServiceStub(self._channel)
        try:
            about = self._stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=timeout_s, wait_for_ready=True)
            config = self._stub.ModelConfig(pb.ModelConfigRequest(name=model), timeout=timeout_s).config
        except grpc.RpcError as error:
            # Waiting until it is ready, gRPC says only that the time has passed.
            problem = why_not(self._channel) or str(error.details())
            self._channel.close()
            raise ServerError(f"gRPC at {url}, model {model}: {_code(error)}: {problem}") from error
        fields = MessageToDict(config, preserving_proto_field_name=True)
        self.info = ModelInfo(about.name, about.version, model, fields)

    def infer(self, call: Call, started: Callable[[Running], None] | None = None) -> list[Response]:
        """See :class:`~wanspec.conformance.server.Server`."""
        request = self._request(call)
        try:
            if self.info.decoupled:
                return self._stream(request, call.timeout_s, started)
            running = self._stub.ModelInfer.future(request, timeout=call.timeout_s)
            if started is not None:
                started(running)
            return [_response(running.result())]
        except grpc.FutureCancelledError as error:
            raise RefusedError("CANCELLED", "cancelled by this client") from error
        except grpc.RpcError as error:
            raise RefusedError(_code(error), error.details() or "") from error

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _stream(self, request: Any, timeout_s: float, started: Callable[[Running], None] | None) -> list[Response]:
        # Without metadata triton_grpc_error, errors come as text without a code; with it, tritonserver 2.51 crashes at
        # the first error of a decoupled python model.
        running = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
        if started is not None:
            started(running)
        found = []
        for each in running:
            if each.error_message:
                running.cancel()
                raise RefusedError("UNKNOWN", each.error_message)
            found.append(_response(each.infer_response))
        return found

    def _request(self, call: Call) -> Any:
        request = pb.ModelInferRequest(model_name=self._model, id=call.request_id)
        for name, tensor in call.inputs.items():
            request.inputs.add(name=name, datatype=NAMES[tensor.dtype], shape=tensor.shape)
            request.raw_input_contents.append(np.ascontiguousarray(tensor).tobytes())
        for name in call.outputs:
            request.outputs.add(name=name)
        for name, value in self._parameters.items():
            request.parameters[name].string_param = value
        if self.info.decoupled:
            request.parameters["triton_enable_empty_final_response"].bool_param = True
        return request


def _response(response: Any) -> Response:
    tensors = {
        output.name: to_numpy(output.name, output.datatype, output.shape, content)
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    final = response.parameters.get("triton_final_response") if response.parameters else None
    return Response(tensors, None if final is None else bool(final.bool_param))


def _code(error: grpc.RpcError) -> str:
    return str(error.code().name)
