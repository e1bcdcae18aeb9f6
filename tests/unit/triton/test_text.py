"""Tokens to text, piece by piece: nothing lost, no character broken."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec.errors import InvalidRequestError, ModelError
from wanspec.models import resolve
from wanspec.triton.text import TextCodec

CODEC = TextCodec(resolve("small-target"))
VOCABULARY = CODEC.tokenizer.get_vocab_size()


def pieces(tokens: list[int], cuts: list[int]) -> list[str]:
    stream = CODEC.stream([7, 8, 9])
    found, start = [], 0
    for cut in [*sorted(cuts), len(tokens)]:
        found.append(stream.push(tokens[start:cut]))
        start = max(start, cut)
    return [*found, stream.flush()]


@settings(deadline=None, max_examples=150)
@given(st.text(min_size=1, max_size=40), st.lists(st.integers(0, 60), max_size=6))
def test_text_survives_in_any_pieces(text: str, cuts: list[int]) -> None:
    tokens = CODEC.tokenizer.encode(text).ids
    found = pieces(tokens, cuts)
    assert "".join(found) == CODEC.tokenizer.decode(tokens)
    assert not any("\ufffd" in piece for piece in found) or "\ufffd" in text


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=20), st.lists(st.integers(0, 20), max_size=4))
def test_any_tokens_give_the_same_text_however_cut(tokens: list[int], cuts: list[int]) -> None:
    assert "".join(pieces(tokens, cuts)) == "".join(pieces(tokens, []))


def test_a_character_of_several_tokens_waits_for_the_last() -> None:
    tokens = CODEC.tokenizer.encode("🙂").ids
    assert len(tokens) > 1
    stream = CODEC.stream([])
    assert [stream.push([token]) for token in tokens] == [""] * (len(tokens) - 1) + ["🙂"]


def test_an_answer_cut_inside_a_character_shows_it() -> None:
    stream = CODEC.stream([])
    assert stream.push(CODEC.tokenizer.encode("a🙂").ids[:-1]) == "a"
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_bad_prompts_and_folders(tmp_path) -> None:
    with pytest.raises(InvalidRequestError, match="chat: small-target has no chat template"):
        CODEC.encode("hello", chat=True)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        TextCodec(tmp_path)


TEMPLATE = """\
{%- if messages[-1].role != 'user' %}{{ raise_exception('the last message must be from the user') }}{% endif %}
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("chat")
    for file in resolve("small-target").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return TextCodec(folder)


def test_a_conversation_goes_through_the_models_template(chatting: TextCodec) -> None:
    turns = [("system", "Be brief."), ("user", "Where?"), ("assistant", "Here."), ("user", "Why?")]
    ids = chatting.encode_chat([{"role": role, "content": content} for role, content in turns])
    said = "system: Be brief.\nuser: Where?\nassistant: Here.\nuser: Why?\nassistant:"
    assert CODEC.tokenizer.decode(ids) == said
    assert chatting.encode("Why?", chat=True) == CODEC.tokenizer.encode("user: Why?\nassistant:").ids


def test_what_the_template_refuses_is_told(chatting: TextCodec) -> None:
    with pytest.raises(InvalidRequestError, match=r"messages: .* the last message must be from the user"):
        chatting.encode_chat([{"role": "assistant", "content": "Hello"}])
