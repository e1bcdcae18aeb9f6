"""``wanspec advise``: whether to use a worker, from one's own numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import median
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.endpoint import endpoint_options, endpoint_parameters
from wanspec.cli.render import make_console
from wanspec.cli.simulation_options import contenders, make_setup, progress, simulation_options
from wanspec.cli.tables import table
from wanspec.core.policies import POLICIES
from wanspec.errors import ServerError
from wanspec.network.tls import Tls
from wanspec.prompts import RECORDED
from wanspec.simulation.advice import Advice, advise, requests_of
from wanspec.simulation.experiment import processors
from wanspec.simulation.setup import Contender
from wanspec.triton.client import WanspecClient

_ASKED = 6
_PRICES = (0.0, 0.3, 1.0)
"""Of a local draft pass, in tokens: lambda of the policy ``adaptive``."""


@dataclass(frozen=True, slots=True)
class Live:
    """What an endpoint's own answers say. Times in ms."""

    rtt_ms: float
    target_ms: float
    draft_ms: float
    match_rate: float


@click.command("advise", cls=JsonErrors)
@click.option("--rtt", "rtt_ms", default=30.0, show_default=True, type=click.FloatRange(0.0), help="Round trip in ms.")
@click.option("--acceptance", type=click.FloatRange(0.02, 0.99), help="How often the draft's first choice is right.")
@click.option("--policy", help="Policies to try, as for simulate; if not given, those that are sensible.")
@endpoint_options(None, "An endpoint to ask for all of these instead: HOST:PORT of gRPC.")
@simulation_options
@JSON_OPTION
def advise_command(
    rtt_ms: float,
    acceptance: float | None,
    policy: str | None,
    url: str | None,
    tls: Tls | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say whether a worker pays, which policy, and what to expect, by simulating the given numbers.

    \b
    Examples:
      wanspec advise --rtt 25 --timing 23.4/7.5 --acceptance 0.75
      wanspec advise --rtt 40 --source trace:small.trace.gz
      wanspec advise --url 127.0.0.1:8001
    """
    if acceptance is not None:
        options["source"] = f"iid:{acceptance}"
    if url is not None:
        live = _ask(url, tls)
        rtt_ms, options["source"] = live.rtt_ms, f"iid:{live.match_rate:.3f}"
        options["timing"] = f"{live.target_ms:g}/{live.draft_ms:g}"
    setup = make_setup(options, rtt_ms)
    tried = contenders(policy) if policy else _sensible()
    with progress(requests_of(setup, len(tried))) as tell:
        found = advise(setup, tried, processes=options["processes"] or processors(), progress=tell)
    given = {"rtt_ms": rtt_ms, "timing": options["timing"], "source": options["source"], "leaves": options["leaves"]}
    if as_json:
        click.echo(json.dumps(_plain(found, given)))
    else:
        make_console().print(_view(found, given))


def _sensible() -> list[Contender]:
    found = [Contender("wanspec"), Contender("wanspec", {"phi": 1.5}, "wanspec:phi=1.5")]
    if "adaptive" in POLICIES:
        found += [Contender("adaptive"), *(_priced(price) for price in _PRICES)]
    return found


def _priced(price: float) -> Contender:
    return Contender("adaptive", {"price": price, "slack": 100.0}, f"adaptive:price={price:g}:slack=100")


def _ask(url: str, tls: Tls | None) -> Live:
    """Measure an endpoint by a few requests with the policy ``wanspec``.

    Raises:
        ServerError: it does not answer, or its answers lack what is needed.
    """
    client = WanspecClient(url, tls=tls)
    endpoint_parameters(client, url)
    summaries = []
    with progress(_ASKED, "asking the endpoint", "answers") as tell:
        for prompt in RECORDED[:_ASKED]:
            summaries.append(client.ask(prompt, max_tokens=64, policy="wanspec").result().summary)
            tell(1)
    rtts = [s["rtt_ms"] for s in summaries if s.get("rtt_ms")]
    passes = sum(s["local_draft_passes"] for s in summaries)
    drafted = sum(s["drafted_remote"] + s["drafted_local"] for s in summaries)
    if not rtts or not passes or not drafted:
        raise ServerError(f"{url}: its answers tell no RTT, draft step or acceptance: is a worker connected?")
    return Live(
        round(median(rtts), 1),
        round(median(s["target_ms"] / s["rounds"] for s in summaries), 2),
        round(sum(s["local_draft_ms"] for s in summaries) / passes, 2),
        min(0.98, _rate(sum(s["accepted_remote"] + s["accepted_local"] for s in summaries) / drafted)),
    )


def _rate(accepted: float) -> float:
    """The chance of one draft whose pairs are accepted at a share ``accepted``: (p + p^2) / 2 = accepted."""
    return max(0.02, (sqrt(1.0 + 8.0 * accepted) - 1.0) / 2.0)


def _plain(found: Advice, given: dict[str, Any]) -> dict[str, Any]:
    return {
        **given,
        "enable": found.enable,
        "policy": found.best.contender.policy,
        "parameters": dict(found.best.contender.parameters),
        "verdict": found.words(given["rtt_ms"]),
        "stops_paying_ms": found.stops_paying_ms,
        "local_best_k": found.best_k,
        "choices": [
            {
                "policy": choice.contender.name,
                **asdict(choice.found),
                "capacity": round(choice.capacity, 4),
                "bytes_up_a_token": round(choice.bytes_up, 1),
                "bytes_down_a_token": round(choice.bytes_down, 1),
            }
            for choice in found.choices
        ],
    }


def _view(found: Advice, given: dict[str, Any]) -> Group:
    view = table("policy!", "latency#", "passes saved#", "scarce GPU#", "capacity#", "WAN bytes a token#")
    for choice in found.choices:
        view.add_row(
            choice.contender.name,
            f"{choice.found.latency_ratio.value:.3f}",
            f"{choice.found.draft_passes_saved.value:.0%}",
            f"{choice.found.scarce_gpu_ratio.value:.3f}",
            f"{choice.capacity:.2f}x",
            f"{choice.bytes_up + choice.bytes_down:.0f}",
        )
    key = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())
    return Group(
        Text(found.words(given["rtt_ms"]), style="bold"), view, Text(f"Simulated: {key}. Against local, k = 2.", "dim")
    )
