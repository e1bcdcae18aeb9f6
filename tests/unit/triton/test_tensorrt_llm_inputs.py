"""The tensors by which engines are told how to choose, and the options of the endpoint that become them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from wanspec.core.options import PLAIN, GenerationOptions
from wanspec.core.sampling import GREEDY, Sampling, round_seed
from wanspec.engines.inputs import read_request
from wanspec.errors import InvalidRequestError
from wanspec.models import resolve
from wanspec.triton import endpoint
from wanspec.triton.request_options import REFUSED, read_options, read_sampling, refuse_options
from wanspec.triton.tensorrt_llm.inputs import one_hot_inputs, option_inputs, sampling_inputs
from wanspec.triton.text import TextCodec

CODEC = TextCodec(resolve("small-target"))
DOCS = (Path(__file__).parents[3] / "docs" / "sampling.md").read_text()
PROMPT = {
    "input_ids": np.array([[5, 6, 7]], np.int32),
    "input_lengths": np.array([[3]], np.int32),
    "request_output_len": np.array([[3]], np.int32),
}


def asked(tensors):
    """What our engine reads of the tensors."""
    return read_request(PROMPT | tensors).generation


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.0, 40, 0.5, 9), Sampling(0.7, 1, 0.9, 9)])
def test_greedy_calls_are_what_they_always_were(sampling):
    tensors = sampling_inputs(sampling) | option_inputs(PLAIN, 100) | one_hot_inputs(sampling, (1, 2), 7, 100)
    assert list(tensors) == ["runtime_top_k"]
    assert asked(tensors).sampling == GREEDY


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, 0, 1.0, 7),
        Sampling(0.75, 40, 1.0, (1 << 64) - 1),
        Sampling(0.75, 0, 0.875, 0),
        Sampling(2.0, 40, 0.5, 1 << 63),
    ],
)
def test_our_engine_reads_the_sampling_that_was_asked_for(sampling):
    assert asked(sampling_inputs(sampling)).sampling == sampling


def test_one_hot_logits_and_a_seed_for_each_round():
    sampling = Sampling(1.0, 0, 1.0, 7)
    tensors = sampling_inputs(sampling) | one_hot_inputs(sampling, (3, 99), 5, 128)
    logits = tensors["draft_logits"]
    assert (logits.shape, logits.dtype) == ((1, 2, 128), np.float32)
    assert (logits[0, 0, 3], logits[0, 1, 99]) == (0.0, 0.0)
    assert np.sort(logits[0], axis=1)[:, :-1].max() == np.float32(-1e4)
    generation = asked(tensors)
    assert generation.seed == round_seed(7, 5)
    assert (generation.temperature, generation.runtime_top_p) == (1.0, 1.0)
    assert list(one_hot_inputs(sampling, (), 5, 128)) == ["seed"]


def test_round_seeds_differ():
    seeds = {round_seed(seed, position) for seed in (0, 1, 2, (1 << 64) - 1) for position in range(1, 500)}
    assert len(seeds) == 4 * 499
    assert all(0 <= seed < 1 << 64 for seed in seeds)


def test_our_engine_reads_the_options_that_were_asked_for():
    options = GenerationOptions(
        min_tokens=3,
        stop_words=((1,),),
        bad_words=((1, 2, 3), (4,), (5, 6)),
        repetition_penalty=1.25,
        presence_penalty=-0.5,
        frequency_penalty=0.25,
        logit_bias=((7, -2.0), (0, 3.5)),
    )
    read = asked(option_inputs(options, 100))
    assert read.bad_words == options.bad_words
    penalties = (read.repetition_penalty, read.presence_penalty, read.frequency_penalty)
    assert penalties == (1.25, -0.5, 0.25)
    assert read.embedding_bias is not None
    assert {i: float(v) for i, v in enumerate(read.embedding_bias) if v} == {7: -2.0, 0: 3.5}
    # These two belong to the controller.
    assert (read.min_tokens, read.stop_words) == (0, ())


# The endpoint


def strings(*values):
    return np.array([[value.encode() for value in values]], dtype=np.object_)


def test_defaults_are_greedy_and_plain():
    assert read_sampling({}) == GREEDY
    assert read_options({}, CODEC) == PLAIN


def test_values_and_words():
    tensors = {
        "temperature": np.array([[0.75]], np.float32),
        "top_k": np.array([[40]], np.int32),
        "top_p": np.array([[0.5]], np.float32),
        "seed": np.array([[(1 << 64) - 1]], np.uint64),
        "min_tokens": np.array([[3]], np.int32),
        "stop_words": strings("the end", " of"),
        "logit_bias": strings('{"42": -5, "7": 0.5}'),
        "presence_penalty": np.array([[0.5]], np.float32),
    }
    assert read_sampling(tensors) == Sampling(0.75, 40, 0.5, (1 << 64) - 1)
    options = read_options(tensors, CODEC)
    assert [CODEC.tokenizer.decode(list(word)) for word in options.stop_words] == ["the end", " of"]
    assert options.logit_bias == ((42, -5.0), (7, 0.5))
    assert (options.min_tokens, options.presence_penalty, options.bad_words) == (3, 0.5, ())


def test_a_seed_that_is_not_given_is_drawn_and_survives_json():
    tensors = {"temperature": np.array([[1.0]], np.float32)}
    seeds = [read_sampling(tensors).seed for _ in range(20)]
    assert len(set(seeds)) == 20
    assert all(int(float(json.dumps(seed))) == seed for seed in seeds)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"temperature": np.array([[-1.0]], np.float32)}, "temperature: is -1.0"),
        ({"temperature": np.array([[np.nan]], np.float32)}, "temperature: is nan"),
        ({"temperature": np.ones((1, 2), np.float32)}, "temperature: 2 values, exactly 1"),
        ({"top_k": np.array([[-1]], np.int32)}, "top_k: is -1: must be 0"),
        ({"top_p": np.array([[0.0]], np.float32)}, "top_p: is 0.0: must be above 0"),
        ({"logit_bias": strings("[1]")}, "logit_bias: is not a JSON object"),
        ({"logit_bias": strings('{"the": 1}')}, "logit_bias: is not a JSON object"),
        ({"logit_bias": strings('{"1": null}')}, "logit_bias: is not a JSON object"),
        ({"stop_words": strings(*"a" * 65)}, "stop_words: 65 words, the limit is 64"),
        ({"bad_words": np.array([[b"\xff"]], dtype=np.object_)}, "bad_words: is not UTF-8"),
    ],
)
def test_refusals_name_the_field(tensors, message):
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        endpoint.read_request({"input_ids": np.ones((1, 2), np.int32)} | tensors, CODEC, endpoint.Defaults())


def rows():
    table = DOCS.split("| option | here | over rounds |\n")[1].split("\n\n")[0].splitlines()[1:]
    return {cells[0].strip("` "): cells[1].strip() for cells in (line.strip("|").split("|") for line in table)}


def test_the_table_of_options_is_complete():
    served = {name for name, state in rows().items() if state == "served"}
    others = {"temperature", "top_k", "top_p", "seed", "return_log_probs"}
    assert served == others | set(GenerationOptions.__dataclass_fields__)
    assert served <= set(endpoint.INPUTS)
    assert {name for name, state in rows().items() if state == "refused"} == set(REFUSED)
    assert not set(REFUSED) & set(endpoint.INPUTS)


@pytest.mark.parametrize("name", [name for name, state in rows().items() if state == "served"])
def test_every_option_that_is_served_is_tested_on_real_servers(name):
    """Those that are refused are tested there by the list itself."""
    tests = (Path(__file__).parents[2] / "integration" / "test_sampling.py").read_text()
    assert f'"{name}"' in tests or re.search(rf"\b{name}=", tests)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_by_name(name):
    with pytest.raises(InvalidRequestError, match="is not supported: ") as caught:
        refuse_options({"something": 1, name: 1})
    assert caught.value.field == name
    refuse_options({"something": 1})
