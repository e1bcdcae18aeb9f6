"""`wanspec chat` against real servers: answers are the target's own, and Ctrl-C ends an answer but not the chat."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.integration.conftest import wait_for_worker
from tests.integration.prompts import PROMPTS
from tests.integration.test_cli_servers import WANSPEC
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment

SHOWN_S = 20.0


@dataclass
class Terminal:
    """A command in a pseudo-terminal."""

    process: subprocess.Popen[bytes]
    screen: int
    text: str = ""

    def shows(self, words: str) -> str:
        """Wait for words; return what was shown before them and since the last call."""
        deadline = time.monotonic() + SHOWN_S
        while words not in self.text:
            assert time.monotonic() < deadline, f"never showed {words!r}: {self.text!r}"
            if select.select([self.screen], [], [], 0.1)[0]:
                self.text += os.read(self.screen, 65536).decode(errors="replace")
        before, _, self.text = self.text.partition(words)
        return before

    def shows_interrupted(self, words: str) -> str:
        """Press Ctrl-C until the words are shown: readline does not see one that comes while it shows its prompt."""
        deadline = time.monotonic() + SHOWN_S
        while words not in self.text and time.monotonic() < deadline:
            os.killpg(self.process.pid, signal.SIGINT)
            if select.select([self.screen], [], [], 1.0)[0]:
                time.sleep(0.1)
                self.text += os.read(self.screen, 65536).decode(errors="replace")
        return self.shows(words)

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())


@contextmanager
def terminal(*arguments: str, **environment: str) -> Iterator[Terminal]:
    ours, its = pty.openpty()
    # Ctrl-C reaches only those whose controlling terminal this is.
    process = subprocess.Popen(
        [*WANSPEC, *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"TERM": "xterm-256color"} | environment,
        start_new_session=True,
    )
    os.close(its)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_turns_are_the_targets_own(small: Deployment, client: WanspecClient) -> None:
    said = f"{PROMPTS[0]}\n/policy local k=3\n{PROMPTS[2]}\n"
    command = [*WANSPEC, "chat", "--json", "--url", small.controller.grpc_endpoint, "--policy", "wanspec"]
    done = subprocess.run(
        [*command, "--max-tokens", "24"], input=said, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    expected = client.ask(PROMPTS[0], max_tokens=24, policy="target_only").result()
    assert (first["tokens"], first["summary"]["policy"]) == (expected.tokens, "wanspec")
    assert first["draft_passes_saved"] == first["summary"]["drafted_remote"]
    text = "\n".join([PROMPTS[0], expected.text, PROMPTS[2]])
    expected = client.ask(text, max_tokens=24, policy="target_only").result()
    assert (second["tokens"], second["summary"]["policy"]) == (expected.tokens, "local")


def test_ctrl_c_ends_the_answer_and_ctrl_d_the_chat(small: Deployment, client: WanspecClient) -> None:
    small.relay.set(delay_ms=40.0)  # so that an answer with the policy remote_sync takes seconds
    arguments = ("--url", small.controller.grpc_endpoint, "--policy", "remote_sync", "--max-tokens", "900")
    with terminal("chat", *arguments, NO_COLOR="") as shown:
        assert "/help lists" in shown.shows("tokens by origin")
        shown.shows("> ")
        shown.type(f"{PROMPTS[1]}\n")
        shown.shows(f"{PROMPTS[1]}\r\n")
        shown.shows("\x1b[1;32m")  # a token of the worker's
        os.killpg(shown.process.pid, signal.SIGINT)
        shown.shows("ended after ")
        assert 1 <= int(shown.shows(" tokens; what came stays")) < 900
        shown.shows("> ")
        shown.shows_interrupted("Ctrl-D or /exit ends the conversation")
        shown.shows("> ")
        shown.type("/policy target_only\n")
        shown.shows("policy: target_only")
        shown.shows("> ")
        shown.type("/nothing\n")
        shown.shows("there is no such command")
        shown.shows("> ")
        shown.type("\x04")
        assert shown.process.wait(SHOWN_S) == 0
    small.relay.set(delay_ms=0.0)
    wait_for_worker(client)
    answer = client.ask(PROMPTS[3], max_tokens=8, policy="wanspec").result()
    assert answer.tokens == client.ask(PROMPTS[3], max_tokens=8, policy="target_only").result().tokens


@pytest.mark.parametrize("settings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_origins_are_marked(small: Deployment, client: WanspecClient, settings: dict[str, str]) -> None:
    arguments = ("--url", small.controller.grpc_endpoint, "--policy", "remote_sync", "--max-tokens", "24")
    with terminal("generate", PROMPTS[0], *arguments, **settings) as shown:
        answer = shown.shows("tokens by origin: ")
        legend = shown.shows(" 24 tokens")
    assert "\x1b[3" not in answer
    assert "\x1b[1;3" not in answer
    if "TERM" in settings:
        assert "\x1b" not in answer + legend
        assert "[remote draft]" in legend
        assert "[" in answer
    else:
        assert "\x1b[1m" in answer
