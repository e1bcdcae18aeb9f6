"""Named step times of target and draft, each with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from wanspec.errors import ConfigError
from wanspec.simulation.world import Costs


@dataclass(frozen=True, slots=True)
class Timing:
    """Step times with their source."""

    costs: Costs
    source: str


TIMINGS = {
    "paper-cloud": Timing(
        Costs(target_ms=23.4, draft_ms=7.5, pass_ms=7.5),
        "arXiv 2602.18931, section 5.4: Llama-3.1-8B and Llama-3.2-1B on one L40S each, vLLM",
    ),
    "70b-8gpu": Timing(
        Costs(target_ms=10.0, draft_ms=2.0, pass_ms=2.0),
        "chosen so that four drafts made while the target runs, 80% of them matching, give 336 tokens/s: SwiftSpec "
        "reports 348 for Llama-3-70B on 8 Hopper GPUs, and no step times",
    ),
}


def timing(name: str) -> Timing:
    """Look a profile up, or read ``target/draft`` or ``target/draft/pass`` in ms.

    Raises:
        ConfigError: it is neither.
    """
    if name in TIMINGS:
        return TIMINGS[name]
    try:
        target, draft, *rest = (float(part) for part in name.split("/"))
        (worker,) = rest or [draft]
    except ValueError:
        known = ", ".join(TIMINGS)
        raise ConfigError("timing", f"{name!r} is neither one of {known} nor ms such as 23.4/7.5") from None
    if min(target, draft, worker) <= 0.0:
        raise ConfigError("timing", f"{name!r}: step times are above 0 ms")
    return Timing(Costs(target_ms=target, draft_ms=draft, pass_ms=worker), "as given")
