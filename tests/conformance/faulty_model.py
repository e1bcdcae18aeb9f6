"""A Triton model: our engine, with the fault that a request's parameter ``fault`` names. Without one it is sound."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace

import numpy as np

from wanspec.engines.inputs import ContractRequest, read_requests
from wanspec.engines.tensors import write_result
from wanspec.triton import engine_model


@dataclass(frozen=True, slots=True)
class FaultyRequest(ContractRequest):
    fault: str = ""


def without(name):
    return lambda tensors: tensors.pop(name, None)


def with_value(name, value):
    return lambda tensors: tensors.update({name: np.full((len(tensors["input_ids"]), 1), value)})


def all_tokens_of_the_vocabulary(tensors):
    if (tensors.get("runtime_top_k", np.zeros(1)) > 1).any():
        del tensors["runtime_top_k"]
        tensors["runtime_top_p"] = np.ones((1, 1), np.float32)


BEFORE = {
    "ignores exclude_input_in_output": with_value("exclude_input_in_output", True),
    "ignores seed": with_value("seed", 7),
    "ignores top-k": all_tokens_of_the_vocabulary,
    "ignores min_tokens": without("min_tokens"),
    "ignores presence_penalty": without("presence_penalty"),
    "accepts what draft_logits say": with_value("draft_acceptance_threshold", 1e-9),
}
"""What becomes of a request's tensors."""


def end_id_appended(request, result):
    end_id, ids = request.generation.end_id, result.output_ids
    ended = end_id is not None and len(ids) < request.generation.request_output_len
    return replace(result, output_ids=np.append(ids, np.int32(end_id))) if ended else result


def last_token_dropped(request, result):
    drafts = len(request.generation.draft_input_ids)
    return replace(result, output_ids=result.output_ids[:-1]) if drafts else result


def first_wrong_draft_accepted(request, result):
    drafts, ids = request.generation.draft_input_ids, result.output_ids.copy()
    if len(drafts) and 0 < len(ids) <= len(drafts):
        ids[-1] = drafts[len(ids) - 1]
    return replace(result, output_ids=ids)


def decimal_log_probs(request, result):
    return result if result.log_probs is None else replace(result, log_probs=result.log_probs / np.log(10))


def one_in_fifty_is_rare(request, result):
    """The least probable token that top-k leaves instead of the one drawn, in 2% of the draws."""
    sampling = request.generation.sampling
    if not sampling.top_k or sampling.seed % 50 or not len(result.output_ids):
        return result
    ids = result.output_ids.copy()
    ids[0] = np.argsort(result.generation_logits[0])[-sampling.top_k]
    return replace(result, output_ids=ids)


RESULT = {
    "appends end_id": end_id_appended,
    "drops the bonus token": last_token_dropped,
    "accepts the first wrong draft": first_wrong_draft_accepted,
    "decimal log-probabilities": decimal_log_probs,
    "2% biased sampler": one_in_fifty_is_rare,
    "counts all drafts as accepted": lambda request, result: replace(result, accepted_drafts=result.total_drafts),
    "reuse never grows": lambda request, result: replace(result, reused_blocks=0),
}
"""What becomes of the engine's result."""


def longer(tensors):
    tensors["sequence_length"] = tensors["sequence_length"] + 1


def mixed_rows(tensors):
    if "batch_index" in tensors:
        tensors["batch_index"] = 1 - tensors["batch_index"]


AFTER = {"sequence_length one too large": longer, "mixes rows of a batch": mixed_rows}
"""What becomes of the answer's tensors."""

ELSEWHERE = ("ignores stop", "ignores cancellation", "streams the prompt again")
FAULTS = (*BEFORE, *RESULT, *AFTER, *ELSEWHERE)


class TritonPythonModel(engine_model.TritonPythonModel):
    _fault = ""

    def initialize(self, args):
        super().initialize(args)
        engine_model.read_requests = self._read
        engine_model.write_result = write
        self._submit_sound = self._runner.submit
        self._runner.submit = self._submit_to_runner

    def _submit(self, request, arrival_ns):
        self._fault = json.loads(request.parameters() or "{}").get("fault", "")
        assert self._fault in ("", *FAULTS)
        super()._submit(request, arrival_ns)

    def _read(self, tensors, **options):
        BEFORE.get(self._fault, lambda tensors: None)(tensors)
        found = []
        for request in read_requests(tensors, **options):
            given = {each.name: getattr(request, each.name) for each in fields(request)}
            if self._fault == "2% biased sampler":
                given["generation"] = replace(request.generation, return_generation_logits=True)
            found.append(FaultyRequest(**given, fault=self._fault))
        return found

    def _submit_to_runner(self, generation, done, cancelled, **options):
        never = self._fault == "ignores cancellation"
        self._submit_sound(generation, done, (lambda: False) if never else cancelled, **options)

    def _stop(self, request_id):
        if self._fault != "ignores stop" or not request_id:
            super()._stop(request_id)


def write(request, result):
    if request.fault == "streams the prompt again" and request.streaming:
        result = replace(result, output_ids=np.concatenate((request.generation.input_ids, result.output_ids)))
    tensors = write_result(request, RESULT.get(request.fault, lambda request, result: result)(request, result))
    AFTER.get(request.fault, lambda tensors: None)(tensors)
    return tensors
