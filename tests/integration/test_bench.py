"""``wanspec bench`` on real servers: a small one, of the deployment that the tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.integration.reports import reported
from wanspec.cli.group import cli
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment


class Borrowed:
    """A deployment that is up already, and stays so."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def start(self, on_progress: Any = None) -> None: ...

    def stop(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self._deployment, name)


def bench(*arguments: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(cli, ["bench", "--json", "--tokens", "16", "--ignore-end", *arguments])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_bench_measures_what_it_says(
    small: Deployment, client: WanspecClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("wanspec.cli.bench_run.Deployment", lambda settings: Borrowed(small))
    arguments = ("--policy", "target_only,remote_sync", "--prompts", "2", "--concurrency", "2", "--keep-logs")
    rows = bench(*arguments, "--rtt", "6,20", "--time-scale", "2", "--save", str(tmp_path / "saved"))
    assert [(row["rtt_ms"], row["policy"]) for row in rows] == [
        (rtt, name) for rtt in (6.0, 20.0) for name in ("local", "target_only", "remote_sync", "target_native")
    ]
    for row in rows:
        assert row["exact"] is True
        assert (row["requests"], row["tokens"], row["dtype"]) == (2, 32, "float64")
        assert row["ttft_ms"] <= row["latency_p50_ms"] <= row["latency_p99_ms"]
        assert row["cpu_ms_a_token"].keys() == {
            "controller server", "controller", "target", "draft", "worker server", "worker with its draft", "relay",
        }  # fmt: skip
        assert row["cpu_ms_a_token"]["target"] > 0.0
        assert row["own_busy"] > 0.0
    by_name = {(row["rtt_ms"], row["policy"]): row for row in rows}
    alone, native = by_name[20.0, "target_only"], by_name[20.0, "target_native"]
    assert alone["tokens_a_round"] == native["tokens_a_round"] == 1.0
    assert alone["local_draft_passes"] == native["local_draft_passes"] == 0
    assert native["scarce_gpu_ms_a_token"] > 0.0
    far = by_name[20.0, "remote_sync"]
    # Its first drafts take a round trip at least; a wait of 20 ms lasts 40, and is told without the scale.
    assert far["waited_ms_a_request"] >= 19.0
    assert far["remote_passes"] > far["remote_passes_wasted"] >= 0
    assert far["wan_bytes_down_a_token"] > far["bytes_down_a_token"] > 0
    assert 0.0 < far["acceptance_by_position"]["remote"][0] <= 1.0
    assert by_name[20.0, "local"]["acceptance_by_position"].keys() == {"local"}


def test_a_running_endpoint_is_taken_as_it_is(small: Deployment, client: WanspecClient, tmp_path: Path) -> None:
    arguments = ("--url", small.controller.grpc_endpoint, "--policy", "adaptive", "--prompts", "1", "--k", "1")
    rows = bench(*arguments, "--report", str(tmp_path / "report.html"))
    assert [row["policy"] for row in rows] == ["local", "adaptive", "target_native"]
    assert all(row["exact"] for row in rows)
    assert rows[0]["models"] == "small-target and small-draft"
    assert rows[0]["wan_bytes_up_a_token"] is None
    assert rows[0]["cpu_ms_a_token"] == {}
    requests = reported(tmp_path / "report.html")
    assert [(each["policy"], each["name"], len(each["tokens"])) for each in requests] == [
        ("local", "local, prompt 0", 16),
        ("adaptive", "adaptive, prompt 0", 16),
    ]
