"""Many requests at once on engines that take their time: nobody is kept waiting by somebody else's engine call."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from click.testing import CliRunner

from tests.integration.knocking import knock
from tests.integration.quick import QuickDeployment
from tests.unit.openai.front import serving
from wanspec.cli.group import cli
from wanspec.core.config import Fingerprint
from wanspec.core.messages import Frame, Header, Hello, Refuse, RefuseCode, Welcome
from wanspec.core.wire import decode, encode
from wanspec.errors import BusyError, InvalidRequestError
from wanspec.models import fingerprint, resolve
from wanspec.triton.client import Answer, WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import EngineSettings, RegionSettings

AT_ONCE = 60
STEP_MS = 500.0
CONTEXT = 40_000
RESERVED = CONTEXT
TOKEN = "a token that both sides know"


def long_context(model: Path, folder: Path) -> Path:
    """The model with room for a long prompt; engines that cost nothing do not mind."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text()) | {"max_position_embeddings": CONTEXT}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("many")
    (folder / "token").write_text(TOKEN)
    zero = EngineSettings(engine="zero", agreement=0.8)
    regions = RegionSettings(
        long_context(resolve("small-target"), folder / "target"),
        long_context(resolve("small-draft"), folder / "draft"),
        EngineSettings(engine="zero", pace_ms=STEP_MS),
        zero,
        zero,
        auth_token_file=str(folder / "token"),
        max_reserved_tokens=RESERVED,
        max_queue=2,
    )
    with QuickDeployment(DeploymentSettings(regions, log_dir=folder)) as deployment:
        yield deployment


def test_sixty_streams_advance_together_and_the_link_stays(deployment: Deployment) -> None:
    client = WanspecClient(deployment.controller.grpc_endpoint)

    def ask(index: int) -> tuple[Answer, float]:
        pending = client.ask([1 + index, 2, 3], max_tokens=4, policy="target_only", end_id=-1)
        last, longest = time.monotonic(), 0.0
        for _ in pending:
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return pending.answer, longest * 1e3

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(ask, range(AT_ONCE)))
    assert all(len(answer.tokens) == 4 for answer, _ in answers)
    # A request that comes during a step waits for its end, then takes part in the next.
    assert max(longest for _, longest in answers) < 4 * STEP_MS
    assert "dropped" not in deployment.controller.log.read_text()


def test_a_prompt_of_100_kb_and_its_next_turn(deployment: Deployment) -> None:
    client = WanspecClient(deployment.controller.grpc_endpoint)
    prompt = [1 + place % 4001 for place in range(25_000)]
    asked = {"max_tokens": 4, "end_id": -1}
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(client.ask([1, 2, 3], policy="remote_sync", **asked).result)
        answer = pool.submit(client.ask(prompt, policy="remote_sync", **asked).result).result()
        assert other.result().summary["accepted_remote"] > 0
    following = client.ask([*prompt, *answer.tokens, 7, 8, 9], policy="remote_sync", **asked).result()
    questions = (prompt, [*prompt, *answer.tokens, 7, 8, 9])
    alone = [client.ask(question, policy="target_only", **asked) for question in questions]
    assert [pending.result().tokens for pending in alone] == [answer.tokens, following.tokens]
    first, second = answer.summary, following.summary
    assert (first["lost"], second["lost"]) == ({}, {})
    assert first["remote_prefill_tokens"] >= 25_000
    assert first["bytes_up"] > 100_000
    assert second["bytes_up"] < 1_000
    assert second["accepted_remote"] > 0


