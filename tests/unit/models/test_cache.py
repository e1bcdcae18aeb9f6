import multiprocessing
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec.errors import ModelError
from wanspec.models import cache


def write(text):
    return lambda folder: (folder / "file").write_text(text)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANSPEC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_dir() == tmp_path / ".cache" / "wanspec"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "wanspec"
    monkeypatch.setenv("WANSPEC_CACHE", str(tmp_path / "own"))
    assert cache.cache_dir() == tmp_path / "own"


def test_a_folder_is_built_once(tmp_path):
    folder = tmp_path / "model"
    assert cache.build_once(folder, write("first")) == folder
    cache.build_once(folder, write("second"))
    assert (folder / "file").read_text() == "first"
    cache.build_once(folder, write("third"), force=True)
    assert (folder / "file").read_text() == "third"


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.build_once(tmp_path / "model", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_failed_rebuild_keeps_the_old_folder(tmp_path):
    def fail(folder):
        raise RuntimeError("no")

    cache.build_once(tmp_path / "model", write("old"))
    with pytest.raises(RuntimeError, match="no"):
        cache.build_once(tmp_path / "model", fail, force=True)
    assert (tmp_path / "model" / "file").read_text() == "old"


def test_what_a_killed_process_left_is_removed(tmp_path):
    leftover = tmp_path / ".model.abc.partial"
    leftover.mkdir(parents=True)
    (leftover / "file").write_text("half")
    cache.build_once(tmp_path / "model", write("whole"))
    assert not leftover.exists()


@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_text("longer than it was")])
def test_a_damaged_folder_is_built_again(tmp_path, damage):
    folder = cache.build_once(tmp_path / "model", write("good"))
    damage(folder / "file")
    assert not cache.is_complete(folder)
    cache.build_once(folder, write("good"))
    assert (folder / "file").read_text() == "good"


@given(position=st.integers(0, 99), flip=st.integers(1, 255))
def test_any_changed_byte_is_found(position, flip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "model"
    content = bytes(range(100))
    cache.build_once(folder, lambda partial: (partial / "file").write_bytes(content))
    assert cache.damaged_files(folder) == []
    changed = bytearray(content)
    changed[position] ^= flip
    (folder / "file").write_bytes(bytes(changed))
    assert cache.is_complete(folder)
    assert cache.damaged_files(folder) == ["file"]


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": 3}', "not json"])
def test_an_unreadable_manifest_means_incomplete(tmp_path, manifest):
    folder = cache.build_once(tmp_path / "model", write("x"))
    (folder / cache.MANIFEST).write_text(manifest)
    assert not cache.is_complete(folder)
    assert cache.damaged_files(folder) == [cache.MANIFEST]


def test_too_little_room_is_said_before_work_starts(tmp_path):
    with pytest.raises(ModelError, match="WANSPEC_CACHE"):
        cache.build_once(tmp_path / "model", write("x"), needed_bytes=1 << 60)


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="WANSPEC_CACHE"):
        cache.build_once(tmp_path / "file" / "model", write("x"))


def test_errors_of_the_builder_are_not_blamed_on_the_cache(tmp_path):
    def fail(folder):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        cache.build_once(tmp_path / "model", fail)


def test_the_wait_for_another_process_has_a_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LOCK_DEADLINE_S", 0.2)
    stages = []
    with (
        cache._locked(tmp_path / ".model.lock", lambda stage, fraction: None),
        pytest.raises(ModelError, match="another process"),
    ):
        cache.build_once(tmp_path / "model", write("x"), on_progress=lambda stage, fraction: stages.append(stage))
    assert "waiting" in stages[0]


def _build_slowly(folder: str) -> None:
    def build(partial: Path) -> None:
        time.sleep(0.2)
        (partial / "file").write_text(str(os.getpid()))
        with open(Path(folder).parent / "builds", "a") as log:
            log.write("x")

    cache.build_once(Path(folder), build)


def test_two_processes_build_one_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_build_slowly, args=(str(tmp_path / "model"),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "x"
    assert cache.is_complete(tmp_path / "model")
