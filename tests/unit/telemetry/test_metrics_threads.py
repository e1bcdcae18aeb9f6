"""The thread that keeps metrics up to date: counts what ends, looks once a second, and outlives what goes wrong."""

from __future__ import annotations

import logging
import time

import pytest

from tests.simulation.sim_doubles import FINGERPRINT
from tests.unit.telemetry.fake_metrics import FakeTriton
from wanspec.core.config import ControllerConfig, WorkerConfig
from wanspec.core.controller import Controller
from wanspec.core.events import Finished
from wanspec.core.worker import Worker
from wanspec.telemetry import metrics
from wanspec.telemetry.metrics import ControllerMetrics, WorkerMetrics


class Locked:
    """A body that fails to be looked at, now and then."""

    def __init__(self):
        self.looks = 0

    def look(self, at):
        self.looks += 1
        if self.looks == 2:
            raise RuntimeError("no look")
        return at()


def until(holds):
    deadline = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(metrics, "PERIOD_S", 0.02)


def test_what_ends_is_counted_and_failures_are_survived(quick, caplog):
    triton, body = FakeTriton(), Locked()
    shown = ControllerMetrics(triton)
    shown.ended(Finished(1, "length", {}))  # before the start: nobody takes it
    shown.start(body, Controller(ControllerConfig(FINGERPRINT)))
    try:
        with caplog.at_level(logging.ERROR):
            shown.refused()
            shown.ended(Finished(2, "length", {"nonsense": True}))
            shown.ended(Finished(3, "busy", {}))
            until(lambda: triton.sum("wanspec_requests_total", reason="busy") == 1)
            until(lambda: body.looks > 3)
        assert triton.sum("wanspec_requests_total", reason="refused") == 1
        assert sum("could not be brought up to date" in record.message for record in caplog.records) == 2
    finally:
        shown.close()
    looks = body.looks
    time.sleep(0.1)
    assert body.looks == looks


def test_the_worker_is_looked_at(quick):
    triton, body = FakeTriton(), Locked()
    shown = WorkerMetrics(triton)
    worker = Worker(WorkerConfig(FINGERPRINT))
    shown.start(body, worker, lambda: 3)
    try:
        worker.counters.passes = 5
        until(
            lambda: "wanspec_worker_passes_total" in triton.names() and triton.sum("wanspec_worker_passes_total") == 5
        )
        assert triton.value("wanspec_worker_links") == 3
    finally:
        shown.close()


def test_without_metrics_nothing_runs():
    class NoMetrics:
        def MetricFamily(self, **_):  # noqa: N802
            raise RuntimeError("metrics are off")

    body = Locked()
    for shown, arguments in (
        (ControllerMetrics(NoMetrics()), (Controller(ControllerConfig(FINGERPRINT)),)),
        (WorkerMetrics(NoMetrics()), (Worker(WorkerConfig(FINGERPRINT)), lambda: 0)),
    ):
        shown.start(body, *arguments)
        shown.close()
    assert body.looks == 0
