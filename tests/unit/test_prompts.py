"""The prompts that the commands ask."""

from __future__ import annotations

from collections import Counter

import pytest

from wanspec.models import PAIRS, resolve
from wanspec.prompts import CATEGORIES, DEMO, RECORDED, bench_prompts
from wanspec.triton.text import TextCodec


def test_ten_of_each_category_and_no_text_twice():
    prompts = bench_prompts()
    assert Counter(prompt.category for prompt in prompts) == dict.fromkeys(CATEGORIES, 10)
    assert len({prompt.text(chat) for prompt in prompts for chat in (True, False)}) == 160


def test_few_are_of_all_kinds():
    assert [prompt.category for prompt in bench_prompts(8)] == list(CATEGORIES)
    assert bench_prompts(9)[:8] == bench_prompts(8)
    with pytest.raises(ValueError, match="there are 80"):
        bench_prompts(81)


def test_they_are_short_for_the_smallest_context():
    codec = TextCodec(resolve("small-target"))
    lengths = [len(codec.encode(prompt.start, chat=False)) for prompt in bench_prompts()]
    assert min(lengths) >= 5
    assert max(lengths) <= 40
    assert all(prompt.start[-1] not in " .?!" for prompt in bench_prompts())  # something is left to say


def test_those_of_the_other_commands():
    assert set(DEMO) == set(PAIRS)
    assert len(RECORDED) == 24
