"""What the rules ask with: requests to one server under a deadline, and what is known of its model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wanspec.conformance.answer import Answer
from wanspec.conformance.rule import RuleFailedError, RuleSkippedError
from wanspec.conformance.server import DTYPES, NOT_ANSWERS, Call, RefusedError, Running, Server
from wanspec.errors import ConfigError

OUTPUTS = ("output_ids", "sequence_length")
CONCURRENCY = 8
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Options:
    """How to check.

    Attributes:
        role: ``target`` (drafts must be served), ``draft`` (they must be refused), or empty: whatever it does.
        vocab_size: token ids are below it; None to take the width of the logits it returns.
        prompt_ids: prompts to use; empty for random ones.
        max_draft_len: the most drafts of a request; None to find out.
        most_drafts: longest drafts that are tried one length at a time.
        samples: draws of a test of a distribution.
        seed: of prompts and of the seeds that are sent.
        timeout_s: deadline of a request.
        rule_timeout_s: deadline of a rule.
    """

    role: str = ""
    vocab_size: int | None = None
    prompt_ids: Sequence[Sequence[int]] = ()
    max_draft_len: int | None = None
    most_drafts: int = 8
    samples: int = 2000
    seed: int = 0
    timeout_s: float = 60.0
    rule_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if self.role not in ("", "target", "draft"):
            raise ConfigError("role", f"{self.role!r} is unknown: use target or draft")
        for name, least in (("most_drafts", 1), ("samples", 100), ("timeout_s", 1), ("rule_timeout_s", 1)):
            if not getattr(self, name) >= least:
                raise ConfigError(name, f"is {getattr(self, name)}: must be at least {least}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What probing found out; see :mod:`wanspec.conformance.probe`.

    Attributes:
        vocab_size: token ids are below it; None where the server does not return logits and no option says.
        max_draft_len: 0 where drafts are refused.
        references: prompts with their greedy continuation.
        margin: least difference between the two largest logits along the references; None without logits.
    """

    vocab_size: int | None
    max_draft_len: int
    references: Sequence[Reference]
    margin: float | None


@dataclass(frozen=True, slots=True)
class Reference:
    """A prompt and what plain greedy generation makes of it."""

    prompt: list[int]
    output: list[int]

    def first(self, least: int, most: int | None = None) -> int:
        """An index from ``least`` on (below ``most``) whose token is not in the output before it.

        Raises:
            RuleSkippedError: there is none.
        """
        for index in range(least, min(len(self.output), most or len(self.output))):
            if self.output[index] not in self.output[:index]:
                return index
        raise RuleSkippedError("the greedy text repeats itself too early: choose another prompt (--prompt-ids)")


