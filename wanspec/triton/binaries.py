"""Where ``tritonserver`` and its python backend are, and the environment they need. Nothing of Triton is imported."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wanspec.errors import ServerError

ENVIRONMENT_VARIABLE = "WANSPEC_TRITONSERVER"
INSTALLED = Path("/opt/tritonserver")
STUB = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class TritonBinaries:
    """One installation of Triton.

    ``backends`` holds one folder per backend; ``stub`` is the python backend's process for the running Python, None
    where the backend folder already has the only one; ``libraries`` go first on the loader's path.
    """

    executable: Path
    backends: Path
    stub: Path | None
    libraries: tuple[Path, ...]


def find_binaries() -> TritonBinaries:
    """Triton from $WANSPEC_TRITONSERVER, from the package nvidia-pytriton, or from /opt/tritonserver, in this order.

    Raises:
        ServerError: none of them is usable; says what to install.
    """
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        return _from_installation(Path(given), f"${ENVIRONMENT_VARIABLE}")
    package = _pytriton_folder()
    if package is not None:
        return _from_pytriton(package)
    if INSTALLED.is_dir():
        return _from_installation(INSTALLED, "the installed Triton")
    raise ServerError(
        "tritonserver: not found. Install it with `pip install 'wanspec[local]'` (package nvidia-pytriton: Linux "
        f"x86_64, Python 3.10 to 3.13), or set {ENVIRONMENT_VARIABLE} to the folder or the executable of a Triton"
    )


def prepare_backends(binaries: TritonBinaries, folder: Path) -> Path:
    """Make ``folder/backends`` (links to ``binaries.backends`` plus the stub of this Python) and ``folder/lib``.

    The wheel keeps its stubs outside the backend folder, and may be read-only: every server gets a folder of its own.
    The python backend's folder is the last on its models' ``sys.path``: a link there lets them import this package even
    where it is not installed.

    Raises:
        ServerError: the stub needs a libpython that is nowhere.
    """
    backends = folder / "backends"
    for source in sorted(binaries.backends.iterdir()):
        target = backends / source.name
        target.mkdir(parents=True, exist_ok=True)
        for entry in source.iterdir():
            if entry.name != "__pycache__":
                _link(target / entry.name, entry)
    package = Path(__file__).resolve().parents[1]
    _link(backends / "python" / package.name, package)
    if binaries.stub is not None:
        _link(backends / "python" / STUB, binaries.stub)
    libraries = folder / "lib"
    libraries.mkdir(exist_ok=True)
    shared = running_libpython()
    if shared is not None:
        _link(libraries / shared.name, shared)
    elif binaries.stub is not None:
        _require_system_libpython()
    return backends


def server_environment(binaries: TritonBinaries, folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the server's Python models see what this Python sees: same version, same packages.

    The interpreter embedded in the stub ignores PYTHONPATH. It looks up its program name, ``python3``, in PATH, and so
    finds the virtual environment; what models start with ``sys.executable`` does read PYTHONPATH. ``folder`` is the one
    given to ``prepare_backends``: its ``lib`` links to this Python's own libpython, lest the system's be taken.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")}
    environment.update(extra)
    libraries = [folder / "lib", *binaries.libraries]
    environment["LD_LIBRARY_PATH"] = _joined(libraries, environment.get("LD_LIBRARY_PATH", ""))
    environment["PATH"] = _joined([Path(sys.executable).parent], environment.get("PATH", os.defpath))
    environment["PYTHONPATH"] = _joined(_package_folders(), environment.get("PYTHONPATH", ""))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def running_libpython() -> Path | None:
    """The shared library of the running Python, None where it was built without one."""
    name, folder = sysconfig.get_config_var("INSTSONAME"), sysconfig.get_config_var("LIBDIR")
    if not name or not folder or ".so" not in name:
        return None
    path = Path(folder) / name
    multiarch = Path(folder) / str(sysconfig.get_config_var("MULTIARCH") or "") / name
    return next((candidate for candidate in (path, multiarch) if candidate.is_file()), None)


def _require_system_libpython() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ctypes.util.find_library(f"python{version}") is None:
        raise ServerError(
            f"python backend: needs libpython{version}.so, and this Python was built without one; install it (Debian, "
            f"Ubuntu: apt-get install libpython{version}), or use a Python built with --enable-shared"
        )


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _pytriton_folder() -> Path | None:
    spec = importlib.util.find_spec("pytriton")
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None


def _from_pytriton(package: Path) -> TritonBinaries:
    root = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stubs = root / "python_backend_stubs"
    stub = stubs / version / STUB
    if not stub.is_file():
        known = ", ".join(sorted(entry.name for entry in stubs.iterdir())) if stubs.is_dir() else "none"
        raise ServerError(
            f"python backend: nvidia-pytriton has no stub for Python {version} (it has: {known}); use one of these"
        )
    executable = _executable(root / "bin" / "tritonserver", "nvidia-pytriton")
    return TritonBinaries(executable, root / "backends", stub, (package.parent / "nvidia_pytriton.libs",))


def _from_installation(path: Path, origin: str) -> TritonBinaries:
    root = path.parent.parent if path.is_file() else path
    executable = _executable(path if path.is_file() else path / "bin" / "tritonserver", origin)
    backends = root / "backends"
    if not (backends / "python").is_dir():
        raise ServerError(f"{origin}: {backends} has no python backend; install Triton's python backend there")
    return TritonBinaries(executable, backends, None, (root / "lib",))


def _executable(path: Path, origin: str) -> Path:
    if not os.access(path, os.X_OK) or not path.is_file():
        raise ServerError(f"{origin}: {path} is not an executable; reinstall it, or correct the path")
    return path


def _package_folders() -> list[Path]:
    """Entries of ``sys.path`` outside the standard library, and the folder that holds this package."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    zipped = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    entries = [Path(__file__).resolve().parents[2]]
    for entry in sys.path:
        path = Path(entry)
        if not entry or not path.is_absolute() or entry in standard or path.name in ("lib-dynload", zipped):
            continue
        if path.exists() and path not in entries:
            entries.append(path)
    return entries


def _joined(first: list[Path], rest: str) -> str:
    return os.pathsep.join([*map(str, first), *(part for part in rest.split(os.pathsep) if part)])
