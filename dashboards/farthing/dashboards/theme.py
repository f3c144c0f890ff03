"""How Farthing's dashboards look: the only file that touches grafanalib, which is camel-cased and untyped.

Panels that grafanalib does not know in their present form are in ``shapes``; here they stand beside the others, so
that a dashboard asks one module for whatever it shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from grafanalib import core as grafana

from farthing.dashboards.annotations import ANNOTATIONS
from farthing.dashboards.look import (
    BROKEN,
    CALM,
    COLOURS,
    DATASOURCE,
    Json,
    colour_overrides,
    links,
    set_values,
    steps,
    targets,
)
from farthing.dashboards.parts import Annotation, Band, Link, Panel, Query, Section, Variable
from farthing.dashboards.shapes import bars, dial, distribution, history, listing, note, spread, states

__all__ = [
    "COLUMNS",
    "DATASOURCE",
    "TAG",
    "bars",
    "dashboard_json",
    "dial",
    "distribution",
    "history",
    "listing",
    "note",
    "number",
    "over_time",
    "spread",
    "states",
    "verdicts",
]

SCHEMA_VERSION: Final = 39
COLUMNS: Final = 24
"""Width of Grafana's grid."""
ROW_TITLE_HEIGHT: Final = 1
TAG: Final = "farthing"
"""Every dashboard has it; the list of links at the top is of those that have."""

# What grafanalib writes for Grafana 5 and older.
_LEGACY_PANEL: Final = frozenset(
    ("cacheTimeout", "editable", "error", "height", "hideTimeOverride", "maxPerRow", "minSpan", "span")
)
# It caps every panel at 100 points; unset, Grafana takes the panel's width in pixels.
_POINTS: Final = frozenset(("maxDataPoints",))
_NOT_OF_A_ROW: Final = frozenset(("datasource", "fieldConfig", "links", "targets", "transformations", "transparent"))
_LEGACY_VARIABLE: Final = frozenset(("auto", "auto_count", "auto_min", "tagValuesQuery", "tagsQuery", "useTags"))
_LEGACY_DASHBOARD: Final = frozenset(
    ("__inputs", "gnetId", "hideControls", "rows", "sharedCrosshair", "style", "timepicker")
)


def over_time(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    bands: Sequence[Band] = (),
    low: str = "fine",
    stacked: bool = False,
    min_step: str | None = None,
    full: float | None = None,
    colours: Mapping[str, str] | None = None,
    panel_links: Sequence[Link] = (),
    data_links: Sequence[Link] = (),
) -> Panel:
    """Lines over time, stacked areas where the parts add up; ``bands`` are drawn as dashed lines.

    ``colours`` are those of the panel's own legends, such as of what is good and what is bad.
    ``full`` is where the axis ends at least. Phases, accounts and stages that begin a legend have their colours.
    """
    panel = grafana.TimeSeries(
        title=title,
        description=description,
        dataSource=DATASOURCE,
        targets=targets(queries),
        unit=unit,
        interval=min_step,
        fillOpacity=30 if stacked else 5,
        showPoints="never",
        stacking={"mode": "normal" if stacked else "none", "group": "A"},
        thresholds=steps(bands, low),
        thresholdsStyleMode="dashed" if bands else "off",
        tooltipMode="multi",
        tooltipSort="desc",
        legendDisplayMode="table",
        legendCalcs=["lastNotNull", "max"],
        links=links(panel_links),
        overrides=colour_overrides(COLOURS, colours),
    )
    # Latencies, rates and dollars start at zero; an axis that does not makes noise look like an incident.
    document = panel.to_json_data()
    document["fieldConfig"]["defaults"]["custom"] |= {"axisSoftMin": 0, "scaleDistribution": {"type": "linear"}}
    if full is not None:
        document["fieldConfig"]["defaults"]["custom"]["axisSoftMax"] = full
    if data_links:
        document["fieldConfig"]["defaults"]["links"] = links(data_links)
    document["options"]["legend"]["showLegend"] = True
    return _panel(document)


def number(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    bands: Sequence[Band] = (),
    low: str = "fine",
    decimals: int | None = None,
    unknown: str = "unknown",
    panel_links: Sequence[Link] = (),
) -> Panel:
    """What holds now, as large numbers; ``unknown`` is shown when there is no data."""
    panel = grafana.Stat(
        title=title,
        description=description,
        dataSource=DATASOURCE,
        targets=targets(queries, instant=True),
        format=unit,
        decimals=decimals,
        noValue=unknown,
        reduceCalc="lastNotNull",
        graphMode="none",
        textMode="value_and_name" if len(queries) > 1 or queries[0].legend else "value",
        thresholds=steps(bands, low),
        color={"mode": "thresholds"},
        links=links(panel_links),
    )
    return _stat(panel.to_json_data())


