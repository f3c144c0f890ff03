"""Panels of kinds whose present JSON grafanalib does not know: gauges, bars, tables, heatmaps, states.

grafanalib 0.7.1 writes the JSON of Grafana 6 for them. These are in the form of schema version 39, which Grafana 10 to
12 load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from farthing.dashboards.look import (
    COLOURS,
    DATASOURCE,
    Json,
    colour_overrides,
    last_value,
    links,
    set_values,
    steps,
    targets,
)
from farthing.dashboards.parts import Band, Column, Link, Panel, Query

__all__ = ["bars", "dial", "distribution", "history", "listing", "note", "spread", "states"]

HISTORY_POINTS: Final = 120
"""Columns of a history: each is some pixels wide on a laptop."""
# A heatmap's colours are published as one type: a scheme of colours carries those of an opacity too.
_OF_OPACITY: Final[Mapping[str, Any]] = {"exponent": 0.5, "fill": "dark-orange"}


def dial(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    full: float,
    bands: Sequence[Band],
    low: str = "fine",
    panel_links: Sequence[Link] = (),
) -> Panel:
    """How full something is now, from 0 to ``full``; one gauge a series."""
    options = {
        "orientation": "auto",
        "reduceOptions": last_value(),
        "showThresholdLabels": False,
        "showThresholdMarkers": True,
        "sizing": "auto",
        "minVizHeight": 75,
        "minVizWidth": 75,
    }
    defaults = {
        "unit": unit,
        "min": 0,
        "max": full,
        "color": {"mode": "thresholds"},
        "noValue": "unknown",
        "thresholds": {"mode": "absolute", "steps": steps(bands, low)},
    }
    return _panel(
        "gauge",
        title,
        description,
        targets(queries, instant=True),
        options=options,
        defaults=defaults,
        panel_links=panel_links,
    )


def bars(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    unknown: str = "unknown",
    panel_links: Sequence[Link] = (),
    decimals: int | None = None,
) -> Panel:
    """Parts of a whole now, one bar each, longest value setting the scale; phases and accounts in their colours."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": last_value(),
        "showUnfilled": True,
        "valueMode": "color",
        "namePlacement": "auto",
        "sizing": "auto",
        "maxVizHeight": 300,
        "minVizHeight": 16,
        "minVizWidth": 8,
    }
    defaults = {
        "unit": unit,
        "min": 0,
        "color": {"mode": "palette-classic"},
        "noValue": unknown,
        "decimals": decimals,
        "thresholds": {"mode": "absolute", "steps": steps(())},
    }
    return _panel(
        "bargauge",
        title,
        description,
        targets(queries, instant=True),
        options=options,
        defaults=defaults,
        overrides=colour_overrides(COLOURS),
        panel_links=panel_links,
    )


def distribution(
    title: str, description: str, unit: str, query: Query, *, cell: str = "reqps", panel_links: Sequence[Link] = ()
) -> Panel:
    """How observations spread over a histogram's buckets, over time; the query returns rates by ``le``.

    ``unit`` is of the bounds, ``cell`` of the rates.
    """
    options = _heat(unit) | {"calculate": False, "rowsFrame": {"layout": "auto"}}
    return _panel(
        "heatmap",
        title,
        description,
        targets([query], form="heatmap"),
        options=options,
        defaults={"unit": cell, "custom": _PLAIN_SCALE},
        panel_links=panel_links,
    )


def spread(
    title: str, description: str, unit: str, query: Query, *, full: float, panel_links: Sequence[Link] = ()
) -> Panel:
    """How many series (GPUs, instances) are at which value, over time: a heatmap of values from 0 to ``full``."""
    options = _heat(unit) | {
        "calculate": True,
        "calculation": {
            "xBuckets": {"mode": "count", "value": "60"},
            "yBuckets": {"mode": "count", "value": "10", "scale": {"type": "linear"}},
        },
    }
    options["yAxis"] |= {"min": 0, "max": full}
    return _panel(
        "heatmap",
        title,
        description,
        targets([query]),
        options=options,
        defaults={"unit": unit, "custom": _PLAIN_SCALE},
        panel_links=panel_links,
    )


