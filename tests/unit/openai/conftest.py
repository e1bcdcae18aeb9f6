"""One front for all tests over an endpoint that each of them tells what to play."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.unit.openai.front import Endpoint, client_of, serving


@pytest.fixture(scope="module")
def front() -> Iterator[tuple[Endpoint, str]]:
    endpoint = Endpoint()
    with serving(endpoint, max_requests=4) as url:
        yield endpoint, url


@pytest.fixture
def endpoint(front: tuple[Endpoint, str]) -> Endpoint:
    front[0].play("Be", "cause", " it is.")
    return front[0]


@pytest.fixture
def url(front: tuple[Endpoint, str]) -> str:
    return front[1]


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_of(url) as client:
        yield client