@pytest.mark.parametrize(
    ("token", "tokenizer", "vocab", "outcome"),
    [
        (TOKEN, None, 0, None),
        ("wrong", None, 0, RefuseCode.AUTHENTICATION),
        ("", None, 0, RefuseCode.AUTHENTICATION),
        (TOKEN, b"x" * 32, 0, RefuseCode.TOKENIZER),
        (TOKEN, None, 1, RefuseCode.VOCABULARY),
    ],
)
def test_strangers_are_refused_at_connect(
    deployment: Deployment, token: str, tokenizer: bytes | None, vocab: int, outcome: RefuseCode | None
) -> None:
    mine = fingerprint(resolve("small-target"))
    print_ = Fingerprint(tokenizer or mine.tokenizer, mine.vocab_size + vocab)
    instance = bytes(range(16))
    hello = Hello(instance, print_.vocab_size, print_.tokenizer_hash, "", token)
    header = Header(int.from_bytes(instance[:8], "little"), 1, 1, want_reply=True)
    reply = knock(deployment.worker.grpc_endpoint, encode(Frame(header, (hello,))))
    (message,) = decode(reply).messages
    if outcome is None:
        assert isinstance(message, Welcome)
    else:
        assert isinstance(message, Refuse)
        assert message.code is outcome


def test_one_more_than_may_wait_is_busy_however_it_asks(deployment: Deployment) -> None:
    url = deployment.controller.grpc_endpoint
    client = WanspecClient(url)
    open_ones = [client.ask([1, 2, 3], max_tokens=RESERVED - 100, policy="target_only")]
    try:
        pieces = iter(open_ones[0])
        next(pieces)
        open_ones += [client.ask([1], max_tokens=200, policy="target_only") for _ in range(2)]
        until(lambda: client.control(token=TOKEN)["waiting"] == 2)
        with pytest.raises(BusyError, match=r"busy: 1 requests are under way and 2 wait, .* is 2; try again later"):
            client.ask([1], max_tokens=1).result()
        body = json.dumps({"text_input": "a"}).encode()
        generate = f"http://127.0.0.1:{deployment.controller.ports.http}/v2/models/wanspec/generate"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(generate, body, timeout=20)
        assert caught.value.code in (400, 503)  # Triton 2.51 has 400 for whatever a stream ends with
        assert json.load(caught.value)["error"].startswith("busy: ")
        caught.value.close()
        told = CliRunner().invoke(cli, ["generate", "a", "--url", url])
        assert (told.exit_code, "busy: 1 requests" in told.stderr) == (75, True)
        with serving(client) as front, openai.OpenAI(base_url=f"{front}/v1", api_key="x", max_retries=0) as asks:
            with pytest.raises(openai.InternalServerError) as refused:
                asks.completions.create(model="wanspec", prompt="a")
            assert (refused.value.status_code, refused.value.code) == (503, "busy")
            assert refused.value.response.headers["retry-after"] == "1"
    finally:
        for pending in open_ones:
            pending.cancel()
    until(lambda: not client.control(token=TOKEN)["reserved_tokens"])
    assert client.control(token=TOKEN)["totals"]["ended"]["busy"] == 4


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < deadline, "not within its time"
        time.sleep(0.02)


def test_control_wants_the_token(deployment: Deployment) -> None:
    client = WanspecClient(deployment.controller.grpc_endpoint)
    for token in ("", "wrong"):
        with pytest.raises(InvalidRequestError, match=r"control\.token"):
            client.control({"speculation": "off"}, token)
    assert client.control(token=TOKEN)["speculation"] == "remote"


def test_parameters_do_not_show_the_token(deployment: Deployment) -> None:
    assert TOKEN not in json.dumps(WanspecClient(deployment.controller.grpc_endpoint).parameters())
    assert TOKEN not in deployment.worker.log.read_text() + deployment.controller.log.read_text()


@pytest.mark.timeout(240)
def test_eight_long_sequences_keep_their_cache(small: Deployment) -> None:
    """Eight prompts of 900 tokens at once: a round costs its new tokens, not the prompt again."""
    client = WanspecClient(small.controller.grpc_endpoint)

    def ask(index: int) -> dict[str, object]:
        prompt = [1 + (index * 131 + place * 17) % 4000 for place in range(900)]
        return client.ask(prompt, max_tokens=12, policy="target_only", end_id=-1).result().summary

    alone = ask(0)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(1, 9)))
    # The prefill dominates; twelve rounds that computed the prompt anew would make it twelve of them.
    longest = max(float(str(summary["target_ms"])) for summary in together)
    assert longest < 12 * float(str(alone["target_ms"])), (alone, longest)
