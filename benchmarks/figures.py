"""Measure every figure of the README and of docs/results.md anew, and write them there.

    python -m benchmarks.figures                    all, some 40 minutes on 2 cores
    python -m benchmarks.figures --only demo-small  one of them; may be repeated
    python -m benchmarks.figures --list             which there are, and their commands
    python -m benchmarks.figures --render           write the pages from what was measured before

What a command prints is kept in benchmarks/results, so that figures can be measured one by one. Between the lines
`<!-- figure NAME -->` and `<!-- end -->` a page is this program's. A command that fails, as one whose output is not
the target's own does, leaves everything as it was.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figure_tables import (
    BENCH,
    CAPACITY,
    DEMO,
    LOSS,
    OVERHEAD,
    OWN_COST,
    Columns,
    by_load,
    by_loss,
    demo_rows,
    markdown,
    overhead_rows,
    own_rows,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Figure:
    """One table, of what one command or several in a row print."""

    name: str
    commands: tuple[str, ...]
    columns: Columns
    rows: Callable[[Sequence[Any]], Sequence[Any]] = list


def _capacity(at_once: str) -> str:
    return f"wanspec bench --capacity {at_once} --leaves 256 --time-scale 10 --tokens 32 --ignore-end --json"


FIGURES = (
    Figure("demo-smollm2", ("wanspec demo --json",), DEMO, demo_rows),
    Figure("demo-small", ("wanspec demo --pair small --json",), DEMO, demo_rows),
    Figure("demo-unpaced", ("wanspec demo --pace-ms 0,0,0 --json",), DEMO, demo_rows),
    Figure(
        "bench-paper-cloud",
        tuple(
            f"wanspec bench --profile paper-cloud --time-scale 2 --rtt {rtt} --prompts 8 --tokens 80 --ignore-end "
            "--warm-up 2 --json"
            for rtt in (10, 15, 30, 70, 150)
        ),
        BENCH,
    ),
    Figure(
        "bytes",
        (
            "wanspec bench --profile paper-cloud --time-scale 2 --rtt 30 --prompts 4 --tokens 80 --ignore-end "
            "--policy adaptive,adaptive:width=16,wanspec:branching=1 --json",
        ),
        BENCH,
    ),
    Figure("bench-smollm2", ("wanspec bench --pair smollm2 --prompts 8 --tokens 48 --rtt 30 --json",), BENCH),
    Figure("capacity", tuple(map(_capacity, ("1,8", "16", "32"))), CAPACITY, by_load),
    Figure("round-overhead", ("python -m benchmarks.round_overhead",), OVERHEAD, overhead_rows),
    Figure("own-cost", ("python -m benchmarks.own_cost --at-once 1,16",), OWN_COST, own_rows),
    Figure("loss", ("python -m benchmarks.lost_packets --seconds 12",), LOSS, by_loss),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run."""
    names = [figure.name for figure in FIGURES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=names, default=[], help="measure this one; repeatable")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument("--render", action="store_true", help="write the pages, and measure nothing")
    options = parser.parse_args(arguments)
    chosen = [figure for figure in FIGURES if figure.name in (options.only or names)]
    if options.list:
        for figure in chosen:
            print(figure.name, *figure.commands, sep="\n  ")
        return 0
    for figure in () if options.render else chosen:
        measure(figure)
    for page in PAGES:
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def measure(figure: Figure) -> None:
    """Run a figure's commands; keep what they print."""
    printed: list[Any] = []
    for command in figure.commands:
        print(f"{figure.name}: {command}", file=sys.stderr, flush=True)
        done = subprocess.run(
            _program(command), cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False
        )
        if done.returncode:
            raise SystemExit(f"{figure.name}: exit code {done.returncode}: {done.stdout.strip()}")
        printed += read(done.stdout)
    keep(figure, printed)


def _program(command: str) -> list[str]:
    """What runs a command as it is shown, by this interpreter."""
    name, *rest = shlex.split(command)
    if name == "python":
        return [sys.executable, *rest]
    return [sys.executable, "-c", "from wanspec.cli import main; main()", *rest]


def read(text: str) -> list[Any]:
    """What a command printed: one JSON object, or one a line."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


def keep(figure: Figure, printed: Sequence[Any]) -> None:
    """Store what was printed, without what no table shows."""
    for report in printed:
        report.pop("runs", None)
    head = json.dumps({"commands": figure.commands, "date": time.strftime("%Y-%m-%d")})
    lines = ",\n".join(map(json.dumps, printed))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{figure.name}.json").write_text(f'{head[:-1]}, "printed": [\n{lines}\n]}}\n', encoding="utf-8")


def rendered(text: str) -> str:
    """A page with the tables of what was measured in their places."""
    for figure in FIGURES:
        file = RESULTS / f"{figure.name}.json"
        place = re.compile(rf"(<!-- figure {re.escape(figure.name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if file.is_file() and place.search(text):
            block = "\n".join(_block(figure, json.loads(file.read_text(encoding="utf-8"))))
            text = place.sub(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)  # type: ignore[misc]
    return text


def _block(figure: Figure, kept: dict[str, Any]) -> list[str]:
    printed = kept["printed"]
    machine = printed[0]["machine"]
    lines = [f"{kept['date']}, {machine}:", "", "```bash", *kept["commands"], "```", ""]
    lines += [*markdown(figure.rows(printed), figure.columns), ""]
    lines += [line for report in printed if "verdict" in report for line in (report["verdict"], "")]
    warnings = dict.fromkeys(warning for report in printed for warning in report.get("warnings", ()))
    lines += [line for warning in warnings for line in (f"Warning of a run: {warning}.", "")]
    return lines[:-1]


if __name__ == "__main__":
    sys.exit(main())
