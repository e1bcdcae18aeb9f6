"""``wanspec doctor``: is everything there, and what to do about what is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

import click
from rich.text import Text

from wanspec.cli.checks import FAIL, OK, WARN, Finding, run_checks
from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.progress import Display
from wanspec.cli.render import make_console
from wanspec.cli.tables import table

STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


@click.command(
    cls=JsonErrors,
    done="all that is needed is there",
    failed="something is missing that `wanspec demo` needs; the arrows say what to do",
)
@click.option("--online", is_flag=True, help="Also ask whether a model hub can be reached.")
@JSON_OPTION
def doctor(online: bool, as_json: bool) -> None:
    """Check this machine: Python, packages, Triton, memory, ports, cache, models, GPU.

    \b
    Examples:
      wanspec doctor
      wanspec doctor --json
    """
    with Display() as display:
        display.show("checks", "checking this machine" + (" and the model hub" if online else ""))
        findings = run_checks(online=online)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=2))
    else:
        _show(findings)
    if any(each.state == FAIL for each in findings):
        sys.exit(ExitCode.FAILED)


def _show(findings: Iterable[Finding]) -> None:
    findings = list(findings)
    view = table("", "check", "found")
    for each in findings:
        found = Text(each.found)
        if each.cure:
            found.append(f"\n-> {each.cure}", style=STYLES[each.state])
        view.add_row(Text(each.state, STYLES[each.state]), Text(each.check), found)
    console = make_console()
    console.print(view)
    failed = sum(each.state == FAIL for each in findings)
    console.print(
        f"{failed} of {len(findings)} checks failed: do what the arrows say."
        if failed
        else "All that is needed is there.",
        style="bold",
    )
