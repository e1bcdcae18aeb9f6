"""The Triton model ``wanspec_worker``: drafts for controllers in other regions. `model_repo` loads it.

A request with id ``link`` opens a link and stays open; its responses are the frames to that controller. Every other
request carries one frame of a controller and gets an empty final response.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from wanspec.core.config import Fingerprint, WorkerConfig
from wanspec.core.costs import UNMEASURED
from wanspec.core.drafting import ClosingEngine, DraftEngine
from wanspec.engines.config import EngineConfig
from wanspec.engines.contract import EngineLoad, Loaded
from wanspec.engines.drafting import build_draft_engine
from wanspec.engines.stored_costs import costs_or_none, describe_engine
from wanspec.models import fingerprint
from wanspec.network.link import LINK_REQUEST_ID
from wanspec.telemetry.metrics import WorkerMetrics
from wanspec.telemetry.tracing import WorkerTracer
from wanspec.triton.auth import read_token
from wanspec.triton.engine_metrics import EngineMetrics
from wanspec.triton.parameters import Parameters
from wanspec.triton.regions import model_context
from wanspec.triton.stub import prepare_stub, settle_memory
from wanspec.triton.tensorrt_llm.chain import ChainDraftEngine, ChainSettings
from wanspec.triton.traces import read_trace_settings
from wanspec.triton.worker_body import WorkerBody

try:
    import triton_python_backend_utils as pb_utils
except ImportError:  # outside Triton's stub; only what runs inside it calls
    pb_utils = None

logger = logging.getLogger(__name__)


class TritonPythonModel:
    """What Triton's python backend loads."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the draft engine and start the worker.

        Raises:
            WanspecError: a parameter or the model folder is unusable; Triton reports it as the cause.
        """
        prepare_stub()
        parameters = Parameters.of(args)
        folder = Path(parameters.text("model_dir"))
        mine = fingerprint(folder)
        identity = Fingerprint(mine.tokenizer, mine.vocab_size, f"{folder.name}:{mine.model_id.hex()[:8]}")
        settings = EngineConfig.from_parameters(parameters.values)
        engine = self._engine = _draft_engine(settings, folder)
        costs_file = parameters.text("costs_file", "")
        costs = costs_or_none(costs_file, describe_engine("worker", settings)) if costs_file else None
        config = WorkerConfig(
            identity,
            auth_token=read_token(parameters.text("auth_token_file", "")),
            context=engine.context,
            max_sequences=parameters.whole("max_sequences", 256, minimum=1),
            max_leaves=parameters.whole("max_leaves", 64, minimum=1),
            costs=costs or UNMEASURED,
        )
        traces = read_trace_settings(parameters)
        self._body = WorkerBody(config, engine, traced=lambda record: self._tracer.ended(record))
        self._tracer = WorkerTracer(traces, str(UUID(bytes=self._body.worker.instance)))
        self._body.start()
        self._metrics = WorkerMetrics(pb_utils)
        self._metrics.start(self._body, self._body.worker, lambda: self._body.links)
        self._engine_metrics = EngineMetrics(args, lambda: engine.load if isinstance(engine, Loaded) else EngineLoad())
        settle_memory()
        logger.info("drafting with %s, context %d", identity.draft_id, engine.context)

    def execute(self, requests: list[Any]) -> None:
        """Hand frames to the worker; never blocks."""
        for request in requests:
            sender = request.get_response_sender()
            frame = pb_utils.get_input_tensor_by_name(request, "frame").as_numpy().tobytes()
            if request.request_id() == LINK_REQUEST_ID:
                self._body.link(frame, _Downlink(sender))
            else:
                self._body.steer(frame)
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """Stop."""
        self._metrics.close()
        self._engine_metrics.close()
        self._body.close()
        if isinstance(self._engine, ClosingEngine):
            self._engine.close()
        self._tracer.close()


def _draft_engine(settings: EngineConfig, folder: Path) -> DraftEngine:
    if settings.engine != "triton":
        return build_draft_engine(settings)
    chain = ChainSettings(
        settings.draft_model,
        settings.vocab_size,
        settings.max_seq_len or model_context(folder),
        settings.chain_tokens,
        settings.decoupled,
        settings.pass_timeout_ms,
    )
    return ChainDraftEngine(chain)


class _Downlink:
    """A link's open request."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._closed = False

    def send(self, data: bytes) -> None:
        if not self._closed:
            tensor = pb_utils.Tensor("frame", np.frombuffer(data, dtype=np.uint8))
            self._sender.send(pb_utils.InferenceResponse([tensor]))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())
