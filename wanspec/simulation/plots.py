"""Figures as pictures: PNG files, and one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from wanspec.errors import ConfigError
from wanspec.simulation.figures import Figure, Panel, Table, agreements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#7b4ea3", "#8c6d1f", "#444444", "#17a2a2", "#e07b39")
_COLUMNS = 2
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
svg{width:100%;height:auto}table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left}.differs,.warning{color:#b00020}
.wide{overflow-x:auto;font-size:.85rem}.wide td,.wide th{white-space:nowrap}"""


def save_png(figure: Figure, path: Path) -> None:
    """Draw a figure into a PNG file.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    _draw(figure).savefig(path, dpi=150)


def save_reproduction(figures: Sequence[Figure], path: Path) -> None:
    """Write figures, with what the paper states or what was aimed at beside ours, as one page.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    save_html(
        figures,
        path,
        "Figures from the simulator",
        "<p>Lines: ours, with 90% intervals. Squares: what the paper's text states (arXiv 2602.18931), or what was "
        "aimed at, at the curve of the same colour.</p>",
    )


def save_html(figures: Sequence[Figure], path: Path, title: str, opening: str) -> None:
    """Write figures as one page that needs nothing beside it. ``opening``: HTML that comes before them.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    body = "".join(_section(figure) for figure in figures)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{opening}{body}</html>\n",
        encoding="utf-8",
    )


def require_matplotlib() -> None:
    """Find out before the work whether its figures can be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("plots", 'matplotlib is missing: pip install "wanspec[plots]"')


def _section(figure: Figure) -> str:
    tables = "".join(_table(table) for table in figure.tables)
    return (
        f"<h2>{figure.name}: {escape(figure.title)}</h2><p>{escape(figure.conditions)}</p>{_svg(figure)}"
        f"{_statements(figure)}{tables}"
    )


def _statements(figure: Figure) -> str:
    measure, rows = figure.yardstick, []
    for each in agreements(figure):
        word = measure.yes if each.agrees else measure.no
        rows.append(
            f"<tr><td>{escape(each.stated.words)}<td>{escape(each.stated.curve)}<td>{each.stated.x:g}"
            f"<td>{_span(each.stated.low, each.stated.high)}<td>{each.ours.value:.2f}"
            f"<td class={'agrees' if each.agrees else 'differs'}>{word}"
        )
    if not rows:
        return ""
    return f"<table><tr><th>{measure.says}<th>curve<th>at<th>stated<th>ours<th></tr>{''.join(rows)}</table>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in table.rows)
    return f"<h3>{escape(table.title)}</h3><div class=wide><table><tr>{head}</tr>{rows}</table></div>"


def _span(low: float, high: float) -> str:
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def _svg(figure: Figure) -> str:
    buffer = BytesIO()
    _draw(figure).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode("utf-8")
    return text[text.index("<svg") :]


def _draw(figure: Figure) -> Canvas:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = min(_COLUMNS, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    canvas = Canvas(figsize=(6.2 * columns, 4.6 * rows), layout="constrained")
    FigureCanvasAgg(canvas)
    for place, panel in enumerate(figure.panels):
        _panel(canvas.add_subplot(rows, columns, place + 1), panel, figure)
    if figure.names:
        drawn = {line.get_label(): line for axes in canvas.axes for line in axes.get_legend_handles_labels()[0]}
        lines = [drawn[name] for name in figure.names if name in drawn]
        canvas.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=8, frameon=False)
    return canvas


def _panel(axes: Axes, panel: Panel, figure: Figure) -> None:
    colours = {curve.name: COLOURS[figure.colour(curve.name) % len(COLOURS)] for curve in panel.curves}
    for curve in panel.curves:
        colour = colours[curve.name]
        places = [point.x for point in curve.points]
        marker, style = ("", "steps-post") if panel.steps else ("o" if len(places) <= 20 else "", "default")
        values = [p.y.value for p in curve.points]
        axes.plot(places, values, marker=marker, ms=4, color=colour, label=curve.name, drawstyle=style)
        lows, highs = [p.y.low for p in curve.points], [p.y.high for p in curve.points]
        axes.fill_between(places, lows, highs, color=colour, alpha=0.15, linewidth=0)
    told: set[str] = set()
    for stated in panel.stated:
        label = "" if stated.curve in told else f"{figure.yardstick.legend} {stated.curve}"
        told.add(stated.curve)
        low, high = max(stated.low, min(stated.high, _lowest(panel))), stated.high
        middle = (low + high) / 2
        axes.errorbar(
            [stated.x], [middle], yerr=[[middle - low], [high - middle]], fmt="s", ms=9, mew=2, capsize=5,
            mfc="none", color=colours[stated.curve], label=label,
        )  # fmt: skip
    if panel.level is not None:
        axes.axhline(panel.level, color="#666", linewidth=0.8, linestyle=":")
    else:
        axes.set_ylim(-0.03, 1.03)
    from matplotlib.ticker import MaxNLocator

    if all(point.x == int(point.x) for curve in panel.curves for point in curve.points):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(figure.axis)
    axes.set_title(panel.quantity, fontsize=10)
    axes.grid(alpha=0.25)
    if not figure.names:
        axes.legend(fontsize=8, framealpha=0.85)


def _lowest(panel: Panel) -> float:
    return min(point.y.low for curve in panel.curves for point in curve.points)
