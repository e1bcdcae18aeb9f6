from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.engines import sampling_laws as laws
from wanspec.core.sampling import (
    Filtered,
    Sampling,
    Stream,
    filtered,
    gumbel,
    perturbed_argmax,
    ranked,
    sample,
    uniform,
)
from wanspec.errors import InvalidRequestError

WORD = (1 << 64) - 1
SETTINGS = [Sampling(0.7, 0, 1.0), Sampling(1.0, 0, 0.9), Sampling(1.0, 8, 1.0), Sampling(0.7, 12, 0.9)]


def tokens_to(count: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64)


def logits_of(seed: int, vocab: int, spread: float = 2.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, spread, vocab)


def plain_uniform(seed: int, position: int, token: int, stream: int) -> float:
    """The definition at the top of wanspec/core/sampling.py, in Python's integers."""

    def mix(x: int) -> int:
        x &= WORD
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    key = mix(mix(mix(seed + golden) + position + golden) + stream + golden)
    return ((mix(key + (token + 1) * golden) >> 11) | 1) / 2**53


@given(st.integers(0, WORD), st.integers(0, 2**31), st.integers(0, 2**20), st.sampled_from(Stream))
def test_the_noise_is_the_documented_function(seed: int, position: int, token: int, stream: Stream) -> None:
    expected = plain_uniform(seed, position, token, stream)
    assert 0.0 < expected < 1.0
    assert uniform(seed, position, np.array([token]), stream)[0] == expected
    noise = gumbel(seed, position, np.array([token]), stream)[0]
    assert noise == pytest.approx(-math.log(-math.log(expected)), rel=1e-12)
    assert math.isfinite(noise)


def test_the_extreme_words_stay_inside_the_open_interval() -> None:
    for word in (0, WORD):
        assert 0.0 < ((word >> 11) | 1) / 2**53 < 1.0


def test_noise_does_not_depend_on_who_else_is_asked_about() -> None:
    whole = gumbel(7, 11, tokens_to(1001))
    for ids in (np.array([3]), np.array([1000, 5, 3]), tokens_to(1001)[::7]):
        assert (gumbel(7, 11, np.ascontiguousarray(ids)) == whole[ids]).all()


def test_neighbouring_keys_give_independent_numbers() -> None:
    base = uniform(1, 1, tokens_to(4000))
    for other in (uniform(2, 1, tokens_to(4000)), uniform(1, 2, tokens_to(4000)), uniform(1, 1, tokens_to(4000) + 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.06
    assert abs(np.corrcoef(base, uniform(1, 1, tokens_to(4000), Stream.RESIDUAL))[0, 1]) < 0.06
    assert abs(base.mean() - 0.5) < 0.02


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 2**32),
    st.integers(1, 300),
    st.floats(0.05, 5.0),
    st.integers(0, 320),
    st.floats(0.01, 1.0),
    st.sampled_from([None, 0, 1]),
)
def test_filters_equal_the_plain_way(
    seed: int, vocab: int, temperature: float, top_k: int, top_p: float, decimals: int | None
) -> None:
    """Rounded logits make ties, at the boundaries too."""
    logits = logits_of(seed, vocab)
    if decimals is not None:
        logits = logits.round(decimals)
    setting = Sampling(temperature, top_k, top_p)
    found = filtered(logits, setting)
    if setting.greedy:
        assert found.ids.tolist() == [int(logits.argmax())]
        return
    law = laws.law_of(logits, temperature, top_k, top_p)
    # At top_p * total within rounding either set is right.
    if found.ids.tolist() != np.flatnonzero(law).tolist():
        reached = np.cumsum(np.sort(np.exp((logits - logits.max()) / temperature))[::-1][: top_k or vocab])
        assert np.abs(reached - top_p * reached[-1]).min() < 1e-9 * reached[-1]
        return
    np.testing.assert_allclose(np.exp(found.log_probs), law[found.ids], rtol=1e-9)


