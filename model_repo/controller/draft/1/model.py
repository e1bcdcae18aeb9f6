"""The draft, by TensorRT-LLM's tensors."""

from wanspec.triton.engine_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
