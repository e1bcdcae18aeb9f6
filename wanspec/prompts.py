"""Every prompt that the commands ask, all written for this project. Nothing was tuned on them.

``data/prompts.jsonl`` holds those of ``wanspec bench``: ten for each of MT-Bench's eight categories. Each has two
texts: a question for models that chat, and the beginning of a text for models that only continue one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
_FILE = Path(__file__).parent / "data" / "prompts.jsonl"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of the benchmark.

    Attributes:
        category: one of ``CATEGORIES``.
        chat: what a model with a chat template is asked.
        start: what any other model continues.
    """

    category: str
    chat: str
    start: str

    def text(self, chat: bool) -> str:
        """The one that suits the model."""
        return self.chat if chat else self.start


def bench_prompts(count: int | None = None) -> list[Prompt]:
    """Return prompts of the benchmark, a category after the other and over again, so that few are of all kinds.

    Raises:
        ValueError: there are not so many.
    """
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    found = [Prompt(**json.loads(line)) for line in lines]
    by_category = [[prompt for prompt in found if prompt.category == name] for name in CATEGORIES]
    mixed = list(chain.from_iterable(zip(*by_category, strict=True)))
    if count is not None and not 1 <= count <= len(mixed):
        raise ValueError(f"{count} prompts: there are {len(mixed)}")
    return mixed[:count]


DEMO: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "smollm2": (
            "Write a short email to my landlord: the kitchen tap is leaking.",
            "What is the capital of France, and what is it famous for?",
        ),
        "small": ("The history of the city begins with", "In the morning the children went to"),
    }
)
"""Of ``wanspec demo``, by pair."""

RECORDED = (
    "Explain how a bicycle stays upright.",
    "Write a short letter asking a neighbour to water the plants.",
    "What causes the tides?",
    "Describe the taste of a ripe pear to someone who has never eaten one.",
    "Give three reasons to learn a second language.",
    "How does a refrigerator keep food cold?",
    "Tell a story about a lighthouse keeper and a storm.",
    "What is the difference between weather and climate?",
    "List the steps to change a flat tyre.",
    "Why do leaves change colour in autumn?",
    "Summarise what a court of appeal does.",
    "Write a function that counts the vowels in a string.",
    "How do vaccines work?",
    "Describe a busy market on a Saturday morning.",
    "What should be packed for a week of hiking?",
    "Explain compound interest to a child.",
    "Who repairs roads, and how is it paid for?",
    "Write a dialogue between a cat and a goldfish.",
    "How is paper made from wood?",
    "What makes a good teacher?",
    "Explain why the sky is dark at night.",
    "Compare trains and aeroplanes for a journey of 500 km.",
    "How does a search engine find pages?",
    "Describe the first day at a new job.",
)
"""Of ``wanspec record`` and ``wanspec advise``."""