@settings(deadline=None)
@given(st.integers(0, WORD), st.integers(0, 5000), st.sampled_from(SETTINGS), st.integers(1, 40))
def test_the_first_of_the_ranking_is_what_would_be_drawn(seed: int, position: int, setting: Sampling, top: int) -> None:
    setting = Sampling(setting.temperature, setting.top_k, setting.top_p, seed)
    logits = logits_of(seed & 0xFFFF, 40)
    children = ranked(logits, setting, position, top)
    assert children.ids[0] == sample(logits, setting, position)
    assert len(set(children.ids.tolist())) == top
    assert (np.diff(children.scores[np.isfinite(children.scores)]) <= 0).all()
    tempered = logits / setting.temperature
    tempered -= np.log(np.exp(tempered).sum())
    np.testing.assert_allclose(children.log_probs, tempered[children.ids], rtol=1e-9)
    assert children.entropy == pytest.approx(float(-(np.exp(tempered) * tempered).sum()))
    kept = set(filtered(logits, setting).ids.tolist())
    assert [token in kept for token in children.ids] == sorted((token in kept for token in children.ids), reverse=True)


def test_greedy_ranks_by_probability_and_lower_id() -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0, 2.0], dtype=np.float32)
    for setting in (Sampling(), Sampling(0.7, 1)):
        assert sample(logits, setting, 4) == 1
    children = ranked(logits, Sampling(), 4, 4)
    assert children.ids.tolist() == [1, 3, 2, 4]
    np.testing.assert_allclose(children.log_probs, children.scores)


def test_ties_go_to_the_lowest_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanspec.core.sampling.gumbel", lambda seed, position, ids, stream=0: np.zeros(len(ids)))
    assert sample(np.zeros(9), Sampling(1.0), 0) == 0
    assert perturbed_argmax(Filtered(np.array([3, 5, 7]), np.array([-1.0, -0.5, -0.5])), 0, 0) == 5


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_law_is_the_filtered_softmax(setting: Sampling) -> None:
    logits = logits_of(3, 16, 0.8)
    setting = Sampling(setting.temperature, setting.top_k, setting.top_p, 99)
    law = laws.law_of(logits, setting.temperature, setting.top_k, setting.top_p)
    drawn = [sample(logits, setting, position) for position in range(20_000)]
    assert laws.chi_square_passes(np.bincount(drawn, minlength=16), law)


def test_the_law_holds_over_seeds_at_one_position_and_a_bias_of_two_percent_is_found() -> None:
    logits = logits_of(4, 12, 0.8)
    law = laws.law_of(logits, 1.0, 0, 1.0)
    drawn = np.array([sample(logits, Sampling(1.0, seed=seed), 5) for seed in range(40_000)])
    assert laws.chi_square_passes(np.bincount(drawn, minlength=12), law)
    biased = np.random.default_rng(0).random(len(drawn)) < 0.02
    for wrong in (logits.argmin(), logits.argmax()):
        assert not laws.chi_square_passes(np.bincount(np.where(biased, wrong, drawn), minlength=12), law)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature: is -0.1"),
        ({"temperature": math.nan}, "temperature: is nan"),
        ({"top_k": -1}, "top_k: is -1"),
        ({"top_p": 0.0}, "top_p: is 0.0"),
        ({"top_p": 1.1}, "top_p: is 1.1"),
        ({"seed": -1}, "seed: is -1"),
        ({"seed": 1 << 64}, "seed: is 18446744073709551616"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Sampling(**values)  # type: ignore[arg-type]


def test_coupling_agrees_more_often_than_independent_draws() -> None:
    """Two models that differ a little draw the same token mostly, by one seed; by two seeds, much less."""
    agree = {"one": 0, "two": 0}
    for position in range(400):
        target = logits_of(position, 60)
        draft = target + np.random.default_rng(position + 10**6).normal(0, 0.3, 60)
        chosen = sample(target, Sampling(1.0, seed=1), position)
        agree["one"] += chosen == sample(draft, Sampling(1.0, seed=1), position)
        agree["two"] += chosen == sample(draft, Sampling(1.0, seed=2), position)
    assert agree["one"] > 300 > 150 > agree["two"]
