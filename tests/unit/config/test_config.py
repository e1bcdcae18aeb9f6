"""The configuration: what is read from where, and that errors say where they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from wanspec.config import Loaded, load
from wanspec.config.problems import InvalidConfigError
from wanspec.config.reference import as_yaml, markdown
from wanspec.config.schema import Config
from wanspec.triton.regions import EngineSettings, RegionSettings

ROOT = Path(__file__).parents[3]


def written(folder: Path, text: str) -> Path:
    path = folder / "wanspec.yaml"
    path.write_text(text)
    return path


def read(folder: Path, text: str, **environment: str) -> Loaded:
    return load(written(folder, text), environment)


def problems(folder: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(InvalidConfigError) as caught:
        read(folder, text, **environment)
    return [str(problem).removeprefix(str(folder / "wanspec.yaml") + ":") for problem in caught.value.problems]


def test_defaults_are_those_of_the_dataclasses() -> None:
    config = load(None, {}).config
    regions = RegionSettings(Path(), Path())
    assert (config.regions.dtype, config.regions.threads) == (EngineSettings().dtype, None)
    assert (config.policy.name, config.policy.parameters) == (regions.policy, regions.policy_parameters)
    assert config.limits.engine_timeout_ms == regions.engine_timeout_ms
    assert list(load(None, {}).given()) == []


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    text = "regions: {dtype: float64, pace_ms: {target: 100, draft: 30}}\nlink:\n  rtt_ms: 70\nopenai:\n"
    loaded = read(tmp_path, text, WANSPEC_LINK__RTT_MS="1e1", WANSPEC_REGIONS__PACE_MS__DRAFT="5", WANSPEC_CACHE="x")
    assert loaded.config.link.rtt_ms == 10.0
    assert loaded.config.regions.pace_ms.model_dump() == {"target": 100.0, "draft": 5.0, "worker": 0.0}
    assert [(section, name) for section, name, _ in loaded.given()] == [
        ("regions", "dtype"),
        ("regions", "pace_ms"),
        ("link", "rtt_ms"),
    ]
    assert str(loaded.places["link", "rtt_ms"]) == "WANSPEC_LINK__RTT_MS"
    assert str(loaded.places["regions", "dtype"]).endswith("wanspec.yaml:1:11")


@pytest.mark.parametrize("text", ["0123", "yes", "1e3", "null", "{a: b}"])
def test_text_of_the_environment_is_taken_as_it_is(text: str) -> None:
    config = load(None, {"WANSPEC_OPENAI__API_KEY": text, "WANSPEC_REGIONS__WORKER_DEVICE": text}).config
    assert config.openai.api_key is not None
    assert config.openai.api_key.get_secret_value() == config.regions.worker_device == text


def test_values_of_the_environment_are_yaml() -> None:
    given = {
        "WANSPEC_POLICY__NAME": "local",
        "WANSPEC_POLICY__PARAMETERS": "{k: 3}",
        "WANSPEC_REGIONS__COMPAT": "true",
        "WANSPEC_SERVER__LOG_DIR": "/var/log",
    }
    config = load(None, given).config
    assert (config.policy.parameters, config.regions.compat, config.server.log_dir) == (
        {"k": 3},
        True,
        Path("/var/log"),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("regions:\n  dtype: float8\n", "2:3: regions.dtype: Input should be 'float32'"),
        ("regions:\n  pair: large\n", "2:3: regions.pair: 'large' is not one of smollm2, small"),
        ("regions:\n\n  threads: true\n", "3:3: regions.threads: Input should be a valid integer, not 'True'"),
        ("regions: {target: a}\n", "1:1: regions: target and draft go together"),
        ("regions: {pair: small, target: a, draft: b}\n", "1:1: regions: give pair, or target and draft"),
        ("regions: {decoupled: true}\n", "1:1: regions: decoupled goes with compat"),
        ("regions:\n  pace_ms: {target: 1, drafts: 2}\n", "2:24: regions.pace_ms.drafts: is not a field"),
        ("link:\n  rtt_ms: 20\n  jitter_ms: 11\n", "3:3: link.jitter_ms: 11 is above 10, half of rtt_ms"),
        ("link:\n  rtt_ms: .nan\n", "2:3: link.rtt_ms: Input should be a finite number"),
        ("limits: {deadline_ms: 9, max_deadline_ms: 8}\n", "1:10: limits.deadline_ms: 9 is above max_deadline_ms, 8"),
        ("policy:\n  name: magic\n", "2:3: policy.name: 'magic' is unknown; choose one of target_only"),
        ("policy:\n  parameters:\n    k: 99\n", "3:5: policy.parameters.k: 99 is outside 1 to 32"),
        ("policy:\n  parameters: {depth: 1}\n", "2:16: policy.parameters.depth: "),
        ("policy:\n  parameters: {k: [1]}\n", "2:16: policy.parameters.k: Input should be a valid"),
        ("openai:\n  api_key: 123\n", "2:3: openai.api_key: Input should be a valid string"),
        ("speed: 1\n", "1:1: speed: is not a field"),
        ("regions: {dtyp: float32}\n", "1:11: regions.dtyp: is not a field of a configuration; did you mean dtype?"),
        ("regions: {dtype: 2024-13-45}\n", " is not YAML: "),
        ("regions: {context: !!int foo}\n", " is not YAML: "),
        ("? !!str [a, b]\n: 1\n", "1:3: "),
        ("link: 3\n", "1:1: link: Input should be a valid dictionary"),
        ("- a\n", "1:1: is not a mapping of sections"),
        ("link:\n  rtt_ms: 1\n  rtt_ms: 2\n", "3:3: link.rtt_ms: is there already, in line 2"),
        ("link:\n  1: 2\n", "2:3: link: '1' is not a name"),
        ("link: {rtt_ms: 1\n", "2:1: is not YAML: "),
        ("a: &a\n  b: *a\n", "2:3: a.b: refers to an anchor"),
        ("a: &a [*a]\n", "1:4: a.0: refers to an anchor"),
        ("\x00", " is not YAML"),
        ("[" * 1000 + "]" * 1000, " is not YAML"),
    ],
)
def test_errors_have_their_place(tmp_path: Path, text: str, told: str) -> None:
    assert [line for line in problems(tmp_path, text) if line.startswith(told)]


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    told = problems(
        tmp_path, "link:\n  loss: 2\nregions:\n  dtype: x\n", WANSPEC_LINK__RTT="5", WANSPEC_OPENAI__PORT="x"
    )
    assert [re.split(": (?:Input|is not)", line)[0] for line in told] == [
        "2:3: link.loss",
        "4:3: regions.dtype",
        "WANSPEC_LINK__RTT: link.rtt",
        "WANSPEC_OPENAI__PORT: openai.port",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        load(tmp_path / "absent.yaml", {})
    (tmp_path / "wanspec.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidConfigError, match="above the limit"):
        load(tmp_path / "wanspec.yaml", {})


def test_what_is_shown_reads_back(tmp_path: Path) -> None:
    assert load(written(tmp_path, as_yaml(load(None, {}))), {}).config == Config()
    text = "policy: {name: local, parameters: {k: 3}}\nregions: {pace_ms: {draft: 4}, target: '0', draft: 'yes'}\n"
    loaded = read(tmp_path, text, WANSPEC_SERVER__LOG_DIR="/x y")
    shown = as_yaml(loaded)
    assert "  name: local  # " in shown
    assert "  # dtype: float32\n" in shown
    again = load(written(tmp_path, shown), {})
    assert again.config == loaded.config
    assert list(again.given()) == list(loaded.given())


def test_secrets_are_not_shown() -> None:
    loaded = load(None, {"WANSPEC_OPENAI__API_KEY": "hush"})
    assert "hush" not in as_yaml(loaded) + loaded.config.model_dump_json() + repr(loaded)
    with pytest.raises(InvalidConfigError, match=r"openai\.api_key: Input should be") as caught:
        load(None, {"WANSPEC_OPENAI__API_KEY__X": "hush"})
    assert "hush" not in str(caught.value)


def test_the_page_is_made_of_the_schema() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown()
    example: dict[str, Any] = yaml.safe_load(markdown().partition("```yaml\n")[2].partition("```")[0])
    assert Config.model_validate(example).policy.parameters == {"k": 3}
    with pytest.raises(ValidationError):
        Config.model_validate(example | {"more": 1})
