"""The HTTP side: ``infer`` with binary tensors, and ``generate_stream`` where the model is decoupled."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.conformance.server import (
    DTYPES,
    NAMES,
    Call,
    CannotAskError,
    ModelInfo,
    RefusedError,
    Response,
    Running,
    to_numpy,
)
from wanspec.errors import ServerError

HEADER_LENGTH = "Inference-Header-Content-Length"


class HttpServer:
    """A model by HTTP. A decoupled one by ``generate_stream``, whose JSON carries no matrices and no request id."""

    protocol = "http"
    can_cancel = False

    def __init__(
        self, url: str, model: str, parameters: Mapping[str, str] | None = None, timeout_s: float = 10.0
    ) -> None:
        """Connect to ``host:port``; ``parameters`` go with every request.

        Raises:
            ServerError: the server does not answer within ``timeout_s``, or has no such model.
        """
        self._url = url
        self._path = f"/v2/models/{model}"
        self._parameters = dict(parameters or {})
        try:
            about = json.loads(self._get("/v2", timeout_s))
            config = json.loads(self._get(f"{self._path}/config", timeout_s))
        except (RefusedError, ValueError) as error:
            raise ServerError(f"HTTP at {url}, model {model}: {error}") from error
        self.info = ModelInfo(about.get("name", ""), about.get("version", ""), model, config)

    def infer(self, call: Call, started: Callable[[Running], None] | None = None) -> list[Response]:
        """See :class:`~wanspec.conformance.server.Server`."""
        if self.info.decoupled:
            return self._generate(call)
        header, content = _encode(call, self._parameters)
        headers, body = self._call("POST", f"{self._path}/infer", call.timeout_s, header + content, len(header))
        return [Response(_decode(body, int(headers.get(HEADER_LENGTH) or len(body))))]

    def close(self) -> None:
        """Every call has a connection of its own."""

    def _get(self, path: str, timeout_s: float) -> bytes:
        return self._call("GET", path, timeout_s)[1]

    def _call(
        self, method: str, path: str, timeout_s: float, body: bytes | None = None, header_length: int | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self._url, timeout=timeout_s)
        headers = {} if header_length is None else {HEADER_LENGTH: str(header_length)}
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError as error:
            raise RefusedError("DEADLINE_EXCEEDED", f"no answer within {timeout_s:.1f} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"HTTP at {self._url}: {error!r}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise RefusedError(f"HTTP {response.status}", _error(answer))
        return dict(response.getheaders()), answer

    def _generate(self, call: Call) -> list[Response]:
        if call.request_id:
            raise CannotAskError("HTTP generate_stream carries no request id")
        fields: dict[str, Any] = {}
        for name, tensor in call.inputs.items():
            if tensor.shape[0] != 1 or tensor.ndim != 2:
                raise CannotAskError(f"HTTP generate_stream cannot carry {name} of shape {list(tensor.shape)}")
            fields[name] = tensor[0].tolist() if tensor.size != 1 else tensor.item()
        if self._parameters:
            fields["parameters"] = self._parameters
        _, body = self._call("POST", f"{self._path}/generate_stream", call.timeout_s, json.dumps(fields).encode())
        found = []
        for line in body.decode().splitlines():
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                if "error" in event:
                    raise RefusedError("UNKNOWN", str(event["error"]))
                found.append(Response(self._tensors(event, call)))
        return found

    def _tensors(self, event: Mapping[str, Any], call: Call) -> dict[str, NDArray[Any]]:
        """The flat JSON values of an event in the shape of one sequence, those that were asked for."""
        declared = self.info.outputs
        return {
            name: np.asarray(value, dtype=DTYPES[declared[name].dtype]).reshape((1,) * len(declared[name].dims) + (-1,))
            for name, value in event.items()
            if name in declared and name in call.outputs
        }


def _encode(call: Call, parameters: Mapping[str, str]) -> tuple[bytes, bytes]:
    """The JSON header and the tensors' bytes of a request."""
    contents = [np.ascontiguousarray(tensor).tobytes() for tensor in call.inputs.values()]
    inputs = [
        {
            "name": name,
            "shape": list(tensor.shape),
            "datatype": NAMES[tensor.dtype],
            "parameters": {"binary_data_size": len(content)},
        }
        for (name, tensor), content in zip(call.inputs.items(), contents, strict=True)
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in call.outputs]
    request: dict[str, Any] = {"inputs": inputs, "parameters": dict(parameters)}
    request |= {"outputs": outputs} if outputs else {}
    request["parameters"] |= {} if outputs else {"binary_data_output": True}
    request |= {"id": call.request_id} if call.request_id else {}
    return json.dumps(request).encode(), b"".join(contents)


def _decode(body: bytes, header_length: int) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    position = header_length
    for output in json.loads(body[:header_length]).get("outputs", ()):
        size = output["parameters"]["binary_data_size"]
        content = body[position : position + size]
        found[output["name"]] = to_numpy(output["name"], output["datatype"], output["shape"], content)
        position += size
    return found


def _error(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:500]
