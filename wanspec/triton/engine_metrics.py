"""What an engine has in hand, on Triton's Prometheus endpoint, by the names of TensorRT-LLM's backend."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from wanspec.engines.contract import EngineLoad

try:
    import triton_python_backend_utils as pb_utils
except ImportError:  # outside Triton's stub; only what runs inside it calls
    pb_utils = None

logger = logging.getLogger(__name__)

REQUESTS, BLOCKS = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
PERIOD_S = 0.5


class EngineMetrics:
    """Two gauges, set where they have changed, on a thread of their own: a gauge costs a trip to Triton's process."""

    def __init__(self, args: Mapping[str, str], load: Callable[[], EngineLoad]) -> None:
        """Begin.

        Args:
            args: what Triton gave the model's ``initialize``.
            load: called every :data:`PERIOD_S`, from this thread.
        """
        self._load = load
        self._model = {"model": args["model_name"], "version": args["model_version"]}
        gauge = pb_utils.MetricFamily.GAUGE
        requests = pb_utils.MetricFamily(name=REQUESTS, description="Requests of an engine", kind=gauge)
        blocks = pb_utils.MetricFamily(name=BLOCKS, description="KV cache blocks of an engine", kind=gauge)
        self._families = (requests, blocks)  # a family that is collected takes its metrics along
        self._gauges: dict[str, Any] = {}
        for family, label, kinds in (
            (requests, "request_type", ("active", "waiting")),
            (blocks, "kv_cache_block_type", ("used", "free", "max", "tokens_per")),
        ):
            for kind in kinds:
                self._gauges[kind] = family.Metric(labels={label: kind, **self._model})
        self._shown: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wanspec-engine-metrics", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """End."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            try:
                self._show(self._load())
            except Exception:  # no request is to fail of it
                logger.exception("the engine's metrics could not be set")
            if self._ended.wait(PERIOD_S):
                return

    def _show(self, load: EngineLoad) -> None:
        values = {
            "active": load.active,
            "waiting": load.waiting,
            "used": load.blocks_used,
            "free": load.blocks_max - load.blocks_used,
            "max": load.blocks_max,
            "tokens_per": load.tokens_per_block,
        }
        for kind, value in values.items():
            if self._shown.get(kind) != value:
                self._gauges[kind].set(float(value))
                self._shown[kind] = value
