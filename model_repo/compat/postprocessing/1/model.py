"""The `postprocessing` of NVIDIA's example clients."""

from wanspec.triton.postprocessing_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
