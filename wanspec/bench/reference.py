"""Checks answers against the target's own by the rule of ``wanspec.exactness``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from wanspec.errors import ModelError
from wanspec.exactness import Exactness, compare, margin


class Asker(Protocol):
    """Whoever knows the endpoint (:class:`wanspec.bench.session.Session`)."""

    @property
    def target_dir(self) -> Path:
        """The target's folder."""

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """A prompt's token ids, as the endpoint makes them."""


class Reference:
    """The target's own answer to one prompt.

    Outputs that agree cost nothing to check. For one that does not, the prompt's token ids come from the endpoint, and
    the target's logits from a forward by transformers: only then is PyTorch loaded.
    """

    def __init__(self, asker: Asker, prompt: str, tokens: Sequence[int]) -> None:
        """``tokens``: the output of policy ``target_only``."""
        self._asker = asker
        self._prompt = prompt
        self.tokens = list(tokens)

    def check(self, tokens: Sequence[int], generate: Callable[[Sequence[int], int], Sequence[int]]) -> Exactness:
        """Compare an output with the target's own.

        Args:
            tokens: the output.
            generate: gives so many tokens after token ids, by the means that gave ``tokens``.

        Raises:
            ModelError: the outputs differ and the target's folder is not on this machine.
        """

        def resume(start: int) -> Sequence[int]:
            prefix = [*self._asker.prompt_ids(self._prompt), *self.tokens[:start]]
            return generate(prefix, len(self.tokens) - start)

        return compare(self.tokens, tokens, self._margin_at, resume)

    def _margin_at(self, position: int, token: int) -> float:
        ids = self._asker.prompt_ids(self._prompt)
        return margin(next_logits(self._asker.target_dir)([*ids, *self.tokens[:position]]), token)


def next_logits(folder: Path) -> Callable[[Sequence[int]], Any]:
    """Return a function from token ids to the model's next logits [vocab] in float32, by a plain forward.

    Raises:
        ModelError: the folder is not on this machine.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the target's folder {folder} is not on this machine, so that a difference of outputs cannot be judged"
        )
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)

    def forward(ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            return model(torch.tensor([list(ids)])).logits[0, -1].float().numpy()

    return forward
