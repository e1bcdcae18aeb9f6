"""The Triton model ``wanspec``: the endpoint. BLS, decoupled. Loaded by ``model.py`` in the repository.

``execute`` reads the tensors and gives the request to the controller, on Triton's thread; engine calls (BLS) block
threads of their own, since Triton's ``async_exec`` shares a default pool of a few.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from wanspec.core.config import DEFAULT_POLICY, ControllerConfig, Fingerprint, SamplingMode
from wanspec.core.control import Control
from wanspec.core.costs import CostModel
from wanspec.core.events import Finished
from wanspec.core.policies import make_policy
from wanspec.core.tree import Origin
from wanspec.engines.stored_costs import costs_or_none, describe_model
from wanspec.errors import ConfigError, InvalidRequestError, WanspecError
from wanspec.models import check_pair, fingerprint
from wanspec.network.link import LinkTarget
from wanspec.network.tls import tls_of
from wanspec.telemetry.metrics import ControllerMetrics
from wanspec.telemetry.tracing import RequestTrace, RequestTracer
from wanspec.triton.answers import AnswerTensors
from wanspec.triton.auth import read_token
from wanspec.triton.control import CONTROL, STATE, read_control
from wanspec.triton.controller_body import ControllerBody
from wanspec.triton.endpoint import INPUTS, Asked, Defaults, read_request
from wanspec.triton.parameters import Parameters
from wanspec.triton.regions import WORKER_TLS
from wanspec.triton.request_options import refuse_options
from wanspec.triton.stub import prepare_stub, settle_memory
from wanspec.triton.tensorrt_llm.engines import BlsEngines
from wanspec.triton.text import TextCodec
from wanspec.triton.traces import read_trace_settings, trace_context

try:
    import triton_python_backend_utils as pb_utils
except ImportError:  # outside Triton's stub; only what runs inside it calls
    pb_utils = None

logger = logging.getLogger(__name__)

_CA, _CERTIFICATE, _KEY = (f"wanspec: parameters.{name}" for name in WORKER_TLS)
_CODES = {"refused": "INVALID_ARG", "busy": "UNAVAILABLE"}
"""Of Triton's errors, by the reason of an end."""


