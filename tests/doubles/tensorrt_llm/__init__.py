"""Stands for TensorRT-LLM 1.2.1 in tests: its executor's bindings, with our PyTorch engine inside.

Signatures are those of TensorRT-LLM's nanobind sources (cpp/tensorrt_llm/nanobind/executor at 008b2b8d and 1dd50d07).
"""

__version__ = "1.2.1"
