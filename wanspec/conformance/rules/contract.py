"""Tensors: which there are, their types and shapes, what is asked for and what comes."""

from __future__ import annotations

from typing import Any

import numpy as np

from wanspec.conformance.rule import RuleFailedError, RuleSkippedError, expect, rule
from wanspec.conformance.server import CannotAskError
from wanspec.conformance.sources import BACKEND, CHOICE, TENSORS
from wanspec.conformance.subject import OUTPUTS, Subject

SECTION = TENSORS

INPUTS = {
    "input_ids": "INT32",
    "input_lengths": "INT32",
    "request_output_len": "INT32",
    "draft_input_ids": "INT32",
    "draft_logits": "FP32 FP16",
    "draft_acceptance_threshold": "FP32",
    "end_id": "INT32",
    "pad_id": "INT32",
    "stop_words_list": "INT32",
    "bad_words_list": "INT32",
    "embedding_bias": "FP32",
    "beam_width": "INT32",
    "temperature": "FP32",
    "runtime_top_k": "INT32",
    "runtime_top_p": "FP32",
    "repetition_penalty": "FP32",
    "min_tokens": "INT32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
    "seed": "UINT64",
    "return_log_probs": "BOOL",
    "return_context_logits": "BOOL",
    "return_generation_logits": "BOOL",
    "return_perf_metrics": "BOOL",
    "exclude_input_in_output": "BOOL",
    "stop": "BOOL",
    "streaming": "BOOL",
}
DECLARED_OUTPUTS = {
    "output_ids": "INT32",
    "sequence_length": "INT32",
    "cum_log_probs": "FP32",
    "output_log_probs": "FP32",
    "context_logits": "FP32 FP16",
    "generation_logits": "FP32 FP16",
    "batch_index": "INT32",
    "sequence_index": "INT32",
    "kv_cache_alloc_new_blocks": "INT32",
    "kv_cache_reused_blocks": "INT32",
    "kv_cache_alloc_total_blocks": "INT32",
    "arrival_time_ns": "INT64",
    "first_scheduled_time_ns": "INT64",
    "first_token_time_ns": "INT64",
    "last_token_time_ns": "INT64",
    "acceptance_rate": "FP32",
    "total_accepted_draft_tokens": "INT32",
    "total_draft_tokens": "INT32",
}


@rule(
    "contract.declared",
    "The configuration declares the tensors of a text model with their types; only three inputs may be required.",
    section=SECTION,
    why="clients build their tensors by these names and types",
    how="reads the model's configuration",
)
def declared(subject: Subject) -> None:
    """Names and types of the configuration."""
    info = subject.server.info
    for kind, wanted, given in (("input", INPUTS, info.inputs), ("output", DECLARED_OUTPUTS, info.outputs)):
        for name, dtypes in wanted.items():
            got = given[name].dtype if name in given else "nothing"
            if got not in dtypes.split():
                raise RuleFailedError(f"{kind} {name} as declared", dtypes.replace(" ", " or "), got)
    required = {name for name, tensor in info.inputs.items() if not tensor.optional}
    extra = sorted(required - {"input_ids", "input_lengths", "request_output_len"})
    expect("required inputs beyond input_ids, input_lengths, request_output_len", [], extra)


@rule(
    "contract.shapes",
    "output_ids is INT32 [1, 1, n], sequence_length INT32 [1, 1] and counts the tokens.",
    section=SECTION,
    why="every client indexes by them",
    how="generates 1 and 5 tokens",
)
def shapes(subject: Subject) -> None:
    """Shapes and types of the required outputs."""
    reference = subject.reference
    for count in (1, 5):
        answer = subject.ask(reference.prompt, count)
        ids, length = answer.tensor("output_ids"), answer.tensor("sequence_length")
        expect("types", ("int32", "int32"), (ids.dtype.name, length.dtype.name))
        expect("shape of output_ids, of sequence_length", ((1, 1, count), (1, 1)), (ids.shape, length.shape))
        expect("sequence_length", count, answer.scalar("sequence_length"))
        expect("tokens", reference.output[:count], ids.reshape(-1).tolist())


@rule(
    "contract.required_inputs",
    "A request without input_ids, input_lengths or request_output_len is an error.",
    section=SECTION,
    why="a client's mistake must not become a silent answer",
    how="leaves out each of them",
)
def required_inputs(subject: Subject) -> None:
    """Each required input left out."""
    ids = np.asarray([subject.reference.prompt], dtype=np.int32)
    whole = {"input_ids": ids, "input_lengths": ids.shape[1], "request_output_len": 1}
    for missing in whole:
        given = {name: value for name, value in whole.items() if name != missing}
        subject.refused(f"a request without {missing}", lambda given=given: subject.send(given))  # type: ignore[misc]


