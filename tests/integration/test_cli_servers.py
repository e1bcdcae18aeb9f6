"""The commands with real servers: what they print, how they end, and that nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import wait_for_worker
from tests.integration.reports import reported
from wanspec.bench.reference import next_logits
from wanspec.bench.session import Session
from wanspec.cli.regions import Pace, engines
from wanspec.core.costs import CostModel, CostTable
from wanspec.core.eventlog import read_log
from wanspec.engines.stored_costs import describe_engine, store_costs
from wanspec.exactness import margin
from wanspec.models import resolve
from wanspec.network.ports import reserve_ports
from wanspec.triton.client import WanspecClient
from wanspec.triton.regions import RegionSettings, engine_config
from wanspec.triton.watchdog import SHARED_MEMORY

# Where the tests themselves run in the background of a shell, SIGINT is ignored, and children inherit that.
SIGINT_WORKS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
WANSPEC = [sys.executable, "-c", f"{SIGINT_WORKS}; from wanspec.cli import main; main()"]
DOCS = Path(__file__).parents[2] / "docs" / "endpoint.md"
STARTED_S, ENDED_S, CLEAN_S = 90.0, 20.0, 5.0
PROMPT = "The history of the city begins with"


def environment(folder: Path) -> dict[str, str]:
    """Logs, temporary folders and stored costs in a place of the test's own."""
    (folder / "tmp").mkdir(exist_ok=True)
    places = {"XDG_STATE_HOME": "state", "TMPDIR": "tmp", "WANSPEC_CACHE": "cache"}
    return os.environ | {name: str(folder / place) for name, place in places.items()}


class Traces:
    """What a command and all it starts may leave behind: known by the temporary folder in their environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: set[str] = set()

    def look(self) -> int:
        """Note the servers that run now, whose shared memory bears their folder's name; return how many are known."""
        self._servers |= {path.name for path in (self._folder / "tmp").glob("wanspec_*")}
        return len(self._servers)

    def processes(self) -> list[int]:
        """Live processes that were started under this folder."""
        mark = f"TMPDIR={self._folder / 'tmp'}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def leftovers(self) -> list[str]:
        # PyTorch makes its own folder for compiled kernels, one per user.
        files = [path for path in (self._folder / "tmp").iterdir() if not path.name.startswith("torchinductor_")]
        files += [path for name in self._servers for path in SHARED_MEMORY.glob(f"{name}*")]
        return [*map(str, files), *(f"process {pid}" for pid in self.processes())]

    def assert_gone(self) -> None:
        deadline = time.monotonic() + CLEAN_S
        while self.leftovers() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.leftovers() == []


def run(*arguments: str, folder: Path, timeout: float = STARTED_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WANSPEC, *arguments], capture_output=True, text=True, timeout=timeout, env=environment(folder), check=False
    )


@dataclass
class Up:
    """A running ``wanspec up --json``."""

    process: subprocess.Popen[str]
    endpoints: dict[str, Any]
    traces: Traces
    told: list[str]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(ENDED_S)

    def server(self, endpoint: str) -> int:
        """The process id of the tritonserver with this gRPC endpoint."""
        port = endpoint.rpartition(":")[2]
        (pid,) = [pid for pid in self.traces.processes() if f"--grpc-port={port}" in command_line(pid)]
        return pid

    def says(self, words: str) -> str:
        """The next line that holds these words."""
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if words in line), "")
        assert line, f"ended without saying {words!r}"
        return line


