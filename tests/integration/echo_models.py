"""Tiny Triton repositories for the server tests: an echo, a model that cannot start, one that is slow to."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input [{{ name: "x" data_type: TYPE_INT32 dims: [-1] }}]
output [{{ name: "x" data_type: TYPE_INT32 dims: [-1] }}]
"""

ECHO = """
import multiprocessing, os, sys, time
import numpy, wanspec
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.get_input_tensor_by_name(request, "x")]) for request in requests]
"""


def write_model(repository: Path, name: str, initialize: str = "pass") -> Path:
    """A python model ``name`` that echoes "x"; ``initialize`` is the (one-line) body of that method."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG.format(name=name))
    (folder / "1" / "model.py").write_text(ECHO.format(initialize=initialize))
    return repository
