"""Prometheus, where it is installed: Debian's package `prometheus`. `.ci/run` installs it."""

from __future__ import annotations

import os
import shutil

import pytest


def binary(name: str) -> str:
    """Where `prometheus` or `promtool` is; without it the test is skipped, but not in CI."""
    found = shutil.which(name)
    if found is None:
        assert os.environ.get("WANSPEC_REQUIRE_PROMETHEUS") != "1", f"{name} is to be here: .ci/run has installed it"
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return found
