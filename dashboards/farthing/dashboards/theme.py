"""How Farthing's dashboards look: the only file that touches grafanalib, which is camel-cased and untyped.

grafanalib 0.7.1 knows the panels of Grafana 8; its gauge, bar gauge, table and heatmap still write the JSON of
Grafana 6. Those are written here on its bare Panel, in the form of schema version 39 (Grafana 11 and 12 load it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from grafanalib import core as grafana

from farthing.dashboards.parts import Band, Column, Panel, Query, Section, Variable

__all__ = [
    "COLUMNS",
    "DATASOURCE",
    "bars",
    "dashboard_json",
    "dial",
    "distribution",
    "listing",
    "number",
    "over_time",
    "verdicts",
]

Json: TypeAlias = dict[str, Any]

SCHEMA_VERSION: Final = 39
COLUMNS: Final = 24
"""Width of Grafana's grid."""
ROW_TITLE_HEIGHT: Final = 1
DATASOURCE: Final[Mapping[str, str]] = {"type": "prometheus", "uid": "${datasource}"}
"""Whatever the dashboard's data source variable says."""
CALM, CAREFUL, BROKEN = "green", "orange", "red"

# What grafanalib writes for Grafana 5 and older.
_LEGACY_PANEL: Final = frozenset(
    ("cacheTimeout", "editable", "error", "height", "hideTimeOverride", "maxPerRow", "minSpan", "span")
)
# A heatmap's colours are published as one type: a scheme of colours carries those of an opacity too.
_OF_OPACITY: Final[Mapping[str, Any]] = {"exponent": 0.5, "fill": "dark-orange"}
# It caps every panel at 100 points; unset, Grafana takes the panel's width in pixels.
_POINTS: Final = frozenset(("maxDataPoints",))
_NOT_OF_A_ROW: Final = frozenset(("datasource", "fieldConfig", "links", "targets", "transformations", "transparent"))
_LEGACY_TARGET: Final = frozenset(("hide", "interval", "intervalFactor", "metric", "query", "step", "target"))
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
    stacked: bool = False,
    min_step: str | None = None,
) -> Panel:
    """Lines over time, stacked areas where the parts add up; ``bands`` are drawn as dashed lines."""
    panel = grafana.TimeSeries(
        title=title,
        description=description,
        dataSource=DATASOURCE,
        targets=_targets(queries),
        unit=unit,
        interval=min_step,
        fillOpacity=30 if stacked else 5,
        showPoints="never",
        stacking={"mode": "normal" if stacked else "none", "group": "A"},
        thresholds=_steps(bands),
        thresholdsStyleMode="dashed" if bands else "off",
        tooltipMode="multi",
        tooltipSort="desc",
        legendDisplayMode="table",
        legendCalcs=["lastNotNull", "max"],
    )
    # Latencies, rates and dollars start at zero; an axis that does not makes noise look like an incident.
    document = panel.to_json_data()
    document["fieldConfig"]["defaults"]["custom"] |= {"axisSoftMin": 0, "scaleDistribution": {"type": "linear"}}
    document["options"]["legend"]["showLegend"] = True
    return _panel(document)


def number(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    bands: Sequence[Band] = (),
    decimals: int | None = None,
    unknown: str = "unknown",
) -> Panel:
    """What holds now, as large numbers; ``unknown`` is shown when there is no data."""
    panel = grafana.Stat(
        title=title,
        description=description,
        dataSource=DATASOURCE,
        targets=_targets(queries, instant=True),
        format=unit,
        decimals=decimals,
        noValue=unknown,
        reduceCalc="lastNotNull",
        graphMode="none",
        textMode="value_and_name" if len(queries) > 1 else "value",
        thresholds=_steps(bands),
        color={"mode": "thresholds"},
    )
    return _stat(panel.to_json_data())


def verdicts(title: str, description: str, queries: Sequence[Query]) -> Panel:
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
        targets=_targets(queries, instant=True),
        format="none",
        noValue="unknown",
        reduceCalc="lastNotNull",
        graphMode="none",
        colorMode="background",
        textMode="value_and_name",
        mappings=[mapping],
        thresholds=_steps(()),
        color={"mode": "thresholds"},
    )
    return _stat(panel.to_json_data())


def dial(title: str, description: str, unit: str, query: Query, *, full: float, bands: Sequence[Band]) -> Panel:
    """How full something is now, from 0 to ``full``."""
    options = {
        "orientation": "auto",
        "reduceOptions": _last_value(),
        "showThresholdLabels": False,
        "showThresholdMarkers": True,
        "sizing": "auto",
        "minVizHeight": 75,
        "minVizWidth": 75,
    }
    defaults = {"unit": unit, "min": 0, "max": full, "color": {"mode": "thresholds"}, "noValue": "unknown"}
    return _bare(
        "gauge", title, description, _targets([query], instant=True), options=options, defaults=defaults, bands=bands
    )


def bars(title: str, description: str, unit: str, query: Query, *, unknown: str = "unknown") -> Panel:
    """Parts of a whole now, one bar each, longest value setting the scale."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": _last_value(),
        "showUnfilled": True,
        "valueMode": "color",
        "namePlacement": "auto",
        "sizing": "auto",
        "maxVizHeight": 300,
        "minVizHeight": 16,
        "minVizWidth": 8,
    }
    defaults = {"unit": unit, "min": 0, "color": {"mode": "palette-classic"}, "noValue": unknown}
    return _bare("bargauge", title, description, _targets([query], instant=True), options=options, defaults=defaults)


def distribution(title: str, description: str, unit: str, query: Query) -> Panel:
    """How observations spread over a histogram's buckets, over time; the query returns rates by ``le``."""
    target = _targets([query])[0] | {"format": "heatmap"}
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "reverse": False, **_OF_OPACITY},
        # Buckets without observations stay empty instead of pale.
        "filterValues": {"le": 1e-9},
        "showValue": "never",
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": unit},
    }
    # A cell's value is observations per second in the bucket.
    return _bare("heatmap", title, description, [target], options=options, defaults={"unit": "reqps"})


