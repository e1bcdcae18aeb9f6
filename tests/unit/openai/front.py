"""The front on a real port, over an endpoint that plays what the test says."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai

from wanspec.errors import RequestCancelledError
from wanspec.openai.app import make_app
from wanspec.openai.serve import bind, make_server
from wanspec.openai.settings import FrontSettings
from wanspec.openai.upstream import Client
from wanspec.triton.client import Answer, Piece

STARTED_S = 10.0


class Played:
    """A request under way: pieces as they are told, until it is interrupted."""

    def __init__(self, told: list[str | Exception], summary: dict[str, Any]) -> None:
        self.answer = Answer(finish_reason="stop", summary=summary)
        self.interrupted = threading.Event()
        self.taken = 0
        self._told = told

    def __iter__(self) -> Iterator[Piece]:
        for number, said in enumerate(self._told):
            if isinstance(said, Exception):
                raise said
            if said == "WAIT":
                assert self.interrupted.wait(STARTED_S), "nobody cancelled"
            if self.interrupted.is_set():
                raise RequestCancelledError("cancelled")
            self.taken += 1
            yield Piece(said, (7,), (), 0 if number else 5)

    def interrupt(self) -> None:
        self.interrupted.set()


class Endpoint:
    """Answers every request alike; keeps what was asked."""

    up = True

    def __init__(self, *told: str | Exception) -> None:
        self.play(*told)

    def play(self, *told: str | Exception) -> None:
        """From now on, and forget what was asked."""
        self._told = list(told)
        self.asked: list[tuple[Any, dict[str, Any]]] = []
        self.played: list[Played] = []

    def ask(self, prompt: Any, **options: Any) -> Played:
        self.asked.append((prompt, options))
        summary = {"rounds": 3} if options["summary"] else {}
        self.played.append(Played(self._told, summary))
        return self.played[-1]

    def ready(self) -> bool:
        return self.up


@contextmanager
def serving(client: Client | Endpoint, **settings: Any) -> Iterator[str]:
    """Yield the base URL of a running front."""
    listener = bind("127.0.0.1", 0)
    server = make_server(make_app(client, FrontSettings(**settings)))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(STARTED_S)
        listener.close()
        assert not thread.is_alive()


def wait_until(holds: Callable[[], bool], timeout_s: float = STARTED_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not within the time allowed"
        time.sleep(0.01)


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20.0)


def post(url: str, body: bytes, path: str = "/v1/completions") -> tuple[int, dict[str, Any], dict[str, str]]:
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)
