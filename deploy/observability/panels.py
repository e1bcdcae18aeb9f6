"""Pieces of our Grafana dashboards, on the Grafana Foundation SDK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, tempo, text, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.tempo import SearchTableType

METRICS = models.DataSourceRef(type_val="prometheus", uid="${metrics}")
TRACES = models.DataSourceRef(type_val="tempo", uid="${traces}")
WIDE, HALF, THIRD, SMALL = 24, 12, 8, 4
"""Widths, of the grid's 24 columns."""

Query: TypeAlias = tuple[str, str]
"""A PromQL expression, and the legend of its series."""


def graph(
    title: str, unit: str, *queries: Query, width: int = THIRD, about: str = "", stacked: bool = False
) -> timeseries.Panel:
    """Values over time."""
    panel = timeseries.Panel().title(title).datasource(METRICS).unit(unit).span(width).height(8).min(0)
    panel = panel.fill_opacity(40 if stacked else 8).show_points(common_models.VisibilityMode.NEVER)
    if about:
        panel = panel.description(about)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    for number, (expression, legend) in enumerate(queries):
        panel = panel.with_target(_query(expression, legend, number))
    return panel


def figure(
    title: str, unit: str, expression: str, *, width: int = SMALL, about: str = "", bad_above: float | None = None
) -> stat.Panel:
    """One value; red above ``bad_above``."""
    panel = stat.Panel().title(title).datasource(METRICS).unit(unit).span(width).height(4)
    if about:
        panel = panel.description(about)
    if bad_above is not None:
        steps = [models.Threshold(value=None, color="green"), models.Threshold(value=bad_above, color="red")]
        panel = panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    return panel.with_target(_query(expression, "", 0, instant=True))


def spans(title: str, traceql: str, *, about: str, width: int = HALF) -> table.Panel:
    """A table of spans that Tempo finds."""
    query = tempo.TempoQuery().query_type("traceql").query(traceql).limit(50).spss(20).datasource(TRACES).ref_id("A")
    query = query.table_type(SearchTableType.SPANS)
    return table.Panel().title(title).description(about).datasource(TRACES).span(width).height(9).with_target(query)


def trace(title: str, identifier: str) -> dashboard.Panel:
    """One trace as a waterfall."""
    query = tempo.TempoQuery().query_type("traceql").query(identifier).datasource(TRACES).ref_id("A")
    panel = dashboard.Panel().type("traces").title(title).datasource(TRACES).span(WIDE).height(20)
    return panel.with_target(query)


def note(title: str, words: str, *, width: int = WIDE, height: int = 4) -> text.Panel:
    """Text for the reader."""
    return text.Panel().title(title).content(words).span(width).height(height)


def number(name: str, label: str, value: str, about: str) -> dashboard.TextBoxVariable:
    """A figure that the reader gives."""
    return dashboard.TextBoxVariable(name).label(label).description(about).default_value(value)


def board(uid: str, title: str, about: str, variables: Sequence[dashboard.TextBoxVariable] = ()) -> dashboard.Dashboard:
    """A dashboard without panels, with the variables that all have."""
    made = dashboard.Dashboard(title).uid(uid).description(about).tags(["wanspec"]).timezone("browser")
    made = made.time("now-1h", "now").refresh("30s").tooltip(models.DashboardCursorSync.CROSSHAIR).readonly()
    made = made.with_variable(dashboard.DatasourceVariable("metrics").label("Metrics").type("prometheus"))
    made = made.with_variable(dashboard.DatasourceVariable("traces").label("Traces").type("tempo"))
    endpoints = dashboard.QueryVariable("instance").label("Endpoint").datasource(METRICS)
    endpoints = endpoints.query("label_values(wanspec_requests_running, instance)").multi(True).include_all(True)
    made = made.with_variable(endpoints.all_value(".*").refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED))
    for variable in variables:
        made = made.with_variable(variable)
    others = dashboard.DashboardLink("WANSpec").type(models.DashboardLinkType.DASHBOARDS).tags(["wanspec"])
    return made.link(others.as_dropdown(True).include_vars(True).keep_time(True))


def section(made: dashboard.Dashboard, title: str, *panels: Builder[models.Panel]) -> dashboard.Dashboard:
    """Add panels, below a row with a title where it has one."""
    if title:
        made = made.with_row(dashboard.Row(title))
    for panel in panels:
        made = made.with_panel(panel)
    return made


def _query(expression: str, legend: str, number: int, *, instant: bool = False) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).ref_id(chr(ord("A") + number)).datasource(METRICS)
    query = query.legend_format(legend).format(PromQueryFormat.TIME_SERIES)
    return query.instant() if instant else query.range()
