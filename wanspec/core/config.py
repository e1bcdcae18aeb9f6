"""Settings of the core that are not a request's. All times in ms."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from wanspec.core.costs import UNMEASURED, CostModel

DEFAULT_POLICY = "adaptive"
"""Of requests that name none."""


class SamplingMode(str, Enum):
    """How drafts are verified above temperature 0 (``docs/sampling.md``)."""

    COUPLED = "coupled"
    """Target and draft draw with the same noise, as our engines do: output is byte-exact."""
    TENSORRT_LLM = "tensorrt_llm"
    """Drafts are greedy and go with one-hot ``draft_logits`` and a fresh seed a round: output is law-exact."""
    LOGITS = "logits"
    """An experiment: the engine returns its logits, and the controller draws with the coupled noise: byte-exact."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What two regions compare before they work together.

    Attributes:
        tokenizer_hash: 32 bytes over everything that decides what a token id means.
        vocab_size: rows of the model's output.
        draft_id: names the draft model; shown, not compared.
    """

    tokenizer_hash: bytes
    vocab_size: int
    draft_id: str = ""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """How a controller keeps a link.

    Attributes:
        ping_ms: a frame that wants a reply is sent this long after the last one that did.
        dead_ms: a link that has been silent for this long, four round trips at least, is dropped.
        handshake_ms: longest from connecting to the worker's welcome.
        backoff_ms, backoff_max_ms: first and longest pause before connecting again; it doubles.
        refused_ms: pause after the worker refused the link.
    """

    ping_ms: float = 200.0
    dead_ms: float = 1_500.0
    handshake_ms: float = 5_000.0
    backoff_ms: float = 100.0
    backoff_max_ms: float = 5_000.0
    refused_ms: float = 30_000.0


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """Settings of a controller.

    Attributes:
        fingerprint: of the target's tokenizer and vocabulary.
        links: to all workers together.
        streams: links to one worker, which stand in a row; each is a connection, and a sequence stays on one.
        link: how links are kept.
        auth_token: sent to workers in the first message of a link.
        context: longest sequence in tokens, the target's own limit.
        max_sequences: most sequences that decode at once; None for no limit. Others wait for their turn.
        max_reserved_tokens: most tokens that they may come to hold together, each its prompt and ``max_tokens``.
        max_queue: most sequences that wait; a request beyond that is refused as busy.
        max_draft: most drafts in one verification, the target engine's max_draft_len.
        local_draft: a local draft model exists.
        engine_ms: longest that an engine call may take before the request fails.
        engine_retries: how often a failed verification is tried again.
        reopen_limit: how often a sequence is opened again after the worker lost it, by cause of the worker's own.
        sampling: how drafts are verified above temperature 0.
        verify_costs, draft_costs: what passes of the target and of the local draft cost; None where not calibrated.
        kept_sequences, kept_tokens: of ended sequences whose tokens workers are believed to have still; 0 sends every
            prompt whole.
        kept_ms: for how long; less than workers keep them.
        least_reuse: a prefix shorter than this, in tokens, is sent again rather than named.
        piece_tokens: most tokens of a prompt in one frame.
        upload_bytes: pieces of prompts that are under way on one link at most, its round trip away from an answer.
    """

    fingerprint: Fingerprint
    links: int = 1
    streams: int = 1
    link: LinkConfig = LinkConfig()
    auth_token: str = ""
    context: int = 1024
    max_sequences: int | None = None
    max_reserved_tokens: int | None = None
    max_queue: int | None = None
    max_draft: int = 32
    local_draft: bool = True
    engine_ms: float = 60_000.0
    engine_retries: int = 1
    reopen_limit: int = 8
    sampling: SamplingMode = SamplingMode.COUPLED
    verify_costs: CostModel | None = None
    draft_costs: CostModel | None = None
    kept_sequences: int = 256
    kept_tokens: int = 262_144
    kept_ms: float = 540_000.0
    least_reuse: int = 16
    piece_tokens: int = 1_024
    upload_bytes: int = 32_768


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Settings of a worker.

    Attributes:
        fingerprint: of the draft's tokenizer and vocabulary.
        auth_token: what a controller must present; empty accepts any.
        context: longest sequence in tokens, drafts included.
        max_sequences: most sequences open at once, of all controllers together.
        max_leaves: most leaves in one pass, of all sequences together.
        max_nodes: most live nodes of one sequence's tree.
        gap_ms: how long a commit that came too early waits for the one before it.
        idle_ms: a sequence that has heard nothing for this long is dropped.
        pass_ms: longest that a draft pass may take before it counts as failed.
        costs: what a pass of the draft engine costs, ``costs.pass_ms(leaves, tokens, context)``.
        frame_ms: while passes go on, frames that only drafts are due for leave to one controller at least this far
            apart. What it asked for leaves at once, and takes them along.
        kept_sequences, kept_tokens: tokens of ended sequences that are kept for the next turn of a conversation.
        kept_ms: for how long.
        prefill_tokens: a prompt of more tokens that are not in the KV cache is computed in several passes.
    """

    fingerprint: Fingerprint
    auth_token: str = ""
    context: int = 1024
    max_sequences: int = 256
    max_leaves: int = 64
    max_nodes: int = 8192
    gap_ms: float = 200.0
    idle_ms: float = 120_000.0
    pass_ms: float = 30_000.0
    costs: CostModel = UNMEASURED
    frame_ms: float = 2.0
    kept_sequences: int = 256
    kept_tokens: int = 262_144
    kept_ms: float = 600_000.0
    prefill_tokens: int = 512
