"""Does a server keep the contract of TensorRT-LLM's ``inflight_batcher_llm`` model? Rules, each checked by requests.

Knows nothing of the engine behind the server: PyTorch or TensorRT-LLM, any model. What a right answer is comes from the
server itself (plain greedy generation, its own logits). docs/conformance.md.
"""

from wanspec.conformance.connect import connect
from wanspec.conformance.report import Report
from wanspec.conformance.rules import RULES
from wanspec.conformance.run import Outcome, Progress, run, select
from wanspec.conformance.server import ModelInfo, Server
from wanspec.conformance.subject import Options, Subject

__all__ = [
    "RULES",
    "ModelInfo",
    "Options",
    "Outcome",
    "Progress",
    "Report",
    "Server",
    "Subject",
    "connect",
    "run",
    "select",
]
