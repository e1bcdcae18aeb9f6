import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec.errors import ModelError
from wanspec.models import check_pair, fingerprint, resolve


def rewrite(folder, change, file="tokenizer.json", **dump):
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content, **dump))


def test_the_bundled_pair_fits():
    target, draft = fingerprint(resolve("small-target")), fingerprint(resolve("small-draft"))
    check_pair(resolve("small-target"), resolve("small-draft"))
    assert target.tokenizer == draft.tokenizer
    assert target.vocab_size == draft.vocab_size == 4096
    assert target.model_id != draft.model_id
    assert len(target.tokenizer) == len(target.model_id) == 32


@given(order=st.permutations(range(5)), indent=st.sampled_from([None, 2]), ascii_only=st.booleans())
def test_the_hash_does_not_depend_on_how_the_file_is_written(order, indent, ascii_only, tmp_path_factory):
    tokens = ["a", "b", "ab", "é", "Ġ"]
    hashes = set()
    for number, sequence in enumerate((range(5), order)):
        folder = tmp_path_factory.mktemp(f"model{number}")
        vocab = {tokens[i]: i for i in sequence}
        merges = ["a b"] if number else [["a", "b"]]
        tokenizer = {"model": {"merges": merges, "vocab": vocab}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=indent, ensure_ascii=ascii_only))
        (folder / "config.json").write_text('{"eos_token_id": 0}')
        (folder / "model.safetensors").write_bytes(b"x")
        hashes.add(fingerprint(folder).tokenizer)
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": ("a", "b", "c", "d")}, "vocabulary size 3 and 4"),
        ({"tokens": ("a", "c", "b")}, "token id 1 is 'b' and 'c'"),
        ({"added": ((0, "a", True),)}, "special tokens"),
        ({"config": {"eos_token_id": [0, 2]}}, "eos_token_id"),
        ({"merges": ("a b",)}, "merges"),
    ],
)
def test_the_first_difference_is_named(make_folder, change, words):
    target, draft = make_folder("target"), make_folder("draft", **change)
    with pytest.raises(ModelError, match=words) as caught:
        check_pair(target, draft)
    assert str(target) in str(caught.value)
    assert str(draft) in str(caught.value)
    assert fingerprint(target).tokenizer != fingerprint(draft).tokenizer


def test_logits_may_be_padded_differently(make_folder):
    target = make_folder("target", config={"vocab_size": 3, "eos_token_id": 0})
    draft = make_folder("draft", config={"vocab_size": 64, "eos_token_id": [0]})
    check_pair(target, draft)
    assert fingerprint(draft).vocab_size == 3


@pytest.mark.parametrize("position", [0, 50_000, 99_999])
def test_other_weights_are_another_model(make_folder, position):
    weights = bytearray(100_000)
    first = make_folder("first", weights=bytes(weights))
    weights[position] = 1
    second = make_folder("second", weights=bytes(weights))
    assert fingerprint(first).model_id != fingerprint(second).model_id


def test_who_wrote_the_configuration_does_not_matter(make_folder):
    folder = make_folder()
    before = fingerprint(folder).model_id
    rewrite(folder, lambda config: config.update(transformers_version="9.9", _name_or_path="elsewhere"), "config.json")
    assert fingerprint(folder).model_id == before
    rewrite(folder, lambda config: config.update(num_hidden_layers=7), "config.json")
    assert fingerprint(folder).model_id != before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": 3}', '{"model": {"vocab": {}}, "added_tokens": []}'])
def test_a_broken_tokenizer_is_an_error_that_names_the_file(make_folder, content):
    folder = make_folder()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        fingerprint(folder)


def test_a_unigram_vocabulary_is_read(make_folder):
    folder = make_folder()
    rewrite(folder, lambda tokenizer: tokenizer.update(model={"vocab": [["a", -1.0], ["b", -2.0], ["c", -3.0]]}))
    assert fingerprint(folder).vocab_size == 3
    check_pair(folder, make_folder("other"))


def test_nothing_heavy_is_imported():
    program = (
        "import sys; from wanspec.models import fingerprint, resolve; fingerprint(resolve('small-draft'));"
        "sys.exit(bool({'torch', 'transformers', 'safetensors', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
