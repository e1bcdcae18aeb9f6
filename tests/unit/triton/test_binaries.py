from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from wanspec.errors import ServerError
from wanspec.triton import binaries


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    root = tmp_path / "tritonserver"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tritonserver").touch(mode=0o755)
    (root / "backends" / "python").mkdir(parents=True)
    (root / "backends" / "python" / "libtriton_python.so").touch()
    return root


@pytest.mark.parametrize("given", ["", "bin/tritonserver"])
def test_environment_variable_names_the_folder_or_the_executable(
    installed: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(binaries.ENVIRONMENT_VARIABLE, str(installed / given))
    found = binaries.find_binaries()
    assert found.executable == installed / "bin" / "tritonserver"
    assert found.backends == installed / "backends"
    assert found.stub is None


def test_wrong_path_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(binaries.ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(ServerError, match=r"\$WANSPEC_TRITONSERVER: .* is not an executable"):
        binaries.find_binaries()


def test_without_a_python_backend(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (installed / "backends" / "python").rename(installed / "backends" / "onnx")
    monkeypatch.setenv(binaries.ENVIRONMENT_VARIABLE, str(installed))
    with pytest.raises(ServerError, match="no python backend"):
        binaries.find_binaries()


def test_absent_tells_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(binaries.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(binaries, "_pytriton_folder", lambda: None)
    monkeypatch.setattr(binaries, "INSTALLED", tmp_path / "none")
    with pytest.raises(ServerError, match=r"pip install 'wanspec\[local\]'"):
        binaries.find_binaries()


def test_wheel_without_a_stub_for_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tritonserver" / "python_backend_stubs" / "2.7").mkdir(parents=True)
    monkeypatch.delenv(binaries.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(binaries, "_pytriton_folder", lambda: tmp_path)
    with pytest.raises(ServerError, match=rf"no stub for Python 3\.{sys.version_info.minor} \(it has: 2\.7\)"):
        binaries.find_binaries()


def test_finding_does_not_import_pytriton() -> None:
    script = (
        "import sys; from wanspec.triton import binaries; binaries.find_binaries(); sys.exit('pytriton' in sys.modules)"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]) == 0


def test_backends_are_linked_with_stub_and_package(installed: Path, tmp_path: Path) -> None:
    stub = tmp_path / binaries.STUB
    stub.touch()
    found = binaries.TritonBinaries(installed / "bin" / "tritonserver", installed / "backends", stub, ())
    for _ in range(2):  # a restart prepares again
        backends = binaries.prepare_backends(found, tmp_path / "own")
    assert (backends / "python" / binaries.STUB).readlink() == stub
    assert (backends / "python" / "libtriton_python.so").exists()
    assert (backends / "python" / "wanspec" / "errors.py").is_file()
    assert os.listdir(installed / "backends" / "python") == ["libtriton_python.so"]


def test_python_without_a_shared_library_uses_the_systems(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = binaries.TritonBinaries(installed / "bin" / "tritonserver", installed / "backends", tmp_path / "stub", ())
    monkeypatch.setattr(binaries, "running_libpython", lambda: None)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libpython.so")
    binaries.prepare_backends(found, tmp_path / "own")
    assert os.listdir(tmp_path / "own" / "lib") == []
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(ServerError, match=r"needs libpython3\.\d+\.so.*apt-get install libpython3"):
        binaries.prepare_backends(found, tmp_path / "own")


def test_environment(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    found = binaries.TritonBinaries(installed / "bin" / "tritonserver", installed / "backends", None, (Path("/wheel"),))
    environment = binaries.server_environment(found, tmp_path, {"MODEL": "m"})
    assert "PYTHONHOME" not in environment
    assert environment["LD_LIBRARY_PATH"] == f"{tmp_path / 'lib'}:/wheel:/before"
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert environment["MODEL"] == "m"
    assert Path(environment["PYTHONPATH"].split(":")[0], "wanspec").is_dir()
