"""One modelled GPU for the engines of one region, which are processes of their own: one pass at a time.

The rule is the simulator's (:class:`wanspec.simulation.gpu.ScarceGpu`): the next pass is of the model whose oldest
request has waited longest. The turn is a file lock, so the kernel gives it back however a process ends.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wanspec.errors import ConfigError

_TURN = "turn"
_SUFFIX = ".engine"
_RECORD = struct.Struct("<qqqqq")
_WAITING = struct.Struct("<q")
"""The first field: since when the oldest request has waited; 0 where none does."""
_LATER_S = 100e-6
"""Pause of an engine that has the turn before one that has waited longer: that one is about to take it."""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What one engine has had of the GPU.

    Attributes:
        busy_ns: time of its passes.
        passes: how many.
        members: requests in them, each counted in every pass.
        last_ns: time of the last one.
    """

    busy_ns: int
    passes: int
    members: int
    last_ns: int


class SharedGpu:
    """An engine's share of a GPU. Used by one thread.

    Whoever waits here has no deadline: a pass that never ends holds up the GPU, as on a real one, and callers of
    engines have their own.
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        """Join.

        Args:
            folder: the GPU; one that exists, on a local disk.
            name: of the engine, one of its kind in the folder.

        Raises:
            ConfigError: the folder is not usable, or an engine of this name uses it.
        """
        self._folder = Path(folder)
        self._own = self._folder / f"{name}{_SUFFIX}"
        try:
            self._turn = os.open(self._folder / _TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._file = os.open(self._own, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as the engine lives
        except BlockingIOError as error:
            raise ConfigError("shared_gpu", f"{self._own} is in use by another engine") from error
        except OSError as error:
            raise ConfigError("shared_gpu", f"{folder} cannot be used: {error.strerror}; give a folder") from error
        os.ftruncate(self._file, _RECORD.size)
        self._record = mmap.mmap(self._file, _RECORD.size)
        _RECORD.pack_into(self._record, 0, *(0,) * 5)

    @contextmanager
    def turn(self, waiting_since_ns: int) -> Iterator[None]:
        """Have the GPU to oneself; ``waiting_since_ns`` (monotonic) is when the oldest request came."""
        _WAITING.pack_into(self._record, 0, waiting_since_ns)
        while True:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
            if not self._after_another(waiting_since_ns):
                break
            fcntl.flock(self._turn, fcntl.LOCK_UN)
            time.sleep(_LATER_S)
        _WAITING.pack_into(self._record, 0, 0)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def passed(self, busy_ns: int, members: int) -> None:
        """Count a pass over so many requests."""
        waiting, busy, passes, all_members, _ = _RECORD.unpack_from(self._record)
        _RECORD.pack_into(self._record, 0, waiting, busy + busy_ns, passes + 1, all_members + members, busy_ns)

    @property
    def longest_s(self) -> float:
        """The longest of the engines' last passes, seconds."""
        return max(use.last_ns for use in gpu_use(self._folder).values()) / 1e9

    def close(self) -> None:
        """Leave."""
        self._record.close()
        os.close(self._file)
        os.close(self._turn)

    def _after_another(self, since_ns: int) -> bool:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path == self._own:
                continue
            waiting = _WAITING.unpack_from(_read(path))[0]
            if 0 < waiting < since_ns and _alive(path):
                return True
        return False


def gpu_use(folder: str | Path) -> dict[str, GpuUse]:
    """What each engine has had of a GPU so far, by name."""
    found = {}
    for path in sorted(Path(folder).glob(f"*{_SUFFIX}")):
        _, *use = _RECORD.unpack_from(_read(path))
        found[path.name.removesuffix(_SUFFIX)] = GpuUse(*use)
    return found


def _read(path: Path) -> bytes:
    return path.read_bytes().ljust(_RECORD.size, b"\0")


def _alive(path: Path) -> bool:
    """Whether the engine that waits there still does: a dead one's lock is free."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
