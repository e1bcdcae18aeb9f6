"""Whether the two checkpoints of a pair fit each other and their recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines.recipe import MODEL_TYPES, Recipe, Shape
from wanspec.errors import ConfigError, ModelError
from wanspec.models import check_pair, fingerprint
from wanspec.models.folders import check_folder, read_json

SPECIAL_TOKENS = ("bos_token", "eos_token")


@dataclass(frozen=True, slots=True)
class CheckedPair:
    """What was found. ``notes``: what a user should know, and no error."""

    shapes: dict[str, Shape]
    notes: tuple[str, ...]


def check(recipe: Recipe, target: Path, draft: Path) -> CheckedPair:
    """Compare both folders, and each with its section of the recipe.

    Token ids must be the same. Their logits may be padded to different widths, as in Qwen2.5 (152,064 columns from 7B
    on, 151,936 below, for one tokenizer of 151,665 tokens): only ids of the tokenizer are drafted and committed, and
    one-hot draft logits are as wide as the target's.

    Raises:
        ModelError: a folder is incomplete, or the tokenizers or special tokens differ.
        ConfigError: a folder is not what the recipe says, or the sequence is longer than a model's.
    """
    check_pair(target, draft)
    folders = {"target": target, "draft": draft}
    shapes = {role: _checked_shape(recipe, role, folder) for role, folder in folders.items()}
    _check_special_tokens(target, draft)
    notes = _vocabularies(shapes, fingerprint(target).vocab_size)
    if chat_template(target) != chat_template(draft):
        if recipe.chat_template == "same":
            raise ConfigError("chat_template", "the target's and the draft's differ; `warn` allows it")
        notes.append("the chat templates differ: the target's is used for both, the draft sees token ids only")
    return CheckedPair(shapes, tuple(notes))


def check_draft(recipe: Recipe, draft: Path) -> CheckedPair:
    """Compare the draft's folder with its section of the recipe, where the target is not here.

    Raises:
        ModelError: the folder is incomplete.
        ConfigError: it is not what the recipe says, or the recipe does not state the target's shape.
    """
    if recipe.target.shape is None:
        raise ConfigError("target.shape", "is needed for the estimate: the target is not here")
    check_folder(draft)
    shapes = {"target": recipe.target.shape, "draft": _checked_shape(recipe, "draft", draft)}
    return CheckedPair(shapes, ("the target is not here: whether the draft fits it was not checked",))


def read_shape(folder: Path) -> Shape:
    """Dimensions of a Hugging Face folder.

    Raises:
        ModelError: its config.json lacks some.
    """
    config = read_json(folder / "config.json")
    values: dict[str, Any] = {name: config[name] for name in Shape.model_fields if config.get(name) is not None}
    try:
        values.setdefault("num_key_value_heads", config["num_attention_heads"])
        values.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
        return Shape.model_validate(values)
    except (KeyError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ModelError(f"model: {folder / 'config.json'} lacks dimensions of a decoder ({detail}).") from error


def chat_template(folder: Path) -> str:
    """The chat template; empty without."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _tokenizer_config(folder).get("chat_template")
    return template if isinstance(template, str) else ""


def _checked_shape(recipe: Recipe, role: str, folder: Path) -> Shape:
    section = recipe.section(role)
    kind = str(read_json(folder / "config.json").get("model_type"))
    if MODEL_TYPES.get(kind) != section.family:
        known = ", ".join(f"{name} ({family})" for name, family in MODEL_TYPES.items())
        raise ConfigError(
            f"{role}.family", f"{folder} has model_type {kind!r}, the recipe {section.family}; known: {known}"
        )
    shape = read_shape(folder)
    if section.shape is not None and section.shape != shape:
        given, found = section.shape.model_dump(), shape.model_dump()
        name = next(name for name in given if given[name] != found[name])
        raise ConfigError(f"{role}.shape.{name}", f"is {given[name]} in the recipe and {found[name]} in {folder}")
    recipe.check_length(role, shape)
    section.check_shape(shape)
    return shape


def _check_special_tokens(target: Path, draft: Path) -> None:
    """Those that only the tokenizers' configurations name. ``check_pair`` compares all that have ids."""
    mine, theirs = _tokenizer_config(target), _tokenizer_config(draft)
    for name in SPECIAL_TOKENS:
        left, right = _content(mine.get(name)), _content(theirs.get(name))
        if left != right:
            raise ModelError(
                f"model: {name} of {target} is {left!r}, of {draft} {right!r}. "
                "Speculative decoding needs one tokenizer for both."
            )


def _vocabularies(shapes: dict[str, Shape], tokens: int) -> list[str]:
    for role, shape in shapes.items():
        if shape.vocab_size < tokens:
            raise ModelError(
                f"model: the {role} has {shape.vocab_size} logits for {tokens} token ids of its tokenizer."
            )
    mine, theirs = shapes["target"].vocab_size, shapes["draft"].vocab_size
    if mine == theirs:
        return []
    return [f"logits are padded to {mine} (target) and {theirs} (draft) columns; both use {tokens} token ids"]


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _content(token: Any) -> Any:
    """Older files write a token as an object."""
    return token.get("content") if isinstance(token, dict) else token
