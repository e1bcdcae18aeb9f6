"""Conversations that grow inside one row of the decoder: given text, invented questions, answers to learn from."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from training.smollm2.prompts import follow_up, template_prompt

SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
"""What the target's chat template puts first."""

_USER, _ASSISTANT, _END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the conversation: ``given`` tokens, or up to ``limit`` tokens that the target writes.

    ``temperature`` 0 is greedy. ``learn``: the draft is trained on this stretch.
    """

    given: tuple[int, ...] = ()
    limit: int = 0
    temperature: float = 0.0
    learn: bool = False


@dataclass(slots=True)
class Conversation:
    """The plan of one row and what came of it; ``top_ids`` and ``top_log_probs`` have an entry per learned position."""

    segments: list[Segment]
    tokens: list[int] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    top_ids: list[list[int]] = field(default_factory=list)
    top_log_probs: list[list[float]] = field(default_factory=list)


class Planner:
    """Draws plans: half of the first questions from templates, half invented by the target; a third have two turns."""

    def __init__(self, tokenizer: Tokenizer, seed: int, answer_limit: int) -> None:
        self._tokenizer, self._random, self._answer_limit = tokenizer, random.Random(seed), answer_limit
        self.system = self._ids(SYSTEM)
        (self.end,) = self._ids(_END)

    def plan(self) -> Conversation:
        """Return a new conversation that starts after the system turn."""
        temperature = 0.0 if self._random.random() < 0.6 else self._random.choice((0.6, 0.8, 1.0))
        answer = Segment(limit=self._answer_limit, temperature=temperature, learn=True)
        reply = Segment(given=self._ids(f"\n{_ASSISTANT}"))
        if self._random.random() < 0.5:
            question = [Segment(given=self._ids(_USER)), Segment(limit=80, temperature=1.0), reply]
        else:
            text = f"{_USER}{template_prompt(self._random)}{_END}\n{_ASSISTANT}"
            question = [Segment(given=self._ids(text))]
        segments = [*question, answer]
        if self._random.random() < 0.33:
            next_turn = f"\n{_USER}{follow_up(self._random)}{_END}\n{_ASSISTANT}"
            segments += [Segment(given=self._ids(next_turn)), answer]
        return Conversation(segments)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