def command_line(pid: int) -> list[str]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [word.decode(errors="replace") for word in words] if b"tritonserver" in words[0] else []


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that is under way; killed at the end if it still is."""
    process = subprocess.Popen(
        [*WANSPEC, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(folder),
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def up_of(process: subprocess.Popen[str], folder: Path) -> Up:
    """What a ``wanspec up`` tells once both regions are ready."""
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if line.startswith('{"grpc"'):
            break
    assert told[-1].startswith('{"grpc"'), "".join(told)
    traces = Traces(folder)
    assert traces.look() == 2
    return Up(process, json.loads(told[-1]), traces, told)


UP = ("up", "--pair", "small", "--json")


@contextmanager
def regions(folder: Path, *arguments: str) -> Iterator[Up]:
    """Two regions of the small pair on ports of their own."""
    with reserve_ports(3) as ports:
        options = [f"--{kind}-port={port}" for kind, port in zip(("grpc", "http", "metrics"), ports, strict=True)]
        with started(folder, *UP, *options, *arguments) as process:
            yield up_of(process, folder)


def store_some_costs() -> None:
    """Of the target and the worker's draft as `up` runs them, and of a local draft with a pace."""
    table = CostTable((1, 8), (0,), ((9.0,), (11.0,)))
    settings = RegionSettings(resolve("small-target"), resolve("small-draft"), *engines(Pace()))
    paced = replace(settings, local_draft=replace(settings.local_draft, pace_ms=7.0))
    for role, regions in (("target", settings), ("draft", paced), ("worker", settings)):
        store_costs(CostModel(table, table, describe_engine(role, engine_config(regions, role))))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Two regions; after the tests, SIGTERM ends them and nothing is left."""
    folder = tmp_path_factory.mktemp("up")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANSPEC_CACHE", str(folder / "cache"))
        store_some_costs()
    config = folder / "wanspec.yaml"
    config.write_text("link:\n  rtt_ms: 10\npolicy: {name: wanspec, parameters: {k: 3}}\n")
    with regions(folder, "--config", str(config)) as running:
        assert running.endpoints["rtt_ms"] == 10.0
        parameters = WanspecClient(running.endpoints["grpc"]).parameters()
        assert (parameters["policy"], json.loads(parameters["policy_parameters"])) == ("wanspec", {"k": 3})
        yield running
        assert running.end(signal.SIGTERM) == 143
        running.traces.assert_gone()


def test_demo_tells_what_the_split_saved_and_leaves_nothing(tmp_path: Path) -> None:
    traces = Traces(tmp_path)
    arguments = ("demo", "--pair", "small", "--max-tokens", "16", "--pace-ms", "20,5,5", "--json")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, *arguments, folder=tmp_path)
        while not running.done():
            traces.look()
            time.sleep(0.2)
    done = running.result()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["policies"]) == {"adaptive", "wanspec", "local", "target_only"}
    assert result["exactness"]["holds"] is True
    assert len(result["runs"]) == 8
    assert result["policies"]["target_only"]["rounds"] == result["policies"]["target_only"]["tokens"]
    assert result["policies"]["local"]["local_draft_passes"] > 0
    assert result["policies"]["wanspec"]["remote_draft_passes"] > 0
    assert result["policies"]["adaptive"]["remote_draft_passes"] > 0
    assert result["policies"]["target_only"]["ms_per_token"] >= 20
    assert "draft passes in the scarce region" in result["verdict"]
    assert "paced" in result["conditions"]
    assert "controller: ready" in done.stderr
    requests = reported(Path(result["options"]["report"]))
    assert [each["policy"] for each in requests[:4]] == ["adaptive", "wanspec", "local", "target_only"]
    assert [(each["ms"], len(each["pieces"])) for each in requests] == [
        (round(each["summary"]["latency_ms"], 2), each["summary"]["output_tokens"]) for each in result["runs"]
    ]
    assert traces.look() == 2
    traces.assert_gone()
    assert list((tmp_path / "state").rglob("*.log")) == []


def test_the_servers_use_the_costs_that_were_measured_on_their_engines(up: Up, tmp_path: Path) -> None:
    assert any("draft: calibrated under other settings (pace_ms was 7, is 0): not used" in line for line in up.told)
    controller, worker = (Path(log).read_text() for log in up.endpoints["logs"])
    assert worker.count("costs measured on {'role': 'worker'") == 1
    assert controller.count("costs measured on ") == controller.count("costs measured on {'role': 'target'") == 1
    answer = WanspecClient(up.endpoints["grpc"]).ask(PROMPT, max_tokens=2, event_log=True).result()
    config = read_log(answer.event_log)[0].config
    assert config.draft_costs is None
    assert config.verify_costs is not None
    assert config.verify_costs.verify_ms(7, 0) == 11.0


def test_generate_streams_text_to_a_pipe(up: Up, tmp_path: Path) -> None:
    done = run("generate", PROMPT, "--url", up.endpoints["grpc"], "--max-tokens", "12", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "\x1b" not in done.stdout
    assert "12 tokens" in done.stderr


def test_tail_watches_it_until_ctrl_c(up: Up, tmp_path: Path) -> None:
    address = ("--url", up.endpoints["grpc"], "--interval", "0.2")
    with started(tmp_path, "tail", *address, "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        WanspecClient(up.endpoints["grpc"]).ask(PROMPT, max_tokens=12, policy="wanspec").result()
        readings = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(ENDED_S) == 0
    assert first["state"]["policy"] == "wanspec"
    assert max(each["last"]["tokens"] for each in readings) == 12
    assert readings[-1]["state"]["link_details"][0]["rtt_ms"] >= 10.0
    once = run("tail", *address, "--once", folder=tmp_path)
    assert once.returncode == 0, once.stderr
    assert "speculation remote, links up" in once.stdout


def test_generate_explains_itself(up: Up, tmp_path: Path) -> None:
    arguments = ("generate", PROMPT, "--url", up.endpoints["grpc"], "--max-tokens", "24", "--explain")
    shown = run(*arguments, "--report", str(tmp_path / "report.html"), folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"report: {tmp_path / 'report.html'}" in shown.stderr
    (request,) = reported(tmp_path / "report.html")
    assert len(request["tokens"]) == 24
    assert "".join(request["pieces"]) in shown.stdout
    assert "the same tokens as served" in " ".join(shown.stdout.split())
    done = run(*arguments, "--json", "--policy", "remote_sync", "--set", "k=3", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["replay_matches"] is True
    assert len(result["tokens"]) == len(result["origins"]) == 24
    assert len(result["rounds"]) == result["summary"]["rounds"]
    assert result["summary"]["policy"] == "remote_sync"


def test_refusals_of_the_endpoint_are_messages(up: Up, tmp_path: Path) -> None:
    done = run("generate", "", "--url", up.endpoints["grpc"], folder=tmp_path)
    assert done.returncode == 1
    assert "text_input" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("generate", "x", "--url", up.endpoints["grpc"], "--set", "k=99", "--json", folder=tmp_path)
    assert done.returncode == 1
    assert "1 to 32" in json.loads(done.stdout)["error"]


def test_a_difference_is_judged_by_the_targets_own_logits(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(up.endpoints["grpc"])
    assert session.target_dir == resolve("small-target")
    tokens = session.ask(PROMPT, "target_only", max_tokens=12).result().tokens
    assert session.check(PROMPT, tokens, tokens, "wanspec").identical
    wrong = [*tokens[:3], tokens[3] + 1, *tokens[4:]]
    judged = session.check(PROMPT, tokens, wrong, "wanspec")
    (divergence,) = judged.divergences
    assert (divergence.position, divergence.expected, divergence.actual) == (3, tokens[3], tokens[3] + 1)
    assert divergence.margin > 1e-3
    assert not judged.holds
    # Were it a near-tie, the same policy would be asked again from the reference's prefix, and would agree.
    monkeypatch.setattr("wanspec.exactness.MARGIN", 1e9)
    judged = session.check(PROMPT, tokens, wrong, "wanspec")
    assert len(judged.divergences) == 1
    assert judged.holds
    assert judged.divergences[0].margin == divergence.margin


def test_the_margin_of_the_served_token_is_nothing(up: Up) -> None:
    client = WanspecClient(up.endpoints["grpc"])
    answer = client.ask([5, 6, 7], max_tokens=4, policy="target_only").result()
    logits = next_logits(resolve("small-target"))
    for position, token in enumerate(answer.tokens):
        assert margin(logits([5, 6, 7, *answer.tokens[:position]]), token) == 0.0


def test_the_examples_of_the_documentation_run(up: Up, tmp_path: Path) -> None:
    blocks = re.findall(r"```(bash|python)\n(.*?)```", DOCS.read_text(), re.S)
    assert [language for language, _ in blocks] == ["bash", "bash", "python", "python"]
    for language, code in blocks:
        code = code.replace("http://127.0.0.1:8000", up.endpoints["http"]).replace(
            "127.0.0.1:8001", up.endpoints["grpc"]
        )
        code = code.replace('"chat": true, ', "")  # the small pair has no chat template
        command = ["bash", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        if "generate_stream" in code:
            pieces = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("data:")]
            assert len(pieces) > 3
            assert "".join(piece["text_output"] for piece in pieces).strip()
        elif language == "bash":
            assert json.loads(done.stdout)["text_output"].strip()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Up]]:
    """Started at the same time, without ports; paced so that an answer of the first takes a while."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    paced = ("--dtype", "float64", "--pace-ms", "20,6,6", "--rtt-ms", "10")
    with started(folders[0], *UP, *paced) as first, started(folders[1], *UP) as second:
        ups = up_of(first, folders[0]), up_of(second, folders[1])
        yield ups
    for up in ups:
        up.traces.assert_gone()


