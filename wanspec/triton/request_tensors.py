"""Reads single values of a request's tensors, and says by name what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wanspec.errors import InvalidRequestError

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""By input name, batch dimension included."""

MAX_TEXT_BYTES = 4 << 20


def text(tensors: Tensors, name: str, default: str) -> str:
    """The one string of an input, ``default`` where it is absent.

    Raises:
        InvalidRequestError: it is too long, not UTF-8, or not one value.
    """
    tensor = tensors.get(name)
    return default if tensor is None else decoded(_one(tensor, name), name)


def texts(tensors: Tensors, name: str) -> tuple[str, ...]:
    """All strings of an input, none where it is absent. Raises as :func:`text`."""
    tensor = tensors.get(name)
    return () if tensor is None else tuple(decoded(raw, name) for raw in tensor.reshape(-1))


def whole(tensors: Tensors, name: str, default: Any) -> Any:
    """The one integer (or flag) of an input, ``default`` where it is absent.

    Raises:
        InvalidRequestError: it is not one value.
    """
    tensor = tensors.get(name)
    return default if tensor is None else int(_one(tensor, name))


def number(tensors: Tensors, name: str, default: float) -> float:
    """The one number of an input. Raises as :func:`whole`."""
    tensor = tensors.get(name)
    return default if tensor is None else float(_one(tensor, name))


def decoded(raw: Any, name: str) -> str:
    """One string of the input ``name``.

    Raises:
        InvalidRequestError: it is too long or not UTF-8.
    """
    data = raw if isinstance(raw, bytes) else str(raw).encode()
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidRequestError(name, f"{len(data)} bytes, the limit is {MAX_TEXT_BYTES}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(name, f"is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from None


def _one(tensor: NDArray[np.generic], name: str) -> Any:
    if tensor.size != 1:
        raise InvalidRequestError(name, f"{tensor.size} values, exactly 1 is needed")
    return tensor.reshape(-1)[0]
