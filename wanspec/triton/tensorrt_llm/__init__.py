"""All that the controller knows of TensorRT-LLM's tensors: the model ``inflight_batcher_llm``, over BLS.

Which of our engines, or TensorRT-LLM's, answers makes no difference here. ``docs/engines.md`` has the tensors.
"""

from wanspec.triton.tensorrt_llm.calls import EngineAnswer

__all__ = ["EngineAnswer"]
