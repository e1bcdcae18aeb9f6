"""Requests together: batches of one request, and requests at the same time."""

from __future__ import annotations

from typing import Any

import numpy as np

from wanspec.conformance.rule import expect, require, rule
from wanspec.conformance.server import CannotAskError
from wanspec.conformance.sources import BACKEND, TENSORS
from wanspec.conformance.subject import OUTPUTS, Subject

SECTION = BACKEND


@rule(
    "batching.rows",
    "A request with two rows is served by a decoupled model, each row with its batch_index, and refused by another.",
    section=SECTION,
    why="rows would be mixed up, or the second dropped",
    how="two prompts of unlike lengths, padded",
)
def rows(subject: Subject) -> None:
    """Two ragged rows."""
    first, second = subject.facts.references[0], subject.facts.references[-1]
    # The shorter row is padded, and what is padded must not count.
    prompts = [first.prompt, second.prompt[:-1]]
    width = max(map(len, prompts))
    inputs: dict[str, Any] = {
        "input_ids": np.asarray([[*each, *[0] * (width - len(each))] for each in prompts], dtype=np.int32),
        "input_lengths": np.asarray([[len(each)] for each in prompts], dtype=np.int32),
        "request_output_len": np.asarray([[4], [3]], dtype=np.int32),
        "exclude_input_in_output": np.ones((2, 1), dtype=np.bool_),
        "runtime_top_k": np.ones((2, 1), dtype=np.int32),
    }
    if not subject.decoupled:
        subject.refused("a batch of two", lambda: subject.send(inputs))
        return
    expected = [first.output[:4], subject.text(prompts[1], 3)]
    answer = subject.send(inputs, (*OUTPUTS, "batch_index"))
    found: dict[int, list[int]] = {}
    for response in answer.responses:
        index = response.tensors.get("batch_index")
        require("batch_index of a response", index is not None and index.size == 1, "one value", index)
        tokens = response.tensors["output_ids"].reshape(-1).tolist()
        found.setdefault(int(index.item()) if index is not None else -1, []).extend(tokens)
    expect("tokens by batch_index", dict(enumerate(expected)), found)


@rule(
    "batching.sequences",
    "num_return_sequences gives so many sequences of a decoupled model, each with its sequence_index.",
    section=SECTION,
    why="n of the OpenAI interface",
    how="three sequences at temperature 5",
)
def sequences(subject: Subject) -> None:
    """Three sequences of one prompt."""
    if not subject.decoupled:
        raise CannotAskError("the model is not decoupled")
    if subject.server.protocol == "http":
        raise CannotAskError("HTTP generate_stream cannot tell them apart")
    options: dict[str, Any] = {
        "temperature": 5.0,
        "runtime_top_p": 1.0,
        "seed": subject.seeds(1)[0],
        "num_return_sequences": 3,
    }
    answer = subject.ask(subject.reference.prompt, 12, want=("sequence_index",), **options)
    found = {int(each.tensors["sequence_index"].item()): each.tensors["output_ids"] for each in answer.responses}
    expect("sequence_index", [0, 1, 2], sorted(found))
    expect("different sequences", 3, len({tokens.tobytes() for tokens in found.values()}))


@rule(
    "batching.unlike_requests",
    "Requests at the same time, with and without drafts, long and short, each get their own answer.",
    section=f"{TENSORS}; in-flight batching",
    why="a batch that mixes rows answers one client with another's text",
    how="16 requests over eight connections, twice",
)
def unlike_requests(subject: Subject) -> None:
    """Many at a time."""
    references = subject.facts.references
    longest = min(subject.facts.max_draft_len, 3)

    def ask(index: int) -> None:
        reference = references[index % len(references)]
        text = reference.output
        count = 1 + index % len(text)
        if longest and index % 2:
            drafts = text[: 1 + index % longest]
            got = subject.text(reference.prompt, len(drafts) + 1, drafts)
            expect(f"tokens of request {index} with {len(drafts)} drafts", text[: len(drafts) + 1], got)
        else:
            expect(f"{count} tokens of request {index}", text[:count], subject.text(reference.prompt, count))

    for _ in range(2):
        subject.together(ask, range(16))


RULES = (rows, sequences, unlike_requests)
