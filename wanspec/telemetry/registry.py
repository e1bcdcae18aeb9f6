"""Metrics on Triton's own Prometheus endpoint, by the python backend's custom metrics.

A call of Triton's takes 11 microseconds, in which it keeps the interpreter: counters are added up here and handed on
together, and after some calls the other threads have their turn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from wanspec.telemetry.catalogue import Kind, Metric

logger = logging.getLogger(__name__)

CALLS_IN_A_ROW = 16
_PAUSE_S = 0.0005

Labels: TypeAlias = tuple[tuple[str, str], ...]


class Families(Protocol):
    """What is used of ``triton_python_backend_utils``."""

    @property
    def MetricFamily(self) -> Any:  # noqa: N802
        """Makes a family; has ``COUNTER``, ``GAUGE``, ``HISTOGRAM``."""
        ...


class Registry:
    """The metrics of a catalogue. For one thread at a time.

    Where Triton takes no metrics, everything is taken here and nothing exported. No call is made that Triton would
    refuse, such as a counter's fall: it frees the text of the error while the model may still read it, which has been
    seen to abort 2.51.
    """

    def __init__(self, backend: Families, catalogue: Iterable[Metric]) -> None:
        self._metrics = {metric.name: metric for metric in catalogue}
        self._families: dict[str, Any] = {}
        self._series: dict[tuple[str, Labels], Any] = {}
        self._pending: dict[tuple[str, Labels], float] = {}
        self._totals: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._calls = 0
        try:
            for metric in self._metrics.values():
                self._families[metric.name] = backend.MetricFamily(
                    name=metric.name,
                    description=metric.help,
                    kind=getattr(backend.MetricFamily, metric.kind.name),
                )
        except Exception:  # whatever metrics lack, requests are to be served
            logger.warning("no metrics of wanspec: Triton takes none", exc_info=True)
            self._families.clear()

    @property
    def exporting(self) -> bool:
        """Whether the server takes metrics."""
        return bool(self._families)

    def add(self, name: str, amount: float, **labels: str) -> None:
        """Count more; exported by the next :meth:`flush`. 0 makes the time series be there."""
        key = name, self._key(name, labels)
        self._pending[key] = self._pending.get(key, 0.0) + amount

    def count_to(self, name: str, total: float, **labels: str) -> None:
        """Bring a counter up to a total that never falls."""
        key = name, tuple(labels.items())
        self.add(name, max(0.0, total - self._totals.get(key, 0.0)), **labels)
        self._totals[key] = max(total, self._totals.get(key, 0.0))

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        key = name, self._key(name, labels)
        series = self._find(*key)
        if series is not None and self._gauges.get(key) != value:
            series.set(value)
            self._called()
            self._gauges[key] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one value to a histogram."""
        series = self._find(name, self._key(name, labels))
        if series is not None:
            series.observe(value)
            self._called()

    def declare(self, name: str, **labels: str) -> None:
        """Export a time series from now on, whatever its value."""
        self._find(name, self._key(name, labels))

    def flush(self) -> None:
        """Export what has been counted."""
        pending, self._pending = self._pending, {}
        for (name, labels), amount in pending.items():
            series = self._find(name, labels)
            if series is not None and amount > 0.0:
                series.increment(amount)
                self._called()

    def _called(self) -> None:
        self._calls += 1
        if self._calls % CALLS_IN_A_ROW == 0:
            time.sleep(_PAUSE_S)

    def _key(self, name: str, labels: Mapping[str, str]) -> Labels:
        given = tuple(labels.items())
        assert tuple(labels) == self._metrics[name].labels, (name, labels)
        return given

    def _find(self, name: str, labels: Labels) -> Any:
        key = name, labels
        found = self._series.get(key)
        if found is None and self._families:
            metric = self._metrics[name]
            more = {"buckets": list(metric.buckets)} if metric.kind is Kind.HISTOGRAM else {}
            found = self._series[key] = self._families[name].Metric(labels=dict(labels), **more)
        return found
