"""Token sources: the laws they state, and that scalar and batched forms are the same source."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from wanspec.core.drafting import SequenceLeaves
from wanspec.simulation.laws import REFERENCE, make_table, mixture_of
from wanspec.simulation.sources import reference


def contexts(count, seed=0):
    choose = random.Random(seed)
    return [[choose.randrange(50_000) for _ in range(choose.randint(1, 5))] for _ in range(count)]


def test_the_reference_source_follows_its_law():
    pair, seen = reference(3), Counter()
    for tokens in contexts(20_000):
        children = [token for token, _ in pair.draft(tokens, 4)]
        truth = pair.target(tokens)
        seen[children.index(truth) if truth in children else None] += 1
    first = 0.6 * 30 / 31 + 0.4 * 0.5
    for rank, share in enumerate((first, *(part * (1 - first) for part in (0.5, 0.2, 0.1)))):
        assert seen[rank] / 20_000 == pytest.approx(share, abs=0.01)


def test_the_reference_draft_is_calibrated():
    pair = reference(5)
    stated, right = [], []
    for tokens in contexts(20_000, seed=1):
        token, log_prob = pair.draft(tokens, 1)[0]
        stated.append(np.exp(log_prob))
        right.append(token == pair.target(tokens))
    bins = np.digitize(stated, [0.2, 0.4, 0.6, 0.8, 0.95])
    for each in range(6):
        assert np.mean(np.array(right)[bins == each]) == pytest.approx(
            np.mean(np.array(stated)[bins == each]), abs=0.04
        )


@pytest.mark.parametrize("match", [0.2, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_a_match_rate_is_met_whatever_the_draft_says(match, sharpness):
    table = make_table(mixture_of(match), sharpness)
    assert table.match_rate == pytest.approx(match, abs=0.005)
    stated = np.exp(table.log_probs[:, 0])
    sure = table.truth[:, 0] > 0.5
    over, under = stated[sure] > table.truth[sure, 0] + 1e-6, stated[sure] < table.truth[sure, 0] - 1e-6
    assert over.mean() > 0.9 if sharpness > 1 else not over.any()
    assert under.mean() > 0.9 if sharpness < 1 else not under.any()


def test_the_mixture_of_the_reference_rate_is_the_reference():
    assert mixture_of(0.6 * 30 / 31 + 0.4 * 0.5)[0].share == pytest.approx(REFERENCE[0].share)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_pass_gives_what_single_calls_give(count):
    pair, prefix = reference(7), [5, 6, 7, 8]
    leaves = tuple(tuple(path[: number % 4]) for number, path in enumerate(contexts(count, seed=2)))
    both = [SequenceLeaves("a", prefix, 3, leaves), SequenceLeaves("b", [9], 1, leaves)]
    expansion = pair.expand(both, 4, 7.5)
    rows = iter(zip(expansion.tokens.tolist(), expansion.log_probs.tolist(), strict=True))
    for start in ([5, 6, 7], [9]):
        for leaf in leaves:
            tokens, log_probs = next(rows)
            assert list(zip(tokens, log_probs, strict=True)) == pair.draft([*start, *leaf], 4)
    assert next(rows, None) is None


def test_the_target_is_a_function_of_its_prefix_and_seed():
    tokens = contexts(200)
    first, again, other = ([reference(seed).target(each) for each in tokens] for seed in (1, 1, 2))
    assert first == again
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 5
