"""Checks answers against the target's own by the rule of ``wanspec.exactness``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wanspec.cli.explain import explain
from wanspec.exactness import Exactness, compare, margin
from wanspec.triton.client import WanspecClient


class Reference:
    """The target's own answer to one prompt.

    Outputs that agree cost nothing to check. For one that does not, the prompt's token ids come from an event log, and
    the target's logits from a forward by transformers: only then is PyTorch loaded.
    """

    def __init__(self, client: WanspecClient, target_dir: Path, prompt: str, chat: bool, tokens: Sequence[int]) -> None:
        """``tokens``: the output of policy ``target_only``."""
        self._client = client
        self._target_dir = target_dir
        self._prompt, self._chat = prompt, chat
        self.tokens = list(tokens)
        self._ids: tuple[int, ...] | None = None

    def check(self, tokens: Sequence[int], policy: str, parameters: Mapping[str, Any]) -> Exactness:
        """Compare an output of ``policy`` with the target's own."""

        def resume(start: int) -> list[int]:
            prefix = [*self._prompt_ids(), *self.tokens[:start]]
            left = len(self.tokens) - start
            return (
                self._client.ask(prefix, max_tokens=left, policy=policy, policy_parameters=parameters).result().tokens
            )

        return compare(self.tokens, tokens, self._margin_at, resume)

    def _prompt_ids(self) -> tuple[int, ...]:
        if self._ids is None:
            pending = self._client.ask(
                self._prompt, chat=self._chat, max_tokens=1, policy="target_only", event_log=True
            )
            self._ids = explain(pending.result()).prompt
        return self._ids

    def _margin_at(self, position: int, token: int) -> float:
        logits = next_logits(self._target_dir)([*self._prompt_ids(), *self.tokens[:position]])
        return margin(logits, token)


def next_logits(folder: Path) -> Callable[[Sequence[int]], Any]:
    """Return a function from token ids to the model's next logits [vocab] in float32, by a plain forward."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)

    def forward(ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            return model(torch.tensor([list(ids)])).logits[0, -1].float().numpy()

    return forward
