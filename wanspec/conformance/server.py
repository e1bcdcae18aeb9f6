"""A server under test, whatever the protocol: tensors in, the tensors of each response out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wanspec.errors import ServerError, WanspecError

Tensors: TypeAlias = Mapping[str, NDArray[Any]]

DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
}
"""Triton's names of the types that the contract uses, without strings."""
NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}

NOT_ANSWERS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
"""Status of a call that says nothing about the request."""


class RefusedError(WanspecError):
    """The server answered with an error. ``code``: gRPC's name of the status, or ``HTTP <status>``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class CannotAskError(WanspecError):
    """A request that the protocol has no way to send."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        inputs: tensors by name, batch dimension included.
        outputs: names asked for; empty for all.
        request_id: empty for none.
        timeout_s: deadline of the last response.
    """

    inputs: Tensors
    outputs: Sequence[str]
    request_id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Response:
    """One response: its tensors, and whether it was marked the last (None where the protocol does not say)."""

    tensors: Tensors
    final: bool | None = None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A declared tensor: Triton's type name without ``TYPE_``, dims without the batch, whether it may be left out."""

    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server says of itself and of its model.

    Attributes:
        server, server_version: of the server's metadata.
        model: its name.
        config: the model's configuration, as Triton's JSON.
    """

    server: str
    server_version: str
    model: str
    config: Mapping[str, Any] = field(repr=False)

    @property
    def decoupled(self) -> bool:
        """Whether the model may send any number of responses."""
        return bool(self.config.get("model_transaction_policy", {}).get("decoupled", False))

    @property
    def parameters(self) -> dict[str, str]:
        """Parameters of the model's configuration."""
        return {name: str(entry.get("string_value", "")) for name, entry in self.config.get("parameters", {}).items()}

    @property
    def inputs(self) -> dict[str, TensorInfo]:
        """Declared inputs by name."""
        return _tensors(self.config.get("input", ()))

    @property
    def outputs(self) -> dict[str, TensorInfo]:
        """Declared outputs by name."""
        return _tensors(self.config.get("output", ()))


def _tensors(entries: Sequence[Mapping[str, Any]]) -> dict[str, TensorInfo]:
    return {
        entry["name"]: TensorInfo(
            entry["data_type"].removeprefix("TYPE_"),
            tuple(int(size) for size in entry.get("dims", ())),
            bool(entry.get("optional", False)),
        )
        for entry in entries
    }


class Running(Protocol):
    """A call in flight."""

    def cancel(self) -> None:
        """Cancel it, as a client that no longer wants the answer."""
        ...


class Server(Protocol):
    """A model of a server, by one protocol. Any thread may call."""

    @property
    def protocol(self) -> str:
        """``grpc`` or ``http``."""
        ...

    @property
    def info(self) -> ModelInfo:
        """Read once, when connecting."""
        ...

    @property
    def can_cancel(self) -> bool:
        """Whether a call in flight can be cancelled."""
        ...

    def infer(self, call: Call, started: Callable[[Running], None] | None = None) -> list[Response]:
        """Send a request and return all its responses; ``started`` gets the call in flight, where it can be cancelled.

        Raises:
            RefusedError: the server answered with an error, or not in time.
            CannotAskError: the protocol cannot carry it.
            ServerError: the server cannot be reached, or its answer cannot be read.
        """
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def to_numpy(name: str, dtype: str, shape: Sequence[int], content: bytes) -> NDArray[Any]:
    """A tensor from its bytes.

    Raises:
        ServerError: a type that the contract does not use, or bytes that do not fit the shape.
    """
    if dtype not in DTYPES:
        raise ServerError(f"output {name}: has type {dtype}, which the contract does not use")
    try:
        return np.frombuffer(content, dtype=DTYPES[dtype]).reshape([int(size) for size in shape])
    except ValueError as error:
        raise ServerError(f"output {name}: its bytes do not fit shape {list(shape)}: {error}") from error
