"""Token sources by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from wanspec.errors import ConfigError
from wanspec.simulation.dependent import COUPLED_ERROR, CoupledPair, markov
from wanspec.simulation.laws import REFERENCE, make_table, mixture_of
from wanspec.simulation.models import Pair
from wanspec.simulation.setup import Setup
from wanspec.simulation.sources import TablePair
from wanspec.simulation.traces import TracePair, read_trace

NAMES = "reference, iid:RATE, markov, markov:FIRST:GIVEN, coupled, coupled:ERROR, trace:FILE"


def make_source(name: str, seed: int, sharpness: float = 1.0) -> Pair:
    """Make a source.

    Args:
        name: one of :data:`NAMES`; numbers are match rates from 0 to 1.
        seed: another seed, another text.
        sharpness: above 1 the draft is over-confident, below 1 under-confident.

    Raises:
        ConfigError: there is no such source, or a number is out of its range.
    """
    if name.startswith("trace:"):
        return read_trace(Path(name.removeprefix("trace:")))
    kind, *rest = name.split(":")
    try:
        given = [float(part) for part in rest]
    except ValueError:
        raise ConfigError("source", f"{name!r}: {':'.join(rest)!r} is not numbers; there are {NAMES}") from None
    if any(not 0.0 < value < 1.0 for value in given) and kind != "coupled":
        raise ConfigError("source", f"{name!r}: match rates lie between 0 and 1")
    if kind == "reference" and not given:
        return TablePair(make_table(REFERENCE, sharpness), seed)
    if kind == "iid" and len(given) == 1:
        return TablePair(make_table(mixture_of(given[0]), sharpness), seed)
    if kind == "markov" and len(given) in (0, 2):
        first, after_match = given or (0.80, 0.83)
        return markov(first, after_match, seed, sharpness)
    if kind == "coupled" and len(given) <= 1 and min(given, default=1.0) >= 0.0:
        return CoupledPair(seed, given[0] if given else COUPLED_ERROR)
    raise ConfigError("source", f"{name!r} is unknown; there are {NAMES}")


def source_setup(name: str, seed: int, sharpness: float = 1.0, **given: Any) -> Setup:
    """Make a setup with a source: a trace's own prompts, no more requests and tokens than it holds; T = 1 if coupled.

    Args:
        name, seed, sharpness: as in :func:`make_source`.
        given: the setup's other attributes.

    Raises:
        ConfigError: as :func:`make_source`.
    """
    pair = make_source(name, seed, sharpness)
    setup = Setup(pair, temperature=1.0 if name.startswith("coupled") else 0.0, seed=seed, **given)
    if isinstance(pair, TracePair):
        requests, tokens = min(setup.requests, len(pair.texts)), min(setup.tokens, pair.length)
        return replace(setup, prompts=pair.prompts, requests=requests, tokens=tokens)
    return setup


def read_lines(path: Path) -> list[str]:
    """Read a text file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error
