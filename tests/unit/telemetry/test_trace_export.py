"""Sending spans: to a collector, to none, and to one that never answers. Whoever hands spans over never waits."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import closing

import pytest

from tests.unit.telemetry.trace_doubles import maker
from wanspec.network.ports import reserve_ports
from wanspec.telemetry.export import SpanExport, resource_of
from wanspec.telemetry.receiver import SpanReceiver

RESOURCE = resource_of("wanspec-controller", "instance", "scarce")
PUT_S = 0.005
"""Far above what handing over takes, far below any wait for a collector."""


def job(count=1, resource=RESOURCE):
    def make():
        spans = maker(resource)
        for index in range(count):
            spans.add("span", None, index, index + 1.0, {"index": index})
        return spans.made

    return make


@pytest.fixture
def mute():
    """A collector that takes connections, and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces"


@pytest.fixture
def nobody():
    """A port where nothing listens."""
    reservation = reserve_ports(1)
    yield f"http://127.0.0.1:{reservation.ports[0]}/v1/traces"
    reservation.release()


def test_sends_all_with_who_they_are_of(monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "cloud.region=eu-west-1,rack=7")
    with SpanReceiver() as receiver:
        export = SpanExport(receiver.url, resource_of("wanspec-worker", "me", "idle"))
        for _ in range(5):
            export.put(job(300, export.resource))
        export.close()
        assert (len(receiver.spans), export.sent, export.dropped) == (1500, 1500, 0)
    resource = receiver.spans[0].resource
    assert (resource["service.name"], resource["service.instance.id"]) == ("wanspec-worker", "me")
    assert (resource["cloud.region"], resource["rack"]) == ("eu-west-1", "7")
    assert resource["service.version"]
    assert RESOURCE.attributes["cloud.region"] == "scarce"


@pytest.mark.parametrize("collector", ["nobody", "mute"])
def test_a_collector_that_does_not_take_them_costs_nothing(collector, request, caplog):
    caplog.set_level(logging.INFO)
    threads = threading.active_count()
    export = SpanExport(request.getfixturevalue(collector), RESOURCE, jobs=20, spans=100)
    longest = 0.0
    for _ in range(200):
        before = time.perf_counter()
        export.put(job(10))
        longest = max(longest, time.perf_counter() - before)
        time.sleep(0.001)
    assert longest < PUT_S * 10  # one of 200 may be interrupted by others' work
    before = time.perf_counter()
    export.close(0.5)
    assert time.perf_counter() - before < 1.5
    assert export.sent == 0
    assert export.dropped >= 90
    assert not logging.getLogger("opentelemetry.exporter").propagate  # it would tell of every attempt
    told = [record for record in caplog.records if record.name.startswith("wanspec")]
    assert [record.levelname for record in told] == ["WARNING"], [record.getMessage() for record in told]
    assert "does not take spans" in told[0].getMessage()
    assert threading.active_count() <= threads + 4  # bounded, whatever was handed over


def test_says_when_it_is_taken_again(nobody, caplog):
    caplog.set_level(logging.INFO)
    export = SpanExport(nobody, RESOURCE, jobs=1, spans=10)
    release = threading.Event()
    export.put(lambda: release.wait(5) and [])
    for _ in range(5):
        export.put(job())
    assert export.dropped >= 3
    port = int(nobody.split(":")[2].split("/")[0])
    with SpanReceiver(port) as receiver:
        release.set()
        deadline = time.monotonic() + 5
        while not export.sent and time.monotonic() < deadline:
            time.sleep(0.02)
            export.put(job())
        export.close()
        assert receiver.spans
    told = [record.getMessage() for record in caplog.records if record.name.startswith("wanspec")]
    assert len(told) == 2
    assert "does not take spans" in told[0]
    assert "takes spans again" in told[1]


def test_a_request_whose_spans_cannot_be_made_harms_no_other(caplog):
    with SpanReceiver() as receiver:
        export = SpanExport(receiver.url, RESOURCE)
        export.put(lambda: 1 / 0)
        export.put(job())
        export.close()
        assert len(receiver.spans) == 1
    assert "could not be made" in caplog.text