@rule(
    "contract.required_outputs",
    "output_ids and sequence_length must be among the requested outputs.",
    section=BACKEND,
    why="a controller that forgets one finds out only in production",
    how="asks for one of them at a time",
)
def required_outputs(subject: Subject) -> None:
    """Each required output left out."""
    if subject.decoupled and subject.server.protocol == "http":
        raise CannotAskError("HTTP generate_stream cannot choose outputs")
    ids = np.asarray([subject.reference.prompt], dtype=np.int32)
    whole = {"input_ids": ids, "input_lengths": ids.shape[1], "request_output_len": 1}
    for name in OUTPUTS:
        subject.refused(f"a request for {name} only", lambda name=name: subject.send(whole, (name,)))  # type: ignore[misc]


@rule(
    "contract.requested_outputs",
    "Only what is asked for comes, and all of it.",
    section=SECTION,
    why="log-probabilities and logits that nobody wants cost time and bandwidth",
    how="asks for two outputs, then for log-probabilities and token counts too",
)
def requested_outputs(subject: Subject) -> None:
    """Few and many outputs."""
    if subject.decoupled and subject.server.protocol == "http":
        raise CannotAskError("HTTP generate_stream cannot choose outputs")
    answer = subject.ask(subject.reference.prompt, 2, return_log_probs=True)
    expect("outputs", sorted(OUTPUTS), sorted(answer.responses[0].tensors))
    more = ("output_log_probs", "cum_log_probs")
    answer = subject.ask(subject.reference.prompt, 2, want=more, return_log_probs=True)
    expect("outputs", sorted((*OUTPUTS, *more)), sorted(answer.responses[0].tensors))


@rule(
    "contract.greedy_by_default",
    "With neither top-k nor top-p generation is greedy, and the same every time.",
    section=f"{SECTION}; {CHOICE}",
    why="drafts are verified greedily unless a client says otherwise",
    how="compares with top-k 1, twice",
)
def greedy_by_default(subject: Subject) -> None:
    """No sampling input at all."""
    reference = subject.reference
    for top_k in (None, 1, None):
        text = subject.text(reference.prompt, len(reference.output), runtime_top_k=top_k)
        expect(f"tokens with runtime_top_k {top_k}", reference.output, text)


@rule(
    "contract.neutral_options",
    "Options set to values that ask for nothing change nothing.",
    section=SECTION,
    why="NVIDIA's clients always send many of them",
    how="sends beam_width 1, penalties of no effect, pad_id, end_id -1, len_penalty and others",
)
def neutral_options(subject: Subject) -> None:
    """Neutral values of what clients send."""
    neutral = {
        "beam_width": 1,
        "temperature": 1.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
        "len_penalty": 1.0,
        "pad_id": 0,
        "end_id": -1,
        "streaming": False,
        "stop": False,
        "return_log_probs": False,
        "num_return_sequences": 1,
    }
    known: dict[str, Any] = {name: value for name, value in neutral.items() if name in subject.server.info.inputs}
    reference = subject.reference
    text = subject.text(reference.prompt, 6, runtime_top_k=1, **known)
    expect("tokens", reference.output[:6], text)


@rule(
    "contract.exclude_input",
    "exclude_input_in_output decides whether output_ids begins with the prompt; sequence_length counts it.",
    section=BACKEND,
    why="a loop that expects the other form commits the prompt again, or loses tokens",
    how="asks both ways",
)
def exclude_input(subject: Subject) -> None:
    """Both ways."""
    reference = subject.reference
    for exclude, prompt in ((True, []), (False, reference.prompt)):
        answer = subject.ask(reference.prompt, 4, exclude_input_in_output=exclude)
        expected = [*prompt, *reference.output[:4]]
        what = f"with exclude_input_in_output {exclude}"
        expect(f"tokens {what}", expected, answer.tokens)
        expect(f"sequence_length {what}", len(expected), answer.scalar("sequence_length"))


@rule(
    "contract.input_lengths",
    "input_lengths says how many tokens of input_ids count.",
    section=SECTION,
    why="padded clients send longer rows",
    how="appends tokens to the prompt that input_lengths leaves out",
)
def input_lengths(subject: Subject) -> None:
    """A padded prompt."""
    reference = subject.reference
    padded = [*reference.prompt, *reference.prompt[:3]]
    text = subject.text(padded, 4, input_lengths=len(reference.prompt))
    expect("tokens of a padded prompt", reference.output[:4], text)


@rule(
    "contract.token_counts",
    "num_input_tokens and num_output_tokens count.",
    section=SECTION,
    why="billing and metrics",
    how="asks for both with 3 tokens of output",
)
def token_counts(subject: Subject) -> None:
    """Token counts."""
    names = ("num_input_tokens", "num_output_tokens")
    if not set(names) <= subject.server.info.outputs.keys():
        raise RuleSkippedError("the model's configuration declares no token counts (older than TensorRT-LLM 1.0)")
    flags: dict[str, Any] = {f"return_{name}": True for name in names}
    answer = subject.ask(subject.reference.prompt, 3, want=names, **flags)
    counts = tuple(answer.scalar(name) for name in names)
    expect("token counts", (len(subject.reference.prompt), 3), counts)


RULES = (
    declared,
    shapes,
    required_inputs,
    required_outputs,
    requested_outputs,
    greedy_by_default,
    neutral_options,
    exclude_input,
    input_lengths,
    token_counts,
)
