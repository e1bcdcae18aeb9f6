"""How a reading looks: a screen for a terminal, a line for anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wanspec.cli.readings import Figures, Reading, State
from wanspec.cli.render import STYLES
from wanspec.cli.tables import table
from wanspec.core.tree import Origin

_LEVELS = " ▁▂▃▄▅▆▇█"
_BAR = 16
_STATES = {"up": "green", "down": "bold red"}
_NONE = "–"


def line(reading: Reading) -> str:
    """A reading in a line."""
    time = f"{reading.at:%H:%M:%S}"
    if reading.problem or reading.state is None:
        return f"{time} no answer: {reading.problem}; asking again"
    state, total = reading.state, reading.total
    parts = [
        f"running {state['running']}",
        f"waiting {state['waiting']}",
        f"policy {state['policy']}",
        f"speculation {state['speculation']}",
        f"links {','.join(state['links']) or 'none'}",
        f"RTT {_ms(state['rtt_ms'])}",
    ]
    figures = reading.last or total
    if figures is not None:
        parts += [f"tokens/s {_number(figures.tokens_per_s)}"] if reading.last else []
        parts += [f"accepted remote {_percent(figures.accepted['remote'])} local {_percent(figures.accepted['local'])}"]
        parts += [f"local passes {figures.local_passes}", f"saved {figures.saved} ({_percent(figures.saved_share)})"]
    return f"{time} " + ", ".join(parts)


def screen(reading: Reading, url: str) -> RenderableType:
    """A reading as a terminal shows it."""
    state = reading.state
    head = Text.assemble((f"{url}  ", "bold"), (f"{reading.at:%H:%M:%S}  ", "dim"))
    if reading.problem:
        head.append(f"no answer; asking again: {reading.problem}", "bold red")
    if state is None:
        return head
    if not reading.problem:
        head.append_text(_switches(state))
    parts: list[RenderableType] = [head]
    if reading.total is not None:
        parts += [_figures_view(reading), *_spark(reading.rates)]
    parts += [_links_view(state), _sequences_view(state)]
    return Group(*parts)


def _switches(state: State) -> Text:
    speculation = state["speculation"]
    parameters = ", ".join(f"{name}={value}" for name, value in state["policy_parameters"].items())
    text = Text.assemble(
        "policy ", (state["policy"], "bold"), f" ({parameters})" if parameters else "", "  speculation "
    )
    text.append(speculation, "bold green" if speculation == "remote" else "bold yellow")
    limit = state["limits"]["sequences"]
    text.append(f"  {state['running']}{'' if limit is None else f' of {limit}'} running, {state['waiting']} waiting")
    return text


def _figures_view(reading: Reading) -> Table:
    last, total = reading.last, reading.total
    assert total is not None
    span = f"last {last.seconds:.0f} s#" if last is not None and last.seconds else "last#"
    view = table("", span, "in all#")
    for name, show in _ROWS:
        view.add_row(name, _NONE if last is None else show(last), show(total))
    return view


def _spark(rates: Sequence[float]) -> Iterator[Text]:
    most = max(rates, default=0.0)
    if most > 0.0:
        levels = "".join(_LEVELS[round(rate / most * (len(_LEVELS) - 1))] for rate in rates)
        yield Text.assemble(
            ("tokens/s ", "dim"), (levels, STYLES[Origin.REMOTE]), (f" {rates[-1]:.1f}, at most {most:.1f}", "dim")
        )


def _links_view(state: State) -> Table:
    view = table("link#", "state!", "RTT#", "up#", "down#", "drops#", "refused")
    for number, link in enumerate(state["link_details"]):
        style = _STATES.get(link["state"], "yellow")
        sizes = [_bytes(link[name]) for name in ("bytes_up", "bytes_down")]
        view.add_row(
            str(number),
            Text(link["state"], style),
            _ms(link["rtt_ms"]),
            *sizes,
            str(link["drops"]),
            Text(link["refusal"]),
        )
    if not state["link_details"]:
        view.add_row("", "no worker")
    return view


def _sequences_view(state: State) -> RenderableType:
    view = table("sequence#", "policy!", "tokens", "#", "rounds#", "remote#", "local#", "local passes#", "worker")
    for each in state["sequences"]:
        view.add_row(
            str(each["number"]),
            Text(each["policy"]),
            Text(_bar(each), STYLES[Origin.REMOTE]),
            f"{each['tokens']}/{each['max_tokens']}",
            str(each["rounds"]),
            _accepted(each, "remote"),
            _accepted(each, "local"),
            str(each["local_draft_passes"]),
            "waiting" if each["waiting"] else "drafts" if each["worker"] else _NONE,
        )
    more = state["running"] + state["waiting"] - len(state["sequences"])
    if not state["sequences"]:
        return Text("no request now", "dim")
    return Group(view, Text(f"and {more} more", "dim")) if more > 0 else view


def _bar(each: Mapping[str, Any]) -> str:
    done = round(_BAR * min(1.0, int(each["tokens"]) / max(1, int(each["max_tokens"]))))
    return "━" * done + "·" * (_BAR - done)


def _accepted(each: Mapping[str, Any], who: str) -> str:
    drafted = each[f"drafted_{who}"]
    return f"{each[f'accepted_{who}']}/{drafted}" if drafted else ""


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f} ms"


def _seconds(value: float | None) -> str:
    return _NONE if value is None else f"{value / 1e3:,.1f} s"


def _number(value: float | None, form: str = ",.1f") -> str:
    return _NONE if value is None else f"{value:{form}}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0%}"


def _bytes(value: int) -> str:
    return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"


_ROWS: Sequence[tuple[str, Callable[[Figures], str]]] = (
    ("tokens/s", lambda figures: _number(figures.tokens_per_s)),
    ("tokens", lambda figures: f"{figures.tokens:,}"),
    ("tokens a round", lambda figures: _number(figures.tokens / figures.rounds if figures.rounds else None, ".2f")),
    ("remote drafts accepted", lambda figures: _percent(figures.accepted["remote"])),
    ("local drafts accepted", lambda figures: _percent(figures.accepted["local"])),
    ("local draft passes", lambda figures: f"{figures.local_passes:,}"),
    ("local draft passes saved", lambda figures: f"{figures.saved:,} ({_percent(figures.saved_share)})"),
    ("scarce GPU time saved", lambda figures: _seconds(figures.saved_ms)),
    ("worker passes used", lambda figures: f"{_percent(figures.worker_used)} of {figures.worker_passes:,}"),
    ("waited for the worker", lambda figures: _seconds(figures.waited_ms)),
)
