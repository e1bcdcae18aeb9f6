"""Waiting for models, with an API that answers as Triton does."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanspec.errors import ServerError
from wanspec.triton.api import TritonApi
from wanspec.triton.readiness import READY_PROBES, Readiness


class Running:
    running = True
    exit_code = None


class Api(TritonApi):
    """Loads at once; the first probes of a model get no answer."""

    unanswered = 0

    def load(self, model: str, timeout_s: float) -> None:
        pass

    def model_ready(self, model: str) -> bool:
        Api.unanswered -= 1
        return Api.unanswered < 0


def load(log: Path, unanswered: int) -> list[str]:
    Api.unanswered = unanswered
    pending = ["a"]
    Readiness("server", 10, None).load(Running(), Api("127.0.0.1", 1), log, 0, ["a"], pending)
    return pending


def test_a_probe_without_an_answer_is_tried_again(tmp_path: Path) -> None:
    assert load(tmp_path / "log", READY_PROBES - 1) == []


def test_a_model_that_never_answers_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    with pytest.raises(ServerError, match="model a does not load\nit was loaded but is not ready"):
        load(tmp_path / "log", READY_PROBES)