def verdicts(title: str, description: str, queries: Sequence[Query], *, panel_links: Sequence[Link] = ()) -> Panel:
    """One tile per series: 1 reads ok, 0 reads broken."""
    mapping = {
        "type": "value",
        "options": {
            "0": {"text": "broken", "color": BROKEN, "index": 0},
            "1": {"text": "ok", "color": CALM, "index": 1},
        },
    }
    panel = grafana.Stat(
        title=title,
        description=description,
        dataSource=DATASOURCE,
        targets=targets(queries, instant=True),
        format="none",
        noValue="unknown",
        reduceCalc="lastNotNull",
        graphMode="none",
        colorMode="background",
        textMode="value_and_name",
        mappings=[mapping],
        thresholds=steps(()),
        color={"mode": "thresholds"},
        links=links(panel_links),
    )
    return _stat(panel.to_json_data())


def dashboard_json(
    *,
    uid: str,
    title: str,
    description: str,
    variables: Sequence[Variable],
    sections: Sequence[Section],
    time_from: str = "now-1h",
    refresh: str = "10s",
) -> str:
    """The dashboard as JSON text, the same for the same input; panels get their ids and places in reading order.

    Raises ValueError when a row of panels is wider than the grid.
    """
    board = grafana.Dashboard(
        title=title,
        uid=uid,
        description=description,
        tags=[TAG, "llm"],
        panels=list(_placed(sections)),
        templating=grafana.Templating(list=[_datasource_variable(), *map(_variable, variables)]),
        schemaVersion=SCHEMA_VERSION,
        graphTooltip=grafana.GRAPH_TOOLTIP_MODE_SHARED_CROSSHAIR,
        time=grafana.Time(time_from, "now"),
        timezone="browser",
        refresh=refresh,
        editable=False,
        links=[_LINK_TO_OTHERS],
    )
    document = set_values(board.to_json_data(), _LEGACY_DASHBOARD)
    chosen = {variable.name for variable in variables}
    document["annotations"] = {"list": [_annotation(one) for one in ANNOTATIONS if one.needs <= chosen]}
    return (
        json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, default=lambda part: part.to_json_data())
        + "\n"
    )


_LINK_TO_OTHERS: Final[Json] = {
    "title": "Farthing",
    "type": "dashboards",
    "tags": [TAG],
    "asDropdown": True,
    "icon": "external link",
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
    "tooltip": "The other dashboards, with the same choices and time range",
    "url": "",
}


def _annotation(annotation: Annotation) -> Json:
    return {
        "name": annotation.name,
        "datasource": DATASOURCE,
        "enable": annotation.shown,
        "hide": False,
        "iconColor": annotation.colour,
        "expr": annotation.expr,
        "step": "60s",
        "titleFormat": annotation.title,
        "textFormat": annotation.text,
        "useValueForTime": False,
    }


def _placed(sections: Iterable[Section]) -> Iterable[Json]:
    number_of, top = 1, 0
    for section in sections:
        title = grafana.RowPanel(title=section.title, id=number_of, gridPos=_place(0, top, COLUMNS, ROW_TITLE_HEIGHT))
        yield set_values(title.to_json_data(), _LEGACY_PANEL | _POINTS | _NOT_OF_A_ROW)
        number_of, top = number_of + 1, top + ROW_TITLE_HEIGHT
        for height, panels in section.rows:
            left = 0
            for width, panel in panels:
                yield panel.document | {"id": number_of, "gridPos": _place(left, top, width, height)}
                number_of, left = number_of + 1, left + width
            if left > COLUMNS:
                raise ValueError(f"{section.title}: a row is {left} columns wide, the grid has {COLUMNS}")
            top += height


def _place(left: int, top: int, width: int, height: int) -> Json:
    place: Json = grafana.GridPos(h=height, w=width, x=left, y=top).to_json_data()
    return place


def _datasource_variable() -> Json:
    variable = grafana.Template(name="datasource", label="Data source", type="datasource", query="prometheus")
    # Nothing is chosen beforehand: Grafana takes its default Prometheus.
    return set_values(variable.to_json_data(), _LEGACY_VARIABLE | {"current"})


def _variable(variable: Variable) -> Json:
    template = grafana.Template(
        name=variable.name,
        label=variable.label,
        query={"query": variable.query, "refId": variable.name},
        dataSource=DATASOURCE,
        includeAll=True,
        multi=True,
        # Without it All means "those listed", and a down engine, or one that names no model, would drop out of sums.
        allValue=".*",
        refresh=grafana.REFRESH_ON_TIME_RANGE_CHANGE,
    )
    document = set_values(template.to_json_data(), _LEGACY_VARIABLE)
    current = {"selected": True, "text": [variable.chosen or "All"], "value": [variable.chosen or "$__all"]}
    return document | {"current": current, "regex": ""}


def _stat(document: Json) -> Panel:
    """A panel of large numbers with what Grafana came to know since grafanalib."""
    document["options"] |= {"showPercentChange": False, "wideLayout": True}
    return _panel(document)


def _panel(document: Json) -> Panel:
    """A panel of grafanalib's JSON, without what is legacy or unset."""
    document = set_values(document, _LEGACY_PANEL | _POINTS)
    defaults = set_values(document["fieldConfig"]["defaults"])
    custom = set_values(defaults.pop("custom", {}))
    if custom:
        defaults["custom"] = custom
    document["fieldConfig"]["defaults"] = defaults
    return Panel(str(document["title"]), document)
