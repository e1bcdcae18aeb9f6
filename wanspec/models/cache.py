"""The cache of folders that are made once: complete or absent, also with several processes at work."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wanspec.errors import ModelError
from wanspec.models.progress import ProgressCallback, ignore_progress

logger = logging.getLogger(__name__)

MANIFEST = "wanspec_manifest.json"
"""File in every cached folder: size and SHA-256 of each other file, as they were made."""

LOCK_DEADLINE_S = 900.0
"""Longest wait, in seconds, for another process that makes the same folder."""

_POLL_S = 0.1
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)


def cache_dir() -> Path:
    """Return the cache's folder: $WANSPEC_CACHE, else $XDG_CACHE_HOME/wanspec, else ~/.cache/wanspec."""
    own = os.environ.get("WANSPEC_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "wanspec"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_complete(folder: Path) -> bool:
    """Tell whether every file of the manifest is there with its size. Reads no weights."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    return all(_size(folder / name) == wanted["size"] for name, wanted in manifest.items())


def damaged_files(folder: Path) -> list[str]:
    """Hash every file of a cached folder again; return the names of those that differ from the manifest."""
    manifest = read_manifest(folder)
    if manifest is None:
        return [MANIFEST]
    return [
        name
        for name, wanted in manifest.items()
        if _size(folder / name) != wanted["size"] or file_sha256(folder / name) != wanted["sha256"]
    ]


def read_manifest(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Return the manifest's files, name to size (bytes) and sha256, or None where there is no readable manifest."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if isinstance(files, dict) else None


def build_once(
    folder: Path,
    build: Callable[[Path], None],
    *,
    needed_bytes: int = 0,
    on_progress: ProgressCallback = ignore_progress,
    force: bool = False,
) -> Path:
    """Return ``folder``, made by ``build(temporary folder)`` unless it is complete already.

    The folder appears by one rename, so it is never half made; a lock lets one process build while others wait.
    ``needed_bytes`` must be free on its disk. Raises ModelError if the cache cannot be written or the wait is too long.
    """
    if not force and is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock", on_progress):
            if force or not is_complete(folder):
                _build(folder, build, needed_bytes)
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        raise ModelError(
            f"cache: cannot write {folder.parent} ({error}). Set WANSPEC_CACHE to a folder that can be written."
        ) from error
    return folder


def _build(folder: Path, build: Callable[[Path], None], needed_bytes: int) -> None:
    # Whoever held the lock before and was killed left its temporary folder behind.
    for leftover in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needed_bytes:
        raise ModelError(
            f"cache: {folder.parent} has {free / 1e6:.0f} MB free, {needed_bytes / 1e6:.0f} MB are needed. "
            "Make room, or set WANSPEC_CACHE to a folder on another disk."
        )
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        build(partial)
        _write_manifest(partial)
        if folder.exists():
            logger.warning("%s was damaged or is rebuilt on request: replacing it", folder)
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_manifest(folder: Path) -> None:
    folder.chmod(0o755)
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        path.chmod(0o644)
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


@contextlib.contextmanager
def _locked(path: Path, on_progress: ProgressCallback) -> Iterator[None]:
    # Not at the top of the file: the commands that only talk to a server must also start where there is no fcntl.
    import fcntl

    deadline = time.monotonic() + LOCK_DEADLINE_S
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                on_progress("waiting for another process that prepares the same model", None)
            if time.monotonic() > deadline:
                raise ModelError(
                    f"cache: another process has held {path} for {LOCK_DEADLINE_S:.0f} s. End it, then try again."
                )
            time.sleep(_POLL_S)
        # Closing the file releases the lock, also when the process is killed.
        yield
