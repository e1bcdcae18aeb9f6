"""The law of what real servers sample, and that the test of it has the power to see 2% of wrong draws.

Seeds are fixed, so the outcome is: of a right sampler, a p-value as large as that of any fixed set of draws.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tests.integration.prompts import PROMPTS
from tests.integration.quick import QuickServer
from tests.integration.test_sampling import Law, first_tokens
from wanspec.conformance.statistics import chi_square, chi_square_tail
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment
from wanspec.triton.regions import RegionSettings, controller_repository
from wanspec.triton.repository import ModelRepository

PROMPT = PROMPTS[3]
SETTING = {"temperature": 0.7, "top_k": 40, "top_p": 0.9}
OTHER = {"temperature": 1.0, "top_k": 12, "top_p": 0.9}
DRAWS = 1_500
"""With SETTING the filter leaves 18 tokens, the rarest with p 0.0078: 2% more of it give chi-square a mean of 93 and a
standard deviation of 18, with 17 degrees of freedom. At 63, p is 4e-7."""
RIGHT, WRONG = 1e-4, 1e-6


@pytest.fixture(scope="module")
def biased(small_regions: RegionSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WanspecClient]:
    """The endpoint over a target whose sampler is biased."""
    folder = tmp_path_factory.mktemp("biased")
    repository = controller_repository(small_regions, "")
    shutil.copytree(repository.source, folder / "templates")
    shutil.copy(Path(__file__).with_name("biased_model.py"), folder / "templates" / "target" / "1" / "model.py")
    values = {model: repository.values[model] for model in ("target", "wanspec")}
    alone = ModelRepository(folder / "templates", values | {"wanspec": {**values["wanspec"], "draft_model": ""}})
    with QuickServer(alone, name="biased", stages=(("target",), ("wanspec",)), log_dir=folder) as server:
        server.wait_ready(90)
        yield WanspecClient(server.grpc_endpoint, timeout_s=60.0)


@pytest.fixture(scope="module")
def ids(small_regions: RegionSettings) -> list[int]:
    return Tokenizer.from_file(str(small_regions.target_dir / "tokenizer.json")).encode(PROMPT).ids


@pytest.fixture(scope="module")
def law(small: Deployment) -> Law:
    return Law(small)


def drawn(client: WanspecClient, ids: list[int], setting: dict[str, Any]) -> NDArray[np.int64]:
    """How often the endpoint draws each token after a prompt."""
    tokens = first_tokens(client, ids, DRAWS, 1, policy="target_only", **setting)
    return np.bincount([first for (first,) in tokens], minlength=4096)


def tail(counts: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    """The p-value of counts under a law; 0 where a token was drawn that the law forbids."""
    if counts[law == 0].sum():
        return 0.0
    kept = np.flatnonzero(law)
    return chi_square_tail(*chi_square(counts[kept].tolist(), (law[kept] * counts.sum()).tolist()))


@pytest.mark.parametrize("setting", [SETTING, OTHER])
def test_target_only_draws_from_the_models_own_filtered_softmax(
    client: WanspecClient, law: Law, ids: list[int], setting: dict[str, Any]
) -> None:
    counts = drawn(client, ids, setting)
    assert tail(counts, law(ids, **setting)) > RIGHT
    warmer = setting | {"temperature": setting["temperature"] + 0.3}
    assert tail(counts, law(ids, **warmer)) < WRONG, "the test sees another temperature"


def test_a_planted_bias_of_two_percent_is_seen(biased: WanspecClient, law: Law, ids: list[int]) -> None:
    assert tail(drawn(biased, ids, SETTING), law(ids, **SETTING)) < WRONG
