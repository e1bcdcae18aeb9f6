"""The Triton model ``preprocessing``. ``model_repo`` loads it."""

from __future__ import annotations

from pathlib import Path

from wanspec.triton.parameters import Parameters
from wanspec.triton.text_model import TextModel
from wanspec.triton.text_tensors import Preprocessor


class TritonPythonModel(TextModel):
    """What Triton's python backend loads."""

    def make(self, parameters: Parameters) -> Preprocessor:
        """Parameters: ``tokenizer_dir``, ``vocab_size`` (columns of the model's logits)."""
        folder = Path(parameters.text("tokenizer_dir"))
        return Preprocessor(folder, parameters.whole("vocab_size", minimum=1))