def listing(title: str, description: str, key: str, key_title: str, columns: Sequence[Column]) -> Panel:
    """A table with one row per value of the label ``key``, sorted by its first value column."""
    targets = _targets([Query(column.expr) for column in columns], instant=True)
    for target in targets:
        target["format"] = "table"
    # Joined by rows of equal key, each query's value arrives as "Value #A", "Value #B" …
    fields = {f"Value #{target['refId']}": column for target, column in zip(targets, columns, strict=True)}
    transformations = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "indexByName": {name: index for index, name in enumerate((key, *fields))},
                "renameByName": {key: key_title} | {name: column.title for name, column in fields.items()},
            },
        },
    ]
    overrides = [
        {
            "matcher": {"id": "byName", "options": column.title},
            "properties": [{"id": "unit", "value": column.unit}],
        }
        for column in columns
    ]
    options = {
        "frameIndex": 0,
        "showHeader": True,
        "cellHeight": "sm",
        "sortBy": [{"displayName": columns[0].title, "desc": True}],
        "footer": {"show": True, "reducer": ["sum"], "countRows": False},
    }
    defaults = {"unit": "none", "noValue": "unknown", "custom": {"align": "auto", "cellOptions": {"type": "auto"}}}
    panel = _bare("table", title, description, targets, options=options, defaults=defaults)
    panel.document["transformations"] = transformations
    panel.document["fieldConfig"]["overrides"] = overrides
    return panel


def dashboard_json(
    *,
    uid: str,
    title: str,
    description: str,
    tags: Sequence[str],
    variables: Sequence[Variable],
    sections: Sequence[Section],
) -> str:
    """The dashboard as JSON text, the same for the same input; panels get their ids and places in reading order.

    Raises ValueError when a row of panels is wider than the grid.
    """
    board = grafana.Dashboard(
        title=title,
        uid=uid,
        description=description,
        tags=list(tags),
        panels=list(_placed(sections)),
        templating=grafana.Templating(list=[_datasource_variable(), *map(_variable, variables)]),
        schemaVersion=SCHEMA_VERSION,
        graphTooltip=grafana.GRAPH_TOOLTIP_MODE_SHARED_CROSSHAIR,
        time=grafana.Time("now-30m", "now"),
        timezone="browser",
        refresh="10s",
        editable=False,
    )
    document = _without(board.to_json_data(), _LEGACY_DASHBOARD)
    return (
        json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, default=lambda part: part.to_json_data())
        + "\n"
    )


def _placed(sections: Iterable[Section]) -> Iterable[Json]:
    number_of, top = 1, 0
    for section in sections:
        title = grafana.RowPanel(title=section.title, id=number_of, gridPos=_place(0, top, COLUMNS, ROW_TITLE_HEIGHT))
        yield _without(title.to_json_data(), _LEGACY_PANEL | _POINTS | _NOT_OF_A_ROW)
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
    return _without(variable.to_json_data(), _LEGACY_VARIABLE | {"current"})


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
    document = _without(template.to_json_data(), _LEGACY_VARIABLE)
    current = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return document | {"current": current, "regex": ""}


def _targets(queries: Sequence[Query], *, instant: bool = False) -> list[Json]:
    """Grafana's queries with the letters it gives them; instant ones ask for the end of the time range only."""
    targets = []
    for letter, query in zip("ABCDEFGHIJ", queries, strict=False):
        target = grafana.Target(
            expr=query.expr, legendFormat=query.legend, refId=letter, instant=instant, datasource=DATASOURCE
        )
        targets.append(_without(target.to_json_data(), _LEGACY_TARGET) | {"range": not instant, "editorMode": "code"})
    return targets


def _steps(bands: Sequence[Band]) -> list[Json]:
    """Grafana's threshold steps; the first has no start."""
    colours = {"careful": CAREFUL, "broken": BROKEN}
    rest = [{"color": colours[band.meaning], "value": band.start} for band in bands]
    return [{"color": CALM, "value": None}, *rest]


def _last_value() -> Json:
    return {"calcs": ["lastNotNull"], "fields": "", "values": False}


def _stat(document: Json) -> Panel:
    """A panel of large numbers with what Grafana came to know since grafanalib."""
    document["options"] |= {"showPercentChange": False, "wideLayout": True}
    return _panel(document)


def _bare(
    kind: str,
    title: str,
    description: str,
    targets: list[Json],
    *,
    options: Json,
    defaults: Json,
    bands: Sequence[Band] = (),
) -> Panel:
    """A panel of a kind whose JSON grafanalib does not know in its current form."""
    panel = grafana.Panel(
        title=title, description=description, dataSource=DATASOURCE, targets=targets, thresholds=_steps(bands)
    )
    fields = {"fieldConfig": {"defaults": defaults, "overrides": []}}
    return _panel(panel.panel_json({"type": kind, "options": options} | fields))


def _panel(document: Json) -> Panel:
    """A panel of grafanalib's JSON, without what is legacy or unset."""
    document = _without(document, _LEGACY_PANEL | _POINTS)
    defaults = _without(document["fieldConfig"]["defaults"], frozenset())
    custom = _without(defaults.pop("custom", {}), frozenset())
    if custom:
        defaults["custom"] = custom
    document["fieldConfig"]["defaults"] = defaults
    return Panel(str(document["title"]), document)


def _without(document: Json, keys: frozenset[str]) -> Json:
    return {key: value for key, value in document.items() if value is not None and key not in keys}
