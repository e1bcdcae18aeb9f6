"""The endpoint; its code is in the package."""

from wanspec.triton.wanspec_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