class TritonPythonModel:
    """What Triton's python backend loads."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the tokenizer, start the controller and its links.

        Raises:
            WanspecError: a parameter is unusable, or target and local draft do not share a tokenizer.
        """
        prepare_stub()
        parameters = Parameters.of(args)
        target = Path(parameters.text("target_dir"))
        draft = parameters.text("draft_dir", "")
        if draft:
            check_pair(target, draft)
        mine = fingerprint(target)
        self._codec = TextCodec(target)
        links = _links(parameters)
        config = ControllerConfig(
            Fingerprint(mine.tokenizer, mine.vocab_size, target.name),
            links=len(links),
            streams=_streams(parameters),
            auth_token=read_token(parameters.text("auth_token_file", "")),
            context=parameters.whole("context", minimum=2),
            max_sequences=parameters.whole("max_sequences", 0) or None,
            max_reserved_tokens=parameters.whole("max_reserved_tokens", 0) or None,
            max_queue=parameters.whole("max_queue", 0) if parameters.text("max_queue", "") else None,
            max_draft=parameters.whole("max_draft_len", 32),
            local_draft=bool(parameters.text("draft_model", "")),
            engine_ms=parameters.number("engine_timeout_ms", 60_000.0, minimum=1.0),
            sampling=_sampling_mode(parameters),
            verify_costs=_costs(parameters, "verify_costs_file", "target", str(target)),
            draft_costs=_costs(parameters, "draft_costs_file", "draft", draft),
        )
        self._defaults = _defaults(parameters, config.context)
        traces = read_trace_settings(parameters)
        engines = BlsEngines(
            parameters.text("target_model", "target"),
            parameters.text("draft_model", ""),
            parameters.whole("padded_vocab_size", 0) or mine.vocab_size,
            mine.vocab_size,
            config.sampling,
            decoupled=parameters.text("engines_decoupled", "false") == "true",
            draft_columns=fingerprint(Path(draft)).vocab_size if draft else 0,
        )
        log = parameters.text("event_log", "")
        self._metrics = ControllerMetrics(pb_utils)
        self._body = ControllerBody(
            config,
            engines,
            links,
            control=Control(policy=self._defaults.policy, parameters=self._defaults.parameters or {}),
            engine_threads=parameters.whole("engine_threads", 64, minimum=1),
            event_log=Path(log) if log else None,
            ended=self._metrics.ended,
        )
        instance = str(UUID(bytes=self._body.controller.instance))
        name, decode = args["model_name"], self._codec.decode
        self._tracer = RequestTracer(traces, instance, model=name, target=target.name, decode=decode)
        self._body.start()
        self._metrics.start(self._body, self._body.controller)
        settle_memory()

    def execute(self, requests: list[Any]) -> None:
        """Hand requests to the controller; never blocks. Answers come through their response senders."""
        for request in requests:
            sender = request.get_response_sender()
            trace = None
            try:
                given = _parameters(request)
                context, recorded = trace_context(request, given)
                trace = self._tracer.begin(context, recorded=recorded)
                refuse_options(given)
                tensors = _tensors(request)
                if CONTROL in tensors:
                    self._take_control(tensors, sender)
                    continue
                trace.chat = "messages" in tensors
                asked = read_request(tensors, self._codec, self._defaults, trace.traceparent)
                trace.request = asked.request
                self._body.check(asked.request)
                self._body.submit(asked.request, _Answer(sender, asked, self._codec, trace))
            except WanspecError as error:
                self._metrics.refused()
                _refuse(sender, str(error))
                if trace is not None:
                    trace.ended(Finished(0, "refused", {}, str(error)))
            except Exception as error:  # a fault of ours must not reach the other requests of this call
                logger.exception("a request failed before it began")
                message = f"{type(error).__name__}: {error}"
                self._metrics.failed()
                _refuse(sender, message, "INTERNAL")
                if trace is not None:
                    trace.ended(Finished(0, "error", {}, message))

    def _take_control(self, tensors: dict[str, NDArray[Any]], sender: Any) -> None:
        controller = self._body.controller
        control = read_control(tensors, controller.control, controller.config.auth_token)
        if control is not controller.control:
            self._body.set_control(control)
            self._defaults = replace(self._defaults, policy=control.policy, parameters=control.parameters)
            named = control.speculation.value, control.policy, dict(control.parameters)
            logger.warning("control: speculation %s, default policy %s %s", *named)
        state, limits = self._body.state(), self._defaults
        state["limits"] |= {"deadline_ms": limits.deadline_ms, "max_deadline_ms": limits.max_deadline_ms}
        answer = {STATE: np.array([[json.dumps(state).encode()]], dtype=np.object_)}
        sender.send(_response(answer), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """Stop."""
        self._metrics.close()
        self._body.close()
        self._tracer.close()


class _Answer:
    """Sends one request's answer: piece by piece, or in one response at the end."""

    def __init__(self, sender: Any, asked: Asked, codec: TextCodec, trace: RequestTrace) -> None:
        self._sender = sender
        self._trace = trace
        self._tensors = AnswerTensors(asked, codec)

    def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...], log_probs: tuple[float, ...]) -> None:
        piece = self._tensors.emit(tokens, origins, log_probs)
        if piece is not None:
            self._sender.send(_response(piece))

    def finished(self, finished: Finished) -> None:
        try:
            self._answer(finished)
        finally:
            self._trace.ended(finished)

    def _answer(self, finished: Finished) -> None:
        if finished.reason == "cancelled":
            _refuse(self._sender, "the request was cancelled", "CANCELLED")
        elif finished.error:
            _refuse(self._sender, finished.error, _CODES.get(finished.reason, "INTERNAL"))
        else:
            outputs = self._tensors.finished(finished)
            self._sender.send(_response(outputs), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


def _streams(parameters: Parameters) -> int:
    return parameters.whole("worker_streams", 1, minimum=1)


def _links(parameters: Parameters) -> list[LinkTarget]:
    urls = [url.strip() for url in parameters.text("worker_urls", "").split(",") if url.strip()]
    ca, certificate, key = (parameters.text(name, "") for name in WORKER_TLS)
    tls = tls_of(ca, certificate, key, (_CA, _CERTIFICATE, _KEY))
    credentials = tls.credentials() if tls is not None and urls else None
    return [LinkTarget(url, credentials=credentials) for url in urls for _ in range(_streams(parameters))]


def _costs(parameters: Parameters, name: str, role: str, model_dir: str) -> CostModel | None:
    """Stored costs of an engine, whose model and role can be checked here; whoever names the file knows the rest."""
    path = parameters.text(name, "")
    return costs_or_none(path, {"role": role, "model": describe_model(model_dir)}) if path and model_dir else None


def _sampling_mode(parameters: Parameters) -> SamplingMode:
    name = parameters.text("sampling", SamplingMode.COUPLED.value)
    try:
        return SamplingMode(name)
    except ValueError:
        known = ", ".join(mode.value for mode in SamplingMode)
        raise ConfigError("wanspec: parameters.sampling", f"{name!r} is not one of {known}") from None


def _defaults(parameters: Parameters, context: int) -> Defaults:
    raw = parameters.text("policy_parameters", "{}")
    try:
        values = json.loads(raw)
        name = parameters.text("policy", DEFAULT_POLICY)
        make_policy(name, values)
    except (ValueError, AttributeError, InvalidRequestError) as error:
        raise ConfigError("parameters.policy", str(error)) from error
    longest = parameters.number("max_deadline_ms", 0.0)
    return Defaults(name, values, context, parameters.number("deadline_ms", 0.0), longest)


def _tensors(request: Any) -> dict[str, NDArray[Any]]:
    found = ((name, pb_utils.get_input_tensor_by_name(request, name)) for name in INPUTS)
    return {name: tensor.as_numpy() for name, tensor in found if tensor is not None}


def _parameters(request: Any) -> dict[str, Any]:
    given = request.parameters()
    return dict(json.loads(given)) if given else {}


def _response(outputs: dict[str, NDArray[Any]]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])


def _refuse(sender: Any, message: str, code: str = "INVALID_ARG") -> None:
    error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
