"""``wanspec report``: what it reads, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.report.report_doubles import play
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.group import cli
from wanspec.cli.report import _tokenizer, write_answers
from wanspec.errors import ConfigError, ProtocolError
from wanspec.models import fingerprint, resolve


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text("\n".join(play(["adaptive", "local"], tokens=8).lines) + "\n")
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments])


def test_it_says_where_the_file_is(log: Path, tmp_path: Path) -> None:
    answer = run(str(log), "-o", str(tmp_path / "out.html"), "--title", "Monday")
    assert (answer.exit_code, answer.stdout) == (ExitCode.DONE, f"2 requests: {tmp_path / 'out.html'}\n")
    assert "<title>Monday</title>" in (tmp_path / "out.html").read_text()


def test_totals_for_programs(log: Path, tmp_path: Path) -> None:
    told = json.loads(run(str(log), "-o", str(tmp_path / "out.html"), "--json", "--most", "1").stdout)
    assert (told["requests"], told["tokens"], told["notes"]) == (
        1,
        8,
        ["Of 2 requests, the latest 1 are shown (--most)."],
    )
    assert sum(told["parts_ms"].values()) == pytest.approx(told["latency_ms"], abs=0.1)


def test_no_text_leaves_no_token(log: Path, tmp_path: Path) -> None:
    arguments = [str(log), "-o", str(tmp_path / "out.html"), "--tokenizer", "small-target"]
    assert run(*arguments).exit_code == ExitCode.DONE
    index = (tmp_path / "out.html").read_text().partition('id="index">')[2].partition("</script>")[0]
    request = json.loads(index)["requests"][0]
    assert len(request["pieces"]) == 8
    assert request["prompt"]
    assert run(*arguments, "--no-text").exit_code == ExitCode.DONE
    html = (tmp_path / "out.html").read_text()
    request = json.loads(html.partition('id="index">')[2].partition("</script>")[0])["requests"][0]
    assert (request["pieces"], request["prompt"], set(request["tokens"])) == (None, "", {-1})
    detail = json.loads(html.partition('id="request-0">')[2].partition("</script>")[0])
    assert detail["vocab"] == {}


def test_the_tokenizer_is_found_by_its_fingerprint() -> None:
    digest = fingerprint(resolve("small-target")).tokenizer
    assert _tokenizer(None, {digest}) is not None
    assert _tokenizer(None, {b"t" * 32}) is None
    assert _tokenizer(None, {digest, b"t" * 32}) is None
    assert _tokenizer(str(resolve("small-target")), set()) is not None
    with pytest.raises(ConfigError, match=r"tokenizer: there is no .*nowhere"):
        _tokenizer("/nowhere", set())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: No such file or directory; check the name"),
        ([__file__], "is neither an event log"),
        (["LOG", "-o", "/nowhere/out.html"], "--output: the folder /nowhere does not exist; make it first"),
        (["LOG", "--tokenizer", "/nowhere"], "--tokenizer: there is no /nowhere/tokenizer.json"),
    ],
)
def test_what_is_wrong_is_said(log: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    given = [str(log) if each == "LOG" else each for each in arguments]
    answer = run(*given, *([] if "-o" in given else ["-o", str(tmp_path / "out.html")]))
    assert (answer.exit_code, said in answer.stderr) == (ExitCode.FAILED, True), answer.stderr
    assert not (tmp_path / "out.html").exists()


def test_a_log_without_an_ended_request(log: Path, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(log.read_text().partition("\n")[0] + "\n")
    assert "no request has ended in" in run(str(tmp_path / "log.jsonl"), "-o", str(tmp_path / "o")).stderr


def test_an_endpoint_that_sent_no_log(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="return_event_log"):
        write_answers(tmp_path / "out.html", [("answer", [])], None, title="")
