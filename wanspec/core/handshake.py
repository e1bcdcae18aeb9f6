"""What a worker asks before it works for a controller, and before it takes a sequence; what a controller asks of it."""

from __future__ import annotations

from hmac import compare_digest

from wanspec.core.config import Fingerprint, WorkerConfig
from wanspec.core.coupling import sampling_of
from wanspec.core.messages import Header, Hello, LostCode, Open, Refuse, RefuseCode, Welcome
from wanspec.errors import InvalidRequestError


def objection(config: WorkerConfig, header: Header, hello: Hello | None) -> Refuse | None:
    """Say why a link is refused; None where it is not."""
    mine = config.fingerprint
    if hello is None or int.from_bytes(hello.instance[:8], "little") != header.sender:
        return Refuse(RefuseCode.VERSION, "the first frame of a link holds a hello of its sender")
    if config.auth_token and not compare_digest(hello.token.encode(), config.auth_token.encode()):
        return Refuse(RefuseCode.AUTHENTICATION, "auth_token: not the worker's")
    if hello.vocab_size != mine.vocab_size:
        reason = f"vocab_size: the target has {hello.vocab_size}, the draft {mine.draft_id} {mine.vocab_size}"
        return Refuse(RefuseCode.VOCABULARY, reason)
    if hello.tokenizer_hash != mine.tokenizer_hash:
        reason = (
            f"tokenizer: the target's ({hello.tokenizer_hash.hex()[:12]}) is not that of the draft "
            f"{mine.draft_id} ({mine.tokenizer_hash.hex()[:12]})"
        )
        return Refuse(RefuseCode.TOKENIZER, reason)
    return None


def welcome(config: WorkerConfig, instance: bytes) -> Welcome:
    """Introduce the worker."""
    mine = config.fingerprint
    return Welcome(instance, mine.vocab_size, mine.tokenizer_hash, mine.draft_id, config.max_sequences, config.context)


def open_problem(config: WorkerConfig, message: Open, sequences: int) -> LostCode | None:
    """Say why a sequence cannot be drafted for while ``sequences`` others are; None where it can."""
    drafting, begins = message.drafting, message.prefix_length + len(message.tokens)
    if begins < 1 or max(message.tokens, default=0) >= config.fingerprint.vocab_size:
        return LostCode.DESYNC
    try:
        sampling_of(message)
    except InvalidRequestError:
        return LostCode.DESYNC
    if drafting.width < 1 or not 1 <= drafting.branching <= config.fingerprint.vocab_size:
        return LostCode.DESYNC
    if message.length >= config.context:
        return LostCode.CONTEXT
    return LostCode.BUSY if sequences >= config.max_sequences else None


def mismatch(mine: Fingerprint, worker: Welcome) -> str:
    """Say why a controller cannot use a worker; nothing if it can."""
    if worker.vocab_size != mine.vocab_size:
        return f"vocab_size: the draft has {worker.vocab_size}, the target {mine.vocab_size}"
    if worker.tokenizer_hash != mine.tokenizer_hash:
        return "tokenizer: the draft's is not the target's"
    return ""
