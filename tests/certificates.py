"""Certificates for tests, by the script that users run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "deploy" / "certificates.sh"


def make_certificates(folder: Path, *regions: str) -> Path:
    """``folder/REGION`` for each ``REGION=NAME,...``; skips the test where openssl is not installed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; Debian, Ubuntu: apt-get install openssl")
    subprocess.run([SCRIPT, folder, *regions], check=True, capture_output=True, timeout=60)
    return folder
