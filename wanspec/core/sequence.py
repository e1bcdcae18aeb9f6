"""One request in decoding: the decoding loop. Decide, draft or wait, verify, commit, repeat.

This is the only decoding loop of the project; a :class:`~wanspec.core.controller.Controller` holds many.
"""

from __future__ import annotations

from math import inf

from wanspec.core.arrivals import Arrivals
from wanspec.core.config import ControllerConfig
from wanspec.core.control import Control, Speculation
from wanspec.core.costs import CostModel
from wanspec.core.coupling import draft_sampling, drafting_for
from wanspec.core.engine_call import EngineCall, until_end
from wanspec.core.estimators import Estimators, entropy_from_log_prob
from wanspec.core.events import (
    Abort,
    Action,
    ActionId,
    Draft,
    Drafted,
    Emit,
    Failed,
    Finished,
    Request,
    Verified,
    Verify,
)
from wanspec.core.options import GenerationOptions
from wanspec.core.policies import DraftLocally, Outcome, VerifyNow, Wait
from wanspec.core.remote import RemoteDrafts
from wanspec.core.roundlog import Flight, RoundLog
from wanspec.core.rounds import Round, StepKind, Tally
from wanspec.core.shadow import Shadow
from wanspec.core.tree import Node, Origin, TokenTree

_PREPARE_MS = 1.0
"""From the call of the target on, which is to be under way by then, until the policy computes ahead."""


