"""The `preprocessing` of NVIDIA's example clients."""

from wanspec.triton.preprocessing_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
