"""One endpoint, asked the same prompts by several policies: what ``demo`` and ``bench`` share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from wanspec.bench.reference import Reference
from wanspec.core.replay import replay
from wanspec.errors import ServerError
from wanspec.exactness import Exactness
from wanspec.network.tls import Tls
from wanspec.triton.client import Pending, WanspecClient
from wanspec.triton.connection import Connection

LINK_TIMEOUT_S = 20.0
TARGET_ONLY = "target_only"
STRICT_DTYPE = "float64"
_NO_END = -1


class Session:
    """An endpoint and how it is asked.

    Attributes:
        url: ``host:port`` of gRPC.
        tls: of it; plaintext where None.
        client: of the endpoint.
        parameters: of its model ``wanspec``.
        chat: whether prompts go through a chat template.
    """

    def __init__(self, url: str, *, ignore_end: bool = False, timeout_s: float = 120.0, tls: Tls | None = None) -> None:
        """Read the endpoint's settings.

        Args:
            url: ``host:port`` of gRPC.
            ignore_end: go on to ``max_tokens`` where the model would end.
            timeout_s: longest silence of a request.
            tls: of it; plaintext where None.

        Raises:
            ServerError: the endpoint cannot be reached, or is none of ours.
            ConfigError: a file of ``tls`` cannot be used.
        """
        self.url, self.tls = url, tls
        self.client = WanspecClient(url, timeout_s=timeout_s, tls=tls)
        self.parameters = self.client.parameters()
        self.chat = self.parameters.get("chat_template") == "yes"
        self._end_id = _NO_END if ignore_end else None
        self._ids: dict[str, tuple[int, ...]] = {}

    @property
    def target_dir(self) -> Path:
        """The target's folder, where the endpoint runs."""
        return Path(self.parameters.get("target_dir", ""))

    @property
    def target_model(self) -> str:
        """Name of the target's model."""
        return self.parameters.get("target_model") or "target"

    def connect(self) -> Connection:
        """A connection for requests that are not of the model ``wanspec``; the caller closes it."""
        return Connection(self.url, self.tls.credentials() if self.tls is not None else None)

    @cached_property
    def target_parameters(self) -> dict[str, str]:
        """Settings of the target's engine, if it is one of ours: ``dtype``, ``pace_ms``, ``time_scale`` and more."""
        return WanspecClient(self.url, model=self.target_model, tls=self.tls).parameters()

    @property
    def strict(self) -> bool:
        """Whether outputs must be equal token by token: the engines compute in float64."""
        return self.target_parameters.get("dtype") == STRICT_DTYPE

    def ask(
        self,
        prompt: str | Sequence[int],
        policy: str,
        parameters: Mapping[str, float | int | str] | None = None,
        max_tokens: int | None = None,
        *,
        event_log: bool = False,
    ) -> Pending:
        """Send a request."""
        return self.client.ask(
            prompt,
            chat=self.chat if isinstance(prompt, str) else None,
            max_tokens=max_tokens,
            end_id=self._end_id,
            policy=policy,
            policy_parameters=parameters,
            event_log=event_log,
        )

    def await_worker(self, prompt: str, policy: str, hint: str = "see its log") -> None:
        """Warm the engines up until the worker has joined.

        Raises:
            ServerError: it has not within 20 s; ``hint`` says what to do.
        """
        deadline = time.monotonic() + LINK_TIMEOUT_S
        while self.ask(prompt, policy, max_tokens=4).result().summary["rtt_ms"] is None:
            if time.monotonic() > deadline:
                raise ServerError(f"the worker has not joined within {LINK_TIMEOUT_S:g} s; {hint}, or try again")

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """A prompt's token ids, as the endpoint makes them; asked for once."""
        if prompt not in self._ids:
            answer = self.ask(prompt, TARGET_ONLY, max_tokens=1, event_log=True).result()
            (replayed,) = replay(answer.event_log).values()
            self._ids[prompt] = replayed.prompt
        return self._ids[prompt]

    def check(
        self,
        prompt: str,
        expected: Sequence[int],
        tokens: Sequence[int],
        policy: str,
        parameters: Mapping[str, float | int | str] | None = None,
    ) -> Exactness:
        """Compare a policy's output with the target's own, ``expected``.

        Raises:
            ModelError: they differ and the target's folder is not on this machine.
        """

        def generate(ids: Sequence[int], count: int) -> Sequence[int]:
            return self.ask(ids, policy, parameters, count).result().tokens

        return Reference(self, prompt, expected).check(tokens, generate)

    def holds(self, exactness: Exactness) -> bool:
        """Whether an output is the target's own: strictly in float64, else by the rule for floating point."""
        return exactness.identical if self.strict else exactness.holds