class Sequence:
    """The state of one request. Implements :class:`wanspec.core.policies.base.View`."""

    def __init__(
        self,
        number: int,
        request: Request,
        control: Control,
        config: ControllerConfig,
        estimators: Estimators,
        submitted: float,
        now: float,
    ) -> None:
        self.number = number
        self.request = request
        self.policy = control.make_policy(request.policy, request.parameters)
        self.estimators = estimators
        self.tree = TokenTree(request.prompt)
        self.tally = Tally()
        self.log = RoundLog(len(request.prompt), submitted)
        self._drafts_by = draft_sampling(request.sampling, config.sampling)
        drafting = drafting_for(self.policy.drafting(estimators), self._drafts_by)
        self.remote = RemoteDrafts(number, self.tree, self.tally, drafting, request.traceparent, config.piece_tokens)
        self.arrivals = Arrivals(self.tree, estimators)
        self.shadow: Shadow | None = None
        self.overdue = False
        self.opened_ms = now
        self.finished = False
        self.end_reason = ""
        self._control = control
        self._config = config
        self._submitted = submitted
        self._began: float | None = None
        self._first_token: float | None = None
        self._local_draft = config.local_draft
        self._actions = 0
        self._pending: EngineCall | None = None
        self._retries_left = config.engine_retries
        self._wait_began: float | None = None
        self._wake: float | None = None
        self._before_end = request.options.without_end(request.end_ids, config.fingerprint.vocab_size)
        self.aim()

    # What a policy sees

    @property
    def generated(self) -> int:
        """Tokens committed since the prompt."""
        return len(self.tree.tokens) - len(self.request.prompt)

    @property
    def remaining(self) -> int:
        """Tokens still wanted."""
        return self.request.max_tokens - self.generated

    @property
    def most_drafts(self) -> int:
        """Most drafts the next verification can use: the tokens still wanted but one, and the engine's limit.

        Nor does a pass in which the answer may not end yet go beyond ``min_tokens``: its options hold for all of it.
        """
        most = min(self.remaining - 1, self._config.max_draft)
        return min(most, self._held_back - 1) if self._held_back > 0 else most

    @property
    def worker_ready(self) -> bool:
        """A worker drafts for this sequence and is not overdue."""
        return self.remote.open and not self.overdue and self.shadow is None

    @property
    def local_draft(self) -> bool:
        """A local draft model exists and works."""
        return self._local_draft

    @property
    def verify_costs(self) -> CostModel | None:
        """What passes of the target cost by length; None where not calibrated."""
        return self._config.verify_costs

    @property
    def draft_costs(self) -> CostModel | None:
        """What passes of the local draft cost; None where not calibrated."""
        return self._config.draft_costs

    def depth(self, limit: int) -> int:
        """Length of the best path, at most ``limit``."""
        return len(self.tree.best_path(limit))

    @property
    def waited_ms(self) -> float | None:
        """When the present wait began, None where there is none."""
        return self._wait_began

    @property
    def rounds(self) -> list[Round]:
        """Those that have ended."""
        return self.log.rounds

    # What an operator sets

    @property
    def wants_worker(self) -> bool:
        """Whether a worker is to draft for it."""
        return self.policy.uses_worker and self._control.speculation in (Speculation.SHADOW, Speculation.REMOTE)

    @property
    def submitted(self) -> float:
        """When its request came, ms."""
        return self._submitted

    def adopt(self, control: Control) -> None:
        """Go on as an operator says now. The worker has to open the sequence again, if it is to draft further on."""
        before, self._control = self._control, control
        renewed = not self.request.policy and not control.same_policy(before)
        if renewed:
            self.policy = control.make_policy("", {})
        if renewed or control.speculation is not before.speculation:
            self.overdue = False
            self.remote.close()
            if before.speculation is Speculation.REMOTE:
                self.tree.clear()
            self.aim()

    def aim(self) -> None:
        """Choose, by what is known now, how the worker drafts and which tree that goes to: from the next opening on."""
        shadowed = self.wants_worker and self._control.speculation is Speculation.SHADOW
        self.shadow = Shadow(self.tree.tokens, self.estimators, self.tally.shadow) if shadowed else None
        tree = self.tree if self.shadow is None else self.shadow.tree
        self.remote.aim(tree, drafting_for(self.policy.drafting(self.estimators), self._drafts_by))

    @property
    def seen(self) -> Arrivals:
        """What measures the worker's drafts."""
        return self.arrivals if self.shadow is None else self.shadow.arrivals

    def take_measured(self) -> list[tuple[str, float]]:
        """Return what has been measured for the estimators, once."""
        measured, self.arrivals.measured = self.arrivals.measured, []
        if self.shadow is not None:
            measured += self.shadow.arrivals.measured
            self.shadow.arrivals.measured = []
        return measured

    # The loop

    def begin(self, now: float) -> list[Action]:
        """Its turn has come."""
        self._began = self.opened_ms = now
        self.log.begin(now)
        return self.advance(now)

    def advance(self, now: float) -> list[Action]:
        """Do what can be done now: nothing while an engine call is under way."""
        if self.finished or self._pending is not None:
            return []
        off = self._control.speculation is Speculation.OFF
        decision = VerifyNow(0) if off else self.policy.decide(self, now)
        if isinstance(decision, Wait):
            if self._wait_began is None:
                self._begin_wait(decision, now)
            if now < self._wait_began_at(now) + decision.limit_ms:
                self._wake = self._wait_began_at(now) + decision.limit_ms
                return []
            self.tally.wait_timeouts += 1
            self.log.event("wait timed out", now)
            self.overdue = True
            decision = self.policy.decide(self, now)
        self._end_wait(now)
        if isinstance(decision, DraftLocally):
            if self.log.current.local_passes < self._config.max_draft:
                return self._draft(decision, now)
            decision = VerifyNow(self.most_drafts)  # more can never be of use, whatever the policy thinks
        assert isinstance(decision, VerifyNow), "a policy may not wait for a worker that is overdue"
        return self._verify(decision, now)

    def objection(self, event: Verified | Drafted) -> str:
        """Say how an engine's answer breaks its contract; nothing if it does not. Such an answer is a failed call."""
        assert self._pending is not None, "an answer that is awaited"
        return self._pending.objection(event, self._config.fingerprint.vocab_size, self.request.log_probs)

    def verified(self, event: Verified, now: float) -> list[Action]:
        """The target's answer, to which :meth:`objection` had none: accepted drafts, one token of its own. Commit."""
        call = self._settle(now, event.engine_ms)
        path = call.path
        accepted = len(event.tokens) - 1
        committed, ended = until_end(event.tokens, self.remaining, self.tree.tokens, self.request)
        self._account(path, accepted, committed, event, now)
        self.policy.verified(self._outcome(call, accepted, event, now), now)
        origins = tuple(path[i].origin if i < accepted else Origin.TARGET for i in range(len(committed)))
        if self.shadow is not None:
            self.shadow.committing(committed, now)
        arrival = self.arrivals.committing(committed, now)
        hits = self.tree.descend(committed)
        self.tally.tree_hits += hits
        self.tally.tree_misses += len(committed) - hits
        self.tree.root.arrival_ms = arrival
        actions: list[Action] = []
        if committed:
            if self._first_token is None:
                self._first_token = now
            log_probs = event.log_probs[: len(committed)] if self.request.log_probs else ()
            actions.append(Emit(self.number, committed, origins, log_probs))
        if ended or self.remaining <= 0:
            return actions + self.finish("stop" if ended else "length", now)
        self.remote.commit(committed)
        return actions

    def heard(self, length: int, rtt_ms: float | None, now: float) -> None:
        """Drafts after the first ``length`` committed tokens have come, in a frame that measured ``rtt_ms``."""
        sent = self.arrivals.committed_ms(length)
        usual = self.estimators.median("rtt")
        rtt = usual if rtt_ms is None else rtt_ms
        self.log.flight = None if sent is None or rtt is None else Flight(sent, rtt, now)
        if rtt_ms is not None:
            self.log.round_trip(rtt_ms, usual, now)

    def drafted(self, event: Drafted, now: float) -> None:
        """The local draft's answer: add it below the path it was drafted after."""
        path = self._settle(now, event.engine_ms).path
        node = path[-1] if path else self.tree.root
        self.tally.local_draft_passes += len(event.tokens)
        self.tally.local_draft_ms += event.engine_ms
        self.log.current.local_passes += len(event.tokens)
        if self.shadow is not None:
            self.shadow.drafted(len(event.tokens))
        for index, token in enumerate(event.tokens):
            log_prob = event.log_probs[index] if event.log_probs else 0.0
            following = self.tree.add(node, token, log_prob, Origin.LOCAL, now)
            if following is None:
                return
            node = following

    def failed(self, event: Failed, now: float) -> list[Action]:
        """An engine call failed: do without the local draft, or try the target again, or give up."""
        drafting = self._pending is not None and self._pending.drafts > 0
        self._settle(now, 0.0, event.error)
        if drafting:
            self._local_draft = False
            self.tally.causes["local draft failed"] += 1
            self.log.event("local draft failed", now)
            return []
        if self._retries_left > 0:
            self._retries_left -= 1
            self.tally.engine_retries += 1
            self.log.event("target failed", now)
            return []
        return self.finish("error", now, event.error)

    def deadline(self) -> float:
        """When :meth:`tick` has something to do."""
        due = self._submitted + self.request.deadline_ms if self.request.deadline_ms > 0 else inf
        if self._pending is not None:
            return min(due, self._pending.since_ms + self._config.engine_ms, self._pending.prepare_ms)
        return due if self._wake is None else min(due, self._wake)

    def tick(self, now: float) -> list[Action]:
        """Act on a deadline that has passed."""
        if self.finished:
            return []
        if self.request.deadline_ms > 0 and now >= self._submitted + self.request.deadline_ms:
            return self.finish("deadline", now, f"deadline_ms: {self.request.deadline_ms:g} ms have passed")
        call = self._pending
        if call is not None and now >= call.prepare_ms:
            call.prepare_ms = inf
            self.policy.prepare(self, now)
        if call is not None and now >= call.since_ms + self._config.engine_ms:
            what = "local draft" if call.drafts else "target"
            late = Failed(call.action, f"the {what} did not answer within {self._config.engine_ms:g} ms")
            return [Abort(call.action), *self.failed(late, now)]
        return []

    def finish(self, reason: str, now: float, error: str = "") -> list[Action]:
        """End the sequence, whatever it is doing."""
        if self.finished:
            return []
        self._end_wait(now)
        self.finished, self.end_reason = True, reason
        actions: list[Action] = []
        if self._pending is not None:
            actions.append(Abort(self._pending.action))
            self._settle(now, 0.0, reason)
        self.remote.close()
        rounds = self.log.closed(now, self.estimators.median("rtt"), self.remote.epoch, self.tally)
        ended = Finished(
            self.number, reason, self.summary(reason, now), error, rounds=rounds, submitted_ms=self._submitted
        )
        return [*actions, ended]

    def called_ms(self, now: float) -> float:
        """For how long the engine call that is under way has been; 0 where none is."""
        return 0.0 if self._pending is None else now - self._pending.since_ms

    def awaits(self, action: ActionId) -> bool:
        """Whether this engine call's answer is still wanted."""
        return not self.finished and self._pending is not None and self._pending.action == action

    def summary(self, reason: str, now: float) -> dict[str, object]:
        """What the request cost, as plain values."""
        first = self._first_token
        rtt, worker_pass = self.estimators.median("rtt"), self.estimators.median("pass")
        return {
            "policy": self.policy.name,
            "regime": self.policy.regime,
            "finish_reason": reason,
            "prompt_tokens": len(self.request.prompt),
            "output_tokens": self.generated,
            "queued_ms": round((now if self._began is None else self._began) - self._submitted, 3),
            "latency_ms": round(now - self._submitted, 3),
            "ttft_ms": None if first is None else round(first - self._submitted, 3),
            "rtt_ms": None if rtt is None else round(rtt, 3),
            "pass_ms": None if worker_pass is None else round(worker_pass, 3),
            "seed": None if self.request.sampling.greedy else self.request.sampling.seed,
            **self.tally.as_dict(),
        }

    # Steps of the loop

    def _draft(self, decision: DraftLocally, now: float) -> list[Action]:
        path = self.tree.best_path(self._config.max_draft) if decision.path is None else list(decision.path)
        self._cause(decision.cause)
        if self.shadow is not None:
            self.shadow.drafting(len(path), decision.count)
        action = self._call(path, now, decision.count).action
        tokens = tuple(node.token for node in path)
        committed = len(self.tree.tokens)
        return [Draft(action, self.tree.tokens, committed, tokens, decision.count, self._drafts_by, self._options)]

    def _verify(self, decision: VerifyNow, now: float) -> list[Action]:
        path = list(decision.path) or self.tree.best_path(min(decision.count, self.most_drafts))
        if self.shadow is not None:
            self.shadow.verifying(self.most_drafts)
        self.log.decided("", self.policy.scores)
        call = self._call(path, now)
        if self._control.speculation is not Speculation.OFF and self.policy.unprepared:
            call.prepare_ms = now + _PREPARE_MS
        self.log.verifying(now)
        drafts = tuple(node.token for node in path)
        committed, log_probs = len(self.tree.tokens), self.policy.wants_entropy or self.request.log_probs
        sampling, first = self.request.sampling, self.tally.rounds == 0
        return [Verify(call.action, self.tree.tokens, committed, drafts, log_probs, sampling, self._options, first)]

    @property
    def _held_back(self) -> int:
        """Tokens still to come before the answer may end."""
        return self.request.options.min_tokens - self.generated if self.request.end_ids else 0

    @property
    def _options(self) -> GenerationOptions:
        return self._before_end if self._held_back > 0 else self.request.options

    def _call(self, path: list[Node], now: float, drafts: int = 0) -> EngineCall:
        self._actions += 1
        self._pending = EngineCall((self.number, self._actions), path, now, drafts)
        return self._pending

    def _settle(self, now: float, engine_ms: float, failure: str = "") -> EngineCall:
        call, self._pending = self._pending, None
        assert call is not None, "a call is under way"
        self.log.called(StepKind.DRAFT if call.drafts else StepKind.VERIFY, call.since_ms, now, engine_ms, failure)
        return call

    def _outcome(self, call: EngineCall, accepted: int, event: Verified, now: float) -> Outcome:
        entropy = self._entropy(call.path, accepted, event)
        queued_ms = max(0.0, now - call.since_ms - event.engine_ms)
        remote = sum(node.origin is Origin.REMOTE for node in call.path)
        return Outcome(len(call.path), accepted, entropy, queued_ms, remote)

    def _entropy(self, path: list[Node], accepted: int, event: Verified) -> float | None:
        """Estimate for the bonus token. It stands for the risk that the worker has not foreseen it.

        With coupled noise that risk is known where the worker has drafted so far: the token is in the tree, or is not.
        Elsewhere a sampled token's -log p stands in, whose expectation is the entropy.
        """
        coupled = not self._drafts_by.greedy
        node = path[accepted - 1] if accepted else self.tree.root
        if coupled and node.children:
            return 0.0 if node.child(event.tokens[-1]) is not None else None
        if len(event.log_probs) != len(event.tokens) or event.log_probs[-1] != event.log_probs[-1]:
            return None
        if self.request.sampling.greedy:
            return entropy_from_log_prob(event.log_probs[-1])
        return max(0.0, -event.log_probs[-1])

    def _account(
        self, path: list[Node], accepted: int, committed: tuple[int, ...], event: Verified, now: float
    ) -> None:
        tally = self.tally
        tally.rounds += 1
        tally.target_ms += event.engine_ms
        if event.blocks:
            new, reused, total = event.blocks
            tally.kv_cache_alloc_new_blocks, tally.kv_cache_reused_blocks = new, reused
            tally.kv_cache_alloc_total_blocks = total
        self._retries_left = self._config.engine_retries
        for index, node in enumerate(path):
            tally.verified(index, node.origin, index < min(accepted, len(committed)))
        self.remote.committing(committed)
        rtt, epoch = self.estimators.median("rtt"), self.remote.epoch
        self.log.end(path, accepted, committed, now, engine_ms=event.engine_ms, rtt_ms=rtt, epoch=epoch, tally=tally)

    def _begin_wait(self, decision: Wait, now: float) -> None:
        self._wait_began = now
        self.tally.waits += 1
        self._cause("wait for " + decision.cause)

    def _wait_began_at(self, now: float) -> float:
        return now if self._wait_began is None else self._wait_began

    def _end_wait(self, now: float) -> None:
        self._wake = None
        if self._wait_began is not None:
            self.tally.waited_ms += now - self._wait_began
            self.log.waited(self._wait_began, now)
            self._wait_began = None

    def _cause(self, cause: str) -> None:
        self.tally.causes[cause] += 1
        self.log.decided(cause, self.policy.scores)
