"""A client of the ``wanspec`` model over gRPC streams. For the CLI, benchmarks and tests."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from wanspec.errors import (
    BusyError,
    DeadlineError,
    InvalidRequestError,
    RequestCancelledError,
    ServerError,
    UnavailableError,
)
from wanspec.network.tls import Tls, explained
from wanspec.telemetry.context import TRACEPARENT
from wanspec.triton.client_answer import Answer, Piece, text_of
from wanspec.triton.connection import Connection
from wanspec.triton.endpoint import INPUTS

__all__ = ["Answer", "Pending", "Piece", "WanspecClient"]

MODEL = "wanspec"
DEFAULT_URL = "127.0.0.1:8001"
TIMEOUT_S = 120.0
PASSED = "ms have passed"
LATER = ("StatusCode.UNAVAILABLE", "StatusCode.RESOURCE_EXHAUSTED")
_PROBE_S = 10.0

Prompt: TypeAlias = str | bytes | Sequence[int] | Sequence[Mapping[str, str]]
"""Text, token ids, or the messages of a conversation."""


class Pending:
    """A request under way, on a stream of its own: iterate for its pieces, then read ``answer``."""

    def __init__(
        self,
        url: str,
        model: str,
        inputs: list[Any],
        timeout_s: float,
        credentials: Any = None,
        traceparent: str = "",
    ) -> None:
        self.answer = Answer()
        self._url = url
        self._timeout_s = timeout_s
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._client = Connection(url, credentials)
        headers = {TRACEPARENT: traceparent} if traceparent else None
        self._client.start_stream(
            lambda result, error: self._results.put(result if error is None else error), headers=headers
        )
        try:
            self._client.async_stream_infer(model, inputs)
        except InferenceServerException as error:
            # The stream has broken already: once its thread has ended, why is known.
            self._client.stop_stream(cancel_requests=True)
            self._results.put(error)

    def __iter__(self) -> Iterator[Piece]:
        """Yield pieces as they come.

        Raises:
            InvalidRequestError: the server refused the request.
            UnavailableError: the server takes no request now, or cannot be reached.
            DeadlineError: nothing came within the timeout, or the request's own deadline has passed.
            ServerError: it failed.
            RequestCancelledError: :meth:`interrupt` was called.
        """
        try:
            while not self.answer.finish_reason:
                yield self.answer.add(self.take())
        finally:
            self.cancel()

    def result(self) -> Answer:
        """Wait for the whole answer. Raises as iteration does."""
        for _ in self:
            pass
        return self.answer

    def cancel(self) -> None:
        """Close the stream: a request still under way ends in both regions."""
        self._client.close()

    def interrupt(self) -> None:
        """Make whoever iterates cancel the request and raise. From any thread; returns at once."""
        self._results.put(RequestCancelledError("the request was cancelled"))

    def take(self) -> Any:
        """Wait for the next response. Raises as iteration does, which nobody may do at the same time."""
        try:
            outcome = self._results.get(timeout=self._timeout_s)
        except queue.Empty:
            raise DeadlineError(f"{self._url}: no answer within {self._timeout_s:g} s") from None
        if isinstance(outcome, RequestCancelledError):
            raise outcome
        if isinstance(outcome, InferenceServerException):
            raise _as_error(self._url, outcome)
        return outcome


class WanspecClient:
    """Asks one endpoint. From any thread."""

    def __init__(self, url: str, *, model: str = MODEL, timeout_s: float = TIMEOUT_S, tls: Tls | None = None) -> None:
        """``url``: ``host:port`` of gRPC. ``timeout_s``: longest silence of a request under way. ``tls``: or plaintext.

        Raises:
            ConfigError: a file of ``tls`` cannot be used.
        """
        self._url = url
        self._credentials = tls.credentials() if tls is not None else None
        self._model = model
        self._timeout_s = timeout_s

    def ask(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        stream: bool = True,
        chat: bool | None = None,
        conversation_id: str | None = None,
        exclude_input_in_output: bool | None = None,
        end_id: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        min_tokens: int | None = None,
        stop_words: Sequence[str] = (),
        bad_words: Sequence[str] = (),
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        logit_bias: Mapping[int, float] | None = None,
        policy: str | None = None,
        policy_parameters: Mapping[str, Any] | None = None,
        num_draft_tokens: int | None = None,
        deadline_ms: float | None = None,
        return_log_probs: bool = False,
        return_perf_metrics: bool = False,
        summary: bool = True,
        event_log: bool = False,
        traceparent: str = "",
    ) -> Pending:
        """Send a request; the arguments are the model's inputs (``docs/endpoint.md``).

        ``traceparent`` is none: it names the span that the request is part of (``docs/traces.md``).
        """
        inputs = []
        if isinstance(prompt, (str, bytes)):
            inputs.append(_input("text_input", "BYTES", prompt.encode() if isinstance(prompt, str) else prompt))
        elif prompt and isinstance(prompt[0], Mapping):
            inputs.append(_input("messages", "BYTES", json.dumps(prompt).encode()))
        else:
            inputs.append(_input("input_ids", "INT32", *prompt))
        options: list[tuple[str, str, Any]] = [
            ("max_tokens", "INT32", max_tokens),
            ("stream", "BOOL", stream),
            ("chat", "BOOL", chat),
            ("conversation_id", "BYTES", None if conversation_id is None else conversation_id.encode()),
            ("exclude_input_in_output", "BOOL", exclude_input_in_output),
            ("end_id", "INT32", end_id),
            ("temperature", "FP32", temperature),
            ("top_k", "INT32", top_k),
            ("top_p", "FP32", top_p),
            ("seed", "UINT64", seed),
            ("min_tokens", "INT32", min_tokens),
            ("repetition_penalty", "FP32", repetition_penalty),
            ("presence_penalty", "FP32", presence_penalty),
            ("frequency_penalty", "FP32", frequency_penalty),
            ("logit_bias", "BYTES", json.dumps(dict(logit_bias)).encode() if logit_bias else None),
            ("policy", "BYTES", None if policy is None else policy.encode()),
            ("policy_parameters", "BYTES", json.dumps(policy_parameters).encode() if policy_parameters else None),
            ("num_draft_tokens", "INT32", num_draft_tokens),
            ("deadline_ms", "FP32", deadline_ms),
            ("return_log_probs", "BOOL", return_log_probs),
            ("return_perf_metrics", "BOOL", return_perf_metrics),
            ("return_summary", "BOOL", summary),
            ("return_event_log", "BOOL", event_log),
        ]
        inputs += [_input(name, kind, value) for name, kind, value in options if value is not None]
        for name, words in (("stop_words", stop_words), ("bad_words", bad_words)):
            if words:
                inputs.append(_input(name, "BYTES", *(word.encode() for word in words)))
        return Pending(self._url, self._model, inputs, self._timeout_s, self._credentials, traceparent)

    def parameters(self) -> dict[str, str]:
        """Return the endpoint's own settings.

        Raises:
            ServerError: the endpoint cannot be reached, or does not serve the model.
        """
        found = self._probe(lambda client: client.get_model_config(self._model, as_json=True, client_timeout=_PROBE_S))
        config = found["config"]
        return {name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()}

    def ready(self) -> bool:
        """Whether the endpoint can be reached and serves the model."""
        client = Connection(self._url, self._credentials)
        try:
            return bool(client.is_model_ready(self._model, client_timeout=_PROBE_S))
        except InferenceServerException:
            return False
        finally:
            client.close()

    def models(self) -> list[str]:
        """Return the models of the endpoint's repository, loaded or not.

        Raises:
            ServerError: the endpoint cannot be reached.
        """
        index = self._probe(lambda client: client.get_model_repository_index(as_json=True, client_timeout=_PROBE_S))
        return [str(model["name"]) for model in index.get("models", [])]

    def control(self, changes: Mapping[str, Any] | None = None, token: str = "") -> dict[str, Any]:
        """Set switches (``docs/operations.md``), or none; return the state. Raises as :class:`Pending` does."""
        given = {**(changes or {}), **({"token": token} if token else {})}
        inputs = [_input("control", "BYTES", json.dumps(given).encode())]
        pending = Pending(self._url, self._model, inputs, _PROBE_S, self._credentials)
        try:
            state: dict[str, Any] = json.loads(text_of(pending.take(), "state"))
            return state
        finally:
            pending.cancel()

    def _probe(self, call: Callable[[Connection], Any]) -> Any:
        client = Connection(self._url, self._credentials)
        try:
            return call(client)
        except InferenceServerException as error:
            raise ServerError(f"{self._url}: {explained(str(error.message()))}") from error
        finally:
            client.close()


def _as_error(url: str, error: InferenceServerException) -> Exception:
    message = explained(str(error.message()))
    name, _, problem = message.partition(": ")
    if name == BusyError.CODE:
        return BusyError(problem)
    if name.split(".")[0] in INPUTS and problem and not problem.endswith(PASSED):
        return InvalidRequestError(name, problem)
    if message.endswith(PASSED):
        return DeadlineError(f"{url}: {message}")
    if error.status() in LATER:
        return UnavailableError(f"{url}: {message}")
    return ServerError(f"{url}: {message}")


def _input(name: str, kind: str, *values: Any) -> Any:
    dtype = {"BYTES": np.object_, "INT32": np.int32, "BOOL": np.bool_, "FP32": np.float32, "UINT64": np.uint64}[kind]
    array = np.array([values], dtype=dtype)
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor
