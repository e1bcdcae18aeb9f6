"""``preprocessing`` and ``postprocessing``, without a server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec.engines.inputs import read_request
from wanspec.errors import InvalidRequestError, ModelError
from wanspec.models import resolve
from wanspec.triton.tensorrt_llm.inputs import word_lists
from wanspec.triton.text import load_tokenizer
from wanspec.triton.text_tensors import Postprocessor, Preprocessor

FOLDER = resolve("small-target")
VOCABULARY = 4100
TOKENIZER = load_tokenizer(FOLDER)
PRE, POST = Preprocessor(FOLDER, VOCABULARY), Postprocessor(FOLDER)
words = st.lists(st.lists(st.integers(1, 50), max_size=4).map(tuple), max_size=5).map(tuple)


def request(*prompts: str, **more: object) -> dict[str, np.ndarray]:
    """Strings as Triton hands them over: bytes."""
    given = {"QUERY": [[prompt] for prompt in prompts], **more}
    arrays = {
        name: value if isinstance(value, np.ndarray) else np.array([[t.encode() for t in row] for row in value], object)
        for name, value in given.items()
    }
    return arrays | {"REQUEST_OUTPUT_LEN": np.full((len(prompts), 1), 9, np.int32)}


@given(st.lists(words, min_size=1, max_size=4))
def test_word_lists_hold_every_word_and_the_engine_reads_them_back(rows: list) -> None:
    lists = word_lists(rows)
    assert lists.shape[:2] == (len(rows), 2)
    assert lists.dtype == np.int32
    for row, wanted in zip(lists, rows, strict=True):
        base = {name: np.array([[1]], np.int32) for name in ("input_ids", "input_lengths", "request_output_len")}
        parsed = read_request(base | {"stop_words_list": row[None]}).generation
        assert parsed.stop_words == tuple(word for word in wanted if word)


def test_word_lists_are_padded_by_row() -> None:
    assert word_lists([((5, 6), (7,)), ((), (8,)), ()]).tolist() == [
        [[5, 6, 7], [2, 3, -1]],
        [[8, 0, 0], [1, -1, -1]],
        [[0, 0, 0], [-1, -1, -1]],
    ]
    assert word_lists([(), ()]).shape == (2, 2, 0)


def test_prompts_of_unlike_length_are_padded_and_counted() -> None:
    out = PRE.outputs(request("The history of the city", "No"))
    long, short = (TOKENIZER.encode(text).ids for text in ("The history of the city", "No"))
    assert out["INPUT_ID"].tolist() == [long, short + [0] * (len(long) - len(short))]
    assert out["REQUEST_INPUT_LEN"].tolist() == [[len(long)], [len(short)]]
    assert out["DECODER_INPUT_ID"].tolist() == out["OUT_PAD_ID"].tolist() == out["OUT_END_ID"].tolist() == [[0], [0]]
    assert out["REQUEST_DECODER_INPUT_LEN"].tolist() == [[1], [1]]
    assert out["REQUEST_OUTPUT_LEN"].tolist() == [[9], [9]]
    assert out["BAD_WORDS_IDS"].shape == out["STOP_WORDS_IDS"].shape == (2, 2, 0)
    assert out["EMBEDDING_BIAS"].shape == (2, 0)
    for name, value in out.items():
        assert value.dtype == (np.float32 if name == "EMBEDDING_BIAS" else np.int32), name


def test_what_is_given_goes_before_the_tokenizers_own() -> None:
    ids = {"END_ID": np.array([[7]], np.int32), "PAD_ID": np.array([[8]], np.int32)}
    out = PRE.outputs(request("a", DECODER_QUERY=[["b c"]], STOP_WORDS_DICT=[[" the end", "", "."]], **ids))
    assert (out["OUT_END_ID"].tolist(), out["OUT_PAD_ID"].tolist()) == ([[7]], [[8]])
    assert out["DECODER_INPUT_ID"].tolist() == [TOKENIZER.encode("b c").ids]
    first, second = TOKENIZER.encode(" the end").ids, TOKENIZER.encode(".").ids
    ends = [len(first), len(first) + len(second)]
    assert out["STOP_WORDS_IDS"].tolist() == [[[*first, *second], ends + [-1] * (ends[1] - 2)]]


def test_a_bias_counts_for_every_token_of_its_word() -> None:
    weights = np.array([[2.0, -1.0, 0.5]], np.float32)
    out = PRE.outputs(request("a", EMBEDDING_BIAS_WORDS=[[" the", " the", ""]], EMBEDDING_BIAS_WEIGHTS=weights))
    (token,) = TOKENIZER.encode(" the").ids
    bias = out["EMBEDDING_BIAS"]
    assert bias.shape == (1, VOCABULARY)
    assert np.flatnonzero(bias).tolist() == [token]
    assert bias[0, token] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"QUERY": np.array([[b"a", b"b"]], object)}, r"QUERY: has shape \[1, 2\]: must be \[batch, 1\]"),
        ({"QUERY": np.array([[b""]], object)}, "QUERY: is empty; at least 1 token is needed"),
        ({"DECODER_QUERY": np.array([[b""]], object)}, "DECODER_QUERY: is empty"),
        ({"QUERY": np.array([[b"\xfe"]], object)}, "QUERY: is not UTF-8: byte 0 is 0xfe"),
        ({"QUERY": np.array([[b"a" * (4 << 20) + b"a"]], object)}, "QUERY: 4194305 bytes, the limit is 4194304"),
        ({"BAD_WORDS_DICT": np.array([[b"a"], [b"b"]], object)}, "BAD_WORDS_DICT: .* the batch size of QUERY is 1"),
        ({"EMBEDDING_BIAS_WORDS": np.array([[b"a"]], object)}, "EMBEDDING_BIAS_WEIGHTS: no weights for 1 EMB"),
        ({"EMBEDDING_BIAS_WEIGHTS": np.ones((1, 2), np.float32)}, "EMBEDDING_BIAS_WEIGHTS: 2 weights for no EMB"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        PRE.outputs(request("a") | change)


@settings(deadline=None)
@given(st.lists(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=2), min_size=1, max_size=3))
def test_texts_survive_the_way_there_and_back(rows: list[list[str]]) -> None:
    """OUTPUT is flat: a text for each beam of each row."""
    flat = [text for row in rows for text in row]
    out = PRE.outputs(request(*flat))
    tokens = out["INPUT_ID"].reshape(len(rows), 2, -1).copy()
    lengths = out["REQUEST_INPUT_LEN"].reshape(len(rows), 2)
    tokens[np.arange(tokens.shape[2]) >= lengths[:, :, None]] = -1
    assert POST.outputs({"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": lengths})["OUTPUT"].tolist() == [
        text.encode() for text in flat
    ]


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        ([[1, 2]], [[2]], r"TOKENS_BATCH: has shape \[1, 2\]: must be \[batch, beams, n\]"),
        ([[[1, 2]]], [[3]], r"SEQUENCE_LENGTH: is \[3\]: TOKENS_BATCH holds 2 tokens"),
        ([[[1, 2]]], [[-1]], r"SEQUENCE_LENGTH: is \[-1\]"),
        ([[[1, 2]]], [[1, 1]], r"SEQUENCE_LENGTH: has shape \[1, 2\]: must be \[1, 1\]"),
        ([[[1, -1]]], [[2]], "TOKENS_BATCH: holds -1: token ids must be at least 0"),
    ],
)
def test_bad_tokens_are_refused(tokens: list, lengths: list, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        POST.outputs({"TOKENS_BATCH": np.array(tokens, np.int32), "SEQUENCE_LENGTH": np.array(lengths, np.int32)})


def test_an_answer_of_no_tokens_is_an_empty_text() -> None:
    tokens = np.zeros((2, 1, 0), np.int32)
    out = POST.outputs({"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": np.zeros((2, 1), np.int32)})
    assert out["OUTPUT"].tolist() == [b"", b""]


def test_special_tokens_are_left_out_of_text() -> None:
    tokens = np.array([[[0, *TOKENIZER.encode("a b").ids, 0]]], np.int32)
    lengths = np.array([[tokens.shape[2]]], np.int32)
    assert POST.outputs({"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": lengths})["OUTPUT"].tolist() == [b"a b"]


@pytest.mark.parametrize(
    ("config", "end_and_pad"),
    [
        ({}, (-1, -1)),
        ({"eos_token": {"content": "."}}, (TOKENIZER.token_to_id("."), TOKENIZER.token_to_id("."))),
        ({"eos_token": ".", "pad_token": "<|endoftext|>"}, (TOKENIZER.token_to_id("."), 0)),
    ],
)
def test_end_and_padding_are_the_tokenizers(tmp_path: Path, config: dict, end_and_pad: tuple[int, int]) -> None:
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    out = Preprocessor(tmp_path, VOCABULARY).outputs(request("a b", "a"))
    assert (out["OUT_END_ID"][0, 0], out["OUT_PAD_ID"][0, 0]) == end_and_pad
    assert out["INPUT_ID"].min() >= 0


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Postprocessor(tmp_path)
