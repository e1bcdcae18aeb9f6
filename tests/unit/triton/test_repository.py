from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec.errors import ConfigError
from wanspec.triton.repository import ModelRepository, check_config, models_of, region_folder, substitute

CONFIG = """name: "echo"
backend: "python"
max_batch_size: ${batch}
parameters { key: "folder" value { string_value: "${folder}" } }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model = tmp_path / "source" / "echo"
    (model / "1" / "__pycache__").mkdir(parents=True)
    (model / "1" / "__pycache__" / "model.pyc").write_bytes(b"x")
    (model / "1" / "model.py").write_text("cost = '$5 ${not_a_template}'")
    (model / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "source" / "other").mkdir()
    return tmp_path / "source"


def test_renders_config_and_copies_the_rest(source: Path, tmp_path: Path) -> None:
    folder = ModelRepository(source, {"echo": {"batch": 0, "folder": 'C:\\models\n"x"'}}).render(tmp_path / "out")
    assert models_of(folder) == ["echo"]
    assert (folder / "echo" / "1" / "model.py").read_text() == "cost = '$5 ${not_a_template}'"
    assert not (folder / "echo" / "1" / "__pycache__").exists()
    config = parse((folder / "echo" / "config.pbtxt").read_text())
    assert config.max_batch_size == 0
    assert config.parameters["folder"].string_value == 'C:\\models\n"x"'


def test_makes_the_version_folder(source: Path, tmp_path: Path) -> None:
    (source / "other" / "config.pbtxt").write_text('backend: "python"')
    folder = ModelRepository(source, {"other": {}}).render(tmp_path / "out")
    assert (folder / "other" / "1").is_dir()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, r"echo/config.pbtxt: \$\{folder\}: has no value"),
        (
            {"batch": 0, "folder": "", "bach": 1},
            r"config.pbtxt: bach: is not used by this file; it takes: batch, folder",
        ),
        ({"batch": "many", "folder": ""}, r"config.pbtxt: not a valid model configuration: line 3"),
    ],
)
def test_mistakes_name_the_file_and_the_key(
    source: Path, tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelRepository(source, {"echo": values}).render(tmp_path / "out")  # type: ignore[dict-item]


def test_unknown_model_names_those_there_are(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has: echo, other"):
        ModelRepository(source, {"eco": {}}).render(tmp_path / "out")


def test_name_must_be_the_folder(source: Path, tmp_path: Path) -> None:
    (source / "other" / "config.pbtxt").write_text('name: "echo" backend: "python"')
    with pytest.raises(ConfigError, match="is 'echo' but the model's folder is 'other'"):
        ModelRepository(source, {"other": {}}).render(tmp_path / "out")


def test_does_not_render_over_something(source: Path) -> None:
    with pytest.raises(ConfigError, match="is not empty"):
        ModelRepository(source, {}).render(source)


def test_stray_dollar_names_the_line() -> None:
    with pytest.raises(ConfigError, match=r"f.pbtxt: line 2: a dollar sign"):
        substitute("a\nprice: $5", {}, file=Path("f.pbtxt"))
    assert substitute("price: $$5", {}, file=Path("f.pbtxt")) == "price: $5"


def test_booleans_are_pbtxt_booleans() -> None:
    assert substitute("${on} ${off}", {"on": True, "off": False}, file=Path("f")) == "true false"


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_in_a_quoted_string(value: str) -> None:
    text = substitute('parameters { key: "k" value { string_value: "${v}" } }', {"v": value}, file=Path("f"))
    assert parse(text).parameters["k"].string_value == value


def test_invalid_configuration_names_the_line() -> None:
    with pytest.raises(ConfigError, match=r"f: not a valid model configuration: line 2:1 .*max_batch_sise"):
        check_config('name: "m"\nmax_batch_sise: 3', model="m", file=Path("f"))


def test_unknown_region_names_the_regions() -> None:
    with pytest.raises(ConfigError, match="no model repository for 'moon'; regions: "):
        region_folder("moon")


def parse(text: str):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())