class Subject:
    """A server under test. ``facts`` are known once :func:`wanspec.conformance.probe.probe` has run."""

    def __init__(self, server: Server, options: Options) -> None:
        self.server, self.options = server, options
        self.rng = np.random.default_rng(options.seed)
        # Not seeded: a prompt that an earlier run has sent is in the cache.
        self._fresh = np.random.default_rng()
        self.requests = 0
        self._facts: Facts | None = None
        self._until = time.monotonic() + options.rule_timeout_s

    @property
    def probed(self) -> bool:
        """Whether anything is known of the model."""
        return self._facts is not None

    @property
    def facts(self) -> Facts:
        """What probing found out."""
        if self._facts is None:
            raise RuleSkippedError("plain generation does not work: nothing to compare with")
        return self._facts

    @facts.setter
    def facts(self, facts: Facts) -> None:
        self._facts = facts

    @property
    def decoupled(self) -> bool:
        """Whether the model may send any number of responses."""
        return self.server.info.decoupled

    @property
    def reference(self) -> Reference:
        """The first prompt with its greedy continuation."""
        return self.facts.references[0]

    @property
    def vocab(self) -> int:
        """Vocabulary size.

        Raises:
            RuleSkippedError: it is not known.
        """
        if self.facts.vocab_size is None:
            raise RuleSkippedError("the vocabulary is not known: give --vocab-size")
        return self.facts.vocab_size

    def begin(self) -> None:
        """Start the deadline of a rule and make its random numbers those of the seed alone."""
        self._until = time.monotonic() + self.options.rule_timeout_s
        self.rng = np.random.default_rng(self.options.seed)

    def longest_drafts(self) -> int:
        """Most drafts that are tried.

        Raises:
            RuleSkippedError: the server takes no drafts and is not expected to.
            RuleFailedError: it takes none, but is a target.
        """
        if self.facts.max_draft_len == 0:
            if self.options.role == "target":
                raise RuleFailedError("one draft of a target", "verified", "refused")
            raise RuleSkippedError("the engine takes no drafts")
        return min(self.facts.max_draft_len, self.options.most_drafts)

    def ask(
        self,
        prompt: Sequence[int],
        count: int,
        drafts: Sequence[int] | None = None,
        *,
        want: Sequence[str] = (),
        started: Callable[[Running], None] | None = None,
        request_id: str = "",
        **values: Any,
    ) -> Answer:
        """Send one request: greedy and without the prompt in its answer, unless ``values`` say otherwise.

        Args:
            prompt: input_ids.
            count: request_output_len.
            drafts: draft_input_ids.
            want: outputs beyond output_ids and sequence_length.
            started: gets the call in flight.
            request_id: Triton's.
            values: further inputs by name: a scalar, or a tensor with its batch dimension.

        Raises:
            RefusedError, CannotAskError, ServerError: see :class:`~wanspec.conformance.server.Server`.
        """
        inputs: dict[str, Any] = {
            "input_ids": np.asarray([prompt], dtype=np.int32),
            "input_lengths": len(prompt),
            "request_output_len": count,
            "exclude_input_in_output": True,
        }
        if drafts is not None:
            inputs["draft_input_ids"] = np.asarray([drafts], dtype=np.int32)
        if not {"runtime_top_k", "runtime_top_p", "temperature"} & values.keys():
            inputs["runtime_top_k"] = 1
        return self.send(inputs | values, (*OUTPUTS, *want), started, request_id)

    def send(
        self,
        inputs: dict[str, Any],
        outputs: Sequence[str] = OUTPUTS,
        started: Callable[[Running], None] | None = None,
        request_id: str = "",
    ) -> Answer:
        """Send a request as it is; a value of None leaves an input out."""
        self.requests += 1
        tensors = {name: self._tensor(name, value) for name, value in inputs.items() if value is not None}
        left = self._until - time.monotonic()
        if left <= 0:
            raise RuleFailedError("the rule's deadline", f"{self.options.rule_timeout_s:g} s", "exceeded")
        call = Call(tensors, outputs, request_id, min(left, self.options.timeout_s))
        return Answer.of(self.server.infer(call, started))

    def text(self, prompt: Sequence[int], count: int, drafts: Sequence[int] | None = None, **values: Any) -> list[int]:
        """New tokens of one request; see :meth:`ask`."""
        return self.ask(prompt, count, drafts, **values).tokens

    def refused(self, what: str, attempt: Callable[[], Answer]) -> str:
        """The error that an attempt ends with.

        Raises:
            RuleFailedError: it was answered, or did not get an answer at all.
        """
        try:
            answer = attempt()
        except RefusedError as error:
            if error.code in NOT_ANSWERS:
                raise RuleFailedError(what, "an error about the request", error) from error
            return str(error)
        raise RuleFailedError(what, "an error", f"tokens {answer.tokens[:8]}")

    def together(self, function: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """Results of calls that are in flight at the same time, in order."""
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            return list(pool.map(function, items))

    def other(self, token: int, *, avoid: Sequence[int] = ()) -> int:
        """A token that is neither ``token`` nor in ``avoid``."""
        taken = {token, *avoid}
        bound = self.facts.vocab_size or max(max(taken) + len(taken) + 2, 16)
        return next(other for other in ((token + 1 + step) % bound for step in range(bound)) if other not in taken)

    def prompt(self, length: int) -> list[int]:
        """A random prompt that has not been sent before, by this run or another one."""
        bound = self.facts.vocab_size or max(max(self.reference.prompt) + 1, 2)
        return [int(token) for token in self._fresh.integers(min(3, bound - 1), bound, length)]

    def seeds(self, count: int) -> list[int]:
        """Seeds to send."""
        return [int(seed) for seed in self.rng.integers(1, 2**63, count)]

    def _tensor(self, name: str, value: Any) -> NDArray[Any]:
        info = self.server.info.inputs.get(name)
        if info is None:
            raise RuleSkippedError(f"the model's configuration declares no input {name}")
        array = np.asarray(value) if isinstance(value, np.ndarray) else np.array([[value]])
        return array.astype(DTYPES.get(info.dtype, array.dtype), copy=False)
