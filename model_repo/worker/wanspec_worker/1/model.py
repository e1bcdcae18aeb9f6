"""The draft worker; its code is in the package."""

from wanspec.triton.worker_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