def history(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    full: float,
    bands: Sequence[Band] = (),
    low: str = "fine",
    min_step: str | None = None,
    panel_links: Sequence[Link] = (),
) -> Panel:
    """One row a series (a GPU, an instance), coloured by its value over time: which one is hot, full or empty.

    With ``bands`` by what values mean, else from dark to bright between 0 and ``full``. Grafana draws a column for each
    point, and refuses where one would be narrower than a pixel or so.
    """
    options = {
        "showValue": "never",
        "rowHeight": 0.9,
        "colWidth": 0.9,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    defaults = {
        "unit": unit,
        "min": 0,
        "max": full,
        "color": {"mode": "thresholds" if bands else "continuous-BlYlRd"},
        "noValue": "unknown",
        "thresholds": {"mode": "absolute", "steps": steps(bands, low)},
        "custom": {"fillOpacity": 80, "lineWidth": 0},
    }
    panel = _panel(
        "status-history",
        title,
        description,
        targets([query]),
        options=options,
        defaults=defaults,
        min_step=min_step,
        panel_links=panel_links,
    )
    panel.document["maxDataPoints"] = HISTORY_POINTS
    return panel


def states(
    title: str,
    description: str,
    query: Query,
    meanings: Mapping[float, tuple[str, str]],
    *,
    panel_links: Sequence[Link] = (),
) -> Panel:
    """One row a series, in the state that its value means: ``meanings`` gives each value its word and its colour."""
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "alignValue": "left",
        "rowHeight": 0.9,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    mapping = {
        "type": "value",
        "options": {
            f"{value:g}": {"text": text, "color": colour, "index": index}
            for index, (value, (text, colour)) in enumerate(sorted(meanings.items()))
        },
    }
    defaults = {
        "unit": "none",
        "color": {"mode": "thresholds"},
        "noValue": "unknown",
        "mappings": [mapping],
        "thresholds": {"mode": "absolute", "steps": steps(())},
        "custom": {"fillOpacity": 80, "lineWidth": 0},
    }
    return _panel(
        "state-timeline",
        title,
        description,
        targets([query]),
        options=options,
        defaults=defaults,
        panel_links=panel_links,
    )


def note(title: str, description: str, text: str) -> Panel:
    """A text in Markdown, such as why something is not shown; it asks nothing."""
    document = {
        "type": "text",
        "title": title,
        "description": description,
        "options": {"mode": "markdown", "content": text},
        "links": [],
        "transparent": False,
    }
    return Panel(title, document)


def listing(
    title: str,
    description: str,
    keys: Mapping[str, str],
    columns: Sequence[Column],
    *,
    row_links: Mapping[str, Link] | None = None,
    panel_links: Sequence[Link] = (),
    footer: bool = True,
    unknown: str = "unknown",
) -> Panel:
    """A table with one row per combination of the labels ``keys`` (label -> its title), by its first value column.

    Every column's query is grouped by exactly these labels. ``row_links`` give a label's cells a link, in whose URL
    ``${__value.raw}`` is the cell's text. ``footer`` adds the columns up: leave it out where sums mean nothing.
    ``unknown`` stands where there is nothing, a row or a value.
    """
    asked = targets([Query(column.expr) for column in columns], instant=True, form="table")
    # Joined by rows of equal keys, each query's value arrives as "Value #A", "Value #B" …; a single one as "Value"
    fields = {
        f"Value #{target['refId']}" if len(asked) > 1 else "Value": column
        for target, column in zip(asked, columns, strict=True)
    }
    transformations = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "indexByName": {name: index for index, name in enumerate((*keys, *fields))},
                "renameByName": {**keys, **{name: column.title for name, column in fields.items()}},
            },
        },
    ]
    overrides = [
        {"matcher": {"id": "byName", "options": column.title}, "properties": _column(column)} for column in columns
    ] + [
        {
            "matcher": {"id": "byName", "options": keys[label]},
            "properties": [{"id": "links", "value": links([link])}],
        }
        for label, link in (row_links or {}).items()
    ]
    options = {
        "frameIndex": 0,
        "showHeader": True,
        "cellHeight": "sm",
        "sortBy": [{"displayName": columns[0].title, "desc": True}],
        "footer": {"show": footer, "reducer": ["sum"], "countRows": False},
    }
    defaults = {
        "unit": "none",
        "noValue": unknown,
        "custom": {"align": "auto", "cellOptions": {"type": "auto"}},
        "thresholds": {"mode": "absolute", "steps": steps(())},
    }
    panel = _panel(
        "table",
        title,
        description,
        asked,
        options=options,
        defaults=defaults,
        overrides=overrides,
        panel_links=panel_links,
    )
    panel.document["transformations"] = transformations
    return panel


_PLAIN_SCALE: Final[Mapping[str, Any]] = {"scaleDistribution": {"type": "linear"}}


def _column(column: Column) -> list[Json]:
    properties: list[Json] = [{"id": "unit", "value": column.unit}]
    if column.decimals is not None:
        properties.append({"id": "decimals", "value": column.decimals})
    if column.unknown is not None:
        properties.append({"id": "noValue", "value": column.unknown})
    if column.bands:
        properties += [
            {"id": "thresholds", "value": {"mode": "absolute", "steps": steps(column.bands)}},
            {"id": "custom.cellOptions", "value": {"type": "color-text"}},
        ]
    return properties


def _heat(unit: str) -> Json:
    return {
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "reverse": False, **_OF_OPACITY},
        # Buckets without observations stay empty instead of pale.
        "filterValues": {"le": 1e-9},
        "showValue": "never",
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": unit},
    }


def _panel(
    kind: str,
    title: str,
    description: str,
    asked: list[Json],
    *,
    options: Json,
    defaults: Json,
    overrides: Sequence[Json] = (),
    min_step: str | None = None,
    panel_links: Sequence[Link] = (),
) -> Panel:
    document = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": asked,
        "options": options,
        "fieldConfig": {"defaults": set_values(defaults), "overrides": list(overrides)},
        "interval": min_step,
        "links": links(panel_links),
        "transparent": False,
    }
    return Panel(title, set_values(document))