def test_two_ups_without_ports_get_different_ones(two: tuple[Up, Up]) -> None:
    assert len({up.endpoints[kind] for up in two for kind in ("grpc", "http", "metrics", "worker_grpc")}) == 8


def test_a_killed_worker_comes_back_and_the_answer_is_the_targets_own(two: tuple[Up, Up]) -> None:
    running, _ = two
    client = WanspecClient(running.endpoints["grpc"], timeout_s=30.0)
    expected = client.ask(PROMPT, max_tokens=80, end_id=-1, policy="target_only").result().tokens
    wait_for_worker(client)
    answer = client.ask(PROMPT, max_tokens=80, end_id=-1, policy="wanspec")
    pieces = iter(answer)
    for _ in range(6):
        next(pieces)
    os.kill(running.server(running.endpoints["worker_grpc"]), signal.SIGKILL)
    assert answer.result().tokens == expected
    assert "worker lost (signal 9): answers go on with local drafts" in running.says("worker lost")
    running.says("worker is back")
    assert running.process.poll() is None
    wait_for_worker(client)
    assert client.ask(PROMPT, max_tokens=80, end_id=-1, policy="wanspec").result().tokens == expected
    os.kill(running.server(running.endpoints["grpc"]), signal.SIGKILL)
    assert "ended by itself (signal 9)" in running.says("server controller")
    assert running.process.wait(ENDED_S) == 1
    running.traces.assert_gone()


