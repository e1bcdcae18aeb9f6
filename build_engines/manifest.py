"""What was built, of what, by which command: so that an unchanged step is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engines.plan import Step
from wanspec.models.fingerprint import sample_digest

FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class Versions:
    """What makes an engine useless elsewhere. TensorRT's own version goes with that of TensorRT-LLM."""

    tensorrt_llm: str
    tensorrt: str
    gpu: str


class Manifest:
    """The steps that were done in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; what cannot be read counts as nothing done."""
        self._file = folder / FILE
        self._steps: dict[str, dict[str, Any]] = {}
        try:
            steps = json.loads(self._file.read_text(encoding="utf-8"))["steps"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if isinstance(steps, dict):
            self._steps = steps

    def is_done(self, step: Step, key: str) -> bool:
        """Whether a step was done with the same inputs, and its files are as they were."""
        entry = self._steps.get(step.name)
        return isinstance(entry, dict) and entry.get("key") == key and entry.get("files") == sizes(step.result)

    def begin(self, step: Step) -> None:
        """Forget a step that is done anew."""
        if self._steps.pop(step.name, None) is not None:
            self._write()

    def finish(self, step: Step, key: str, seconds: float, inputs: Mapping[str, Any]) -> None:
        """Note a step that succeeded."""
        self._steps[step.name] = {
            "key": key,
            "argv": list(step.argv),
            "inputs": dict(inputs),
            "seconds": round(seconds, 1),
            "files": sizes(step.result),
        }
        self._write()

    def _write(self) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps({"steps": self._steps}, indent=2) + "\n", encoding="utf-8")
        partial.replace(self._file)


def step_inputs(step: Step, versions: Versions) -> dict[str, Any]:
    """All that a step's result depends on."""
    source = step.source
    content = digest(source) if isinstance(source, Path) else source
    return {
        "argv": list(step.argv),
        "source": content,
        # A download depends on none of them.
        "versions": [versions.tensorrt_llm, versions.tensorrt, versions.gpu] if step.argv else [],
    }


def key_of(inputs: Mapping[str, Any]) -> str:
    """Hash of a step's inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def digest(folder: Path) -> str:
    """Of a folder's files: names, sizes and samples."""
    files = _files(folder)
    names = hashlib.sha256("\0".join(str(file.relative_to(folder)) for file in files).encode()).hexdigest()
    return f"{names[:16]}{sample_digest(files)}"


def sizes(folder: Path) -> dict[str, int]:
    """Of a folder's files by name, bytes."""
    return {str(file.relative_to(folder)): file.stat().st_size for file in _files(folder)}


def _files(folder: Path) -> list[Path]:
    # Hidden ones are notes of the hub's client.
    found = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))
