"""The Triton model ``postprocessing``. ``model_repo`` loads it."""

from __future__ import annotations

from pathlib import Path

from wanspec.triton.parameters import Parameters
from wanspec.triton.text_model import TextModel
from wanspec.triton.text_tensors import Postprocessor


class TritonPythonModel(TextModel):
    """What Triton's python backend loads."""

    def make(self, parameters: Parameters) -> Postprocessor:
        """Parameters: ``tokenizer_dir``."""
        return Postprocessor(Path(parameters.text("tokenizer_dir")))