def test_ctrl_c_while_the_worker_restarts(two: tuple[Up, Up]) -> None:
    _, running = two
    os.kill(running.server(running.endpoints["worker_grpc"]), signal.SIGKILL)
    running.says("worker lost")
    running.traces.look()
    assert running.end(signal.SIGINT) == 130
    running.traces.assert_gone()


def test_another_kind_of_port_is_explained(up: Up, tmp_path: Path) -> None:
    http, worker = up.endpoints["http"].removeprefix("http://"), up.endpoints["worker_grpc"]
    metrics = up.endpoints["metrics"].removeprefix("http://").removesuffix("/metrics")
    for url, said in ((http, "answers HTTP"), (metrics, "answers HTTP"), (worker, "without the model 'wanspec'")):
        done = run("generate", "x", "--url", url, folder=tmp_path)
        assert done.returncode == 1
        assert said in done.stderr


def test_ctrl_c_ends_up_in_order(tmp_path: Path) -> None:
    with regions(tmp_path, "--no-local-draft") as running:
        assert len(running.traces.processes()) > 4
        assert running.end(signal.SIGINT) == 130
        running.traces.assert_gone()


def test_ctrl_c_while_starting_ends_at_once(tmp_path: Path) -> None:
    traces = Traces(tmp_path)
    with started(tmp_path, "up", "--pair", "small") as process:
        assert process.stdout is not None
        assert any("controller" in line for line in process.stdout)
        assert traces.look() > 0
        process.send_signal(signal.SIGINT)
        assert process.wait(ENDED_S) == 130
    traces.assert_gone()
