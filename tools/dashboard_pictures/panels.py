"""One panel of a dashboard as HTML: numbers and tables as text, everything else by plotly."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from plotly import graph_objects as go
from tools.dashboard_pictures.units import text_of, tick_format

__all__ = ["Answer", "panel_html"]

Json = dict[str, Any]
COLOURS: Final = (
    *("#73BF69", "#F2CC0C", "#5794F2", "#FF9830", "#F2495C", "#B877D9", "#8AB8FF", "#FFA6B0", "#96D98D", "#C0D8FF"),
    *("#FFCB7D", "#CA95E5", "#37872D", "#E0B400", "#1F60C4", "#FA6400", "#C4162A", "#8F3BB8"),
)
NAMED: Final = {"green": "#73BF69", "orange": "#FF9830", "red": "#F2495C", "purple": "#B877D9", "yellow": "#FADE2A"}
TEXT: Final = "#D8D9DA"
GRID: Final = "#2C3235"


@dataclass(frozen=True, slots=True)
class Answer:
    """One series of a query's answer."""

    letter: str
    """Of the query."""
    legend: str
    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """(seconds since the epoch, value), in order; of an instant query one."""


def panel_html(panel: Json, answers: Sequence[Answer], width: int, height: int) -> str:
    """The panel's inside, ``width`` by ``height`` pixels."""
    kind = panel["type"]
    if kind == "text":
        return f'<div class="words">{html.escape(panel["options"]["content"])}</div>'
    if not answers:
        return f'<div class="number"><b>{html.escape(_defaults(panel).get("noValue", "No data"))}</b></div>'
    if kind in {"stat", "bargauge", "table"}:
        return {"stat": _stat, "bargauge": _bars, "table": _table}[kind](panel, answers)
    figure = {
        "timeseries": _lines,
        "gauge": _gauge,
        "heatmap": _heatmap,
        "status-history": _rows,
        "state-timeline": _rows,
    }[kind](panel, answers)
    figure.update_layout(
        width=width,
        height=height,
        margin={"l": 8, "r": 8, "t": 6, "b": 6},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": TEXT, "size": 11},
    )
    text: str = figure.to_html(include_plotlyjs=False, full_html=False, config={"staticPlot": True})
    return text


def _defaults(panel: Json) -> Json:
    found: Json = panel["fieldConfig"]["defaults"]
    return found


def _unit(panel: Json) -> str:
    return str(_defaults(panel).get("unit", "none"))


def _shown(panel: Json, value: float) -> str:
    for mapping in _defaults(panel).get("mappings", []):
        word = mapping["options"].get(f"{value:g}")
        if word:
            return str(word["text"])
    return text_of(value, _unit(panel), _defaults(panel).get("decimals"))


def _meaning(panel: Json, value: float, steps: Sequence[Json] | None = None) -> str:
    """The colour that thresholds or mappings give a value."""
    for mapping in _defaults(panel).get("mappings", []):
        word = mapping["options"].get(f"{value:g}")
        if word:
            return NAMED.get(word["color"], str(word["color"]))
    colour = TEXT
    for step in steps if steps is not None else _defaults(panel).get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return NAMED.get(colour, colour)


def _fixed(panel: Json, legend: str, index: int) -> str:
    """The colour that the last matching override gives, else one of a series of its own."""
    colour = COLOURS[index % len(COLOURS)]
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["id"] == "byRegexp" and re.search(override["matcher"]["options"].strip("/"), legend):
            for part in override["properties"]:
                if part["id"] == "color":
                    colour = str(part["value"]["fixedColor"])
    return colour


def _last(answer: Answer) -> float:
    finite = [value for _, value in answer.points if not math.isnan(value)]
    return finite[-1] if finite else math.nan


def _stat(panel: Json, answers: Sequence[Answer]) -> str:
    named = panel["options"].get("textMode") == "value_and_name"
    tiles = []
    for answer in answers[:24]:
        value = _last(answer)
        name = f"<small>{html.escape(answer.legend)}</small>" if named else ""
        colour = _meaning(panel, value)
        filled = panel["options"].get("colorMode") == "background"
        style = f"background:{colour};color:#111217" if filled else f"color:{colour}"
        tiles.append(f'<div style="{style}">{name}<b>{html.escape(_shown(panel, value))}</b></div>')
    return f'<div class="number">{"".join(tiles)}</div>'


def _bars(panel: Json, answers: Sequence[Answer]) -> str:
    values = [(answer, _last(answer)) for answer in answers]
    most = max((value for _, value in values if not math.isnan(value)), default=0) or 1
    lines = []
    for index, (answer, value) in enumerate(values):
        part = 0 if math.isnan(value) else max(0.0, value / most)
        colour = _fixed(panel, answer.legend, index)
        lines.append(
            f'<div class="bar"><span>{html.escape(answer.legend)}</span><i><u style="width:{part:.1%};'
            f'background:{colour}"></u></i><em>{html.escape(_shown(panel, value))}</em></div>'
        )
    return "".join(lines)


def _table(panel: Json, answers: Sequence[Answer]) -> str:
    organize: Json = next(one for one in panel["transformations"] if one["id"] == "organize")["options"]
    titles: Mapping[str, str] = organize["renameByName"]
    keys = [name for name in organize["indexByName"] if not name.startswith("Value")]
    columns = [name for name in organize["indexByName"] if name.startswith("Value")]
    overrides = {
        one["matcher"]["options"]: {part["id"]: part["value"] for part in one["properties"]}
        for one in panel["fieldConfig"]["overrides"]
    }
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for answer in answers:
        name = f"Value #{answer.letter}" if f"Value #{answer.letter}" in columns else "Value"
        rows.setdefault(tuple(answer.labels.get(key, "") for key in keys), {})[name] = _last(answer)
    ordered = sorted(rows.items(), key=lambda row: -row[1].get(columns[0], -math.inf))
    out = ["<table><tr>", *(f'<th class="key">{html.escape(titles.get(name, name))}</th>' for name in keys)]
    out += [*(f"<th>{html.escape(titles.get(name, name))}</th>" for name in columns), "</tr>"]
    for key, values in ordered[:14]:
        cells = [f"<td>{html.escape(part)}</td>" for part in key]
        for name in columns:
            told = overrides.get(titles[name], {})
            value = values.get(name)
            shown = "" if value is None else text_of(value, told.get("unit", "none"), told.get("decimals"))
            steps = told.get("thresholds", {}).get("steps")
            colour = TEXT if value is None or not steps else _meaning(panel, value, steps)
            cells.append(f'<td style="text-align:right;color:{colour}">{html.escape(shown)}</td>')
        out += ["<tr>", *cells, "</tr>"]
    return "".join([*out, "</table>"])


def _times(answer: Answer) -> list[datetime]:
    return [datetime.fromtimestamp(at, UTC) for at, _ in answer.points]


def _lines(panel: Json, answers: Sequence[Answer]) -> go.Figure:
    custom = _defaults(panel).get("custom", {})
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    figure = go.Figure()
    for index, answer in enumerate(answers[:40]):
        colour = _fixed(panel, answer.legend, index)
        figure.add_scatter(
            x=_times(answer),
            y=[None if math.isnan(value) else value for _, value in answer.points],
            name=answer.legend[:44] or " ",
            mode="lines",
            line={"width": 1.2, "color": colour},
            stackgroup="all" if stacked else None,
        )
    if custom.get("thresholdsStyle", {}).get("mode", "off") != "off":
        for step in _defaults(panel)["thresholds"]["steps"]:
            if step["value"] is not None:
                line = {"dash": "dash", "width": 1, "color": NAMED.get(step["color"], step["color"])}
                figure.add_hline(y=step["value"], line=line)
    form, suffix = tick_format(_unit(panel))
    figure.update_xaxes(gridcolor=GRID, zeroline=False, tickformat="%H:%M")
    figure.update_yaxes(gridcolor=GRID, zeroline=False, rangemode="tozero", tickformat=form, ticksuffix=suffix)
    legend = {"orientation": "h", "y": -0.12, "yanchor": "top", "font": {"size": 9}, "entrywidth": 0}
    figure.update_layout(showlegend=len(answers) <= 12, legend=legend)
    return figure


def _gauge(panel: Json, answers: Sequence[Answer]) -> go.Figure:
    figure = go.Figure()
    shown = answers[:8]
    for index, answer in enumerate(shown):
        value, full = _last(answer), _defaults(panel)["max"]
        figure.add_indicator(
            mode="gauge",
            value=0 if math.isnan(value) else value,
            domain={"x": [index / len(shown), (index + 1) / len(shown) - 0.02], "y": [0, 0.86]},
            gauge={
                "axis": {"range": [0, full], "visible": False},
                "bar": {"color": _meaning(panel, value), "thickness": 1},
                "bgcolor": GRID,
                "borderwidth": 0,
            },
        )
        middle = (index + 0.5) / len(shown) - 0.01
        text = f"<b>{_shown(panel, value)}</b><br><span style='font-size:9px'>{answer.legend[:22]}</span>"
        figure.add_annotation(x=middle, y=0.12, text=text, showarrow=False, font={"size": 16})
    return figure


def _heatmap(panel: Json, answers: Sequence[Answer]) -> go.Figure:
    calculated = panel["options"].get("calculate")
    times = sorted({at for answer in answers for at, _ in answer.points})
    index = {at: number for number, at in enumerate(times)}
    if calculated:
        full = panel["options"]["yAxis"].get("max", 1)
        rows = [[0.0] * len(times) for _ in range(10)]
        for answer in answers:
            for at, value in answer.points:
                if not math.isnan(value):
                    rows[min(9, max(0, int(value / full * 10)))][index[at]] += 1
        names = [text_of(full * (number + 1) / 10, _unit(panel), 0) for number in range(10)]
    else:
        bounds = sorted(answers, key=lambda answer: float(answer.labels["le"].replace("+Inf", "inf")))
        rows, before = [], [0.0] * len(times)
        for answer in bounds:
            now = [0.0] * len(times)
            for at, value in answer.points:
                now[index[at]] = 0.0 if math.isnan(value) else value
            rows.append([max(0.0, one - less) for one, less in zip(now, before, strict=True)])
            before = now
        unit = panel["options"]["yAxis"].get("unit", "none")
        names = [
            "∞" if answer.labels["le"] == "+Inf" else text_of(float(answer.labels["le"]), unit) for answer in bounds
        ]
    coloured = [[None if value <= 1e-9 else value for value in row] for row in rows]
    figure = go.Figure(
        go.Heatmap(
            x=[datetime.fromtimestamp(at, UTC) for at in times],
            y=names,
            z=coloured,
            colorscale="Oranges_r",
            showscale=False,
        )
    )
    figure.update_xaxes(gridcolor=GRID, tickformat="%H:%M")
    figure.update_yaxes(gridcolor=GRID, type="category")
    return figure


def _rows(panel: Json, answers: Sequence[Answer]) -> go.Figure:
    figure = go.Figure()
    for number, answer in enumerate(sorted(answers, key=lambda one: one.legend)[:24]):
        thinned = answer.points[:: max(1, len(answer.points) // 120)]
        colours = [_row_colour(panel, value) for _, value in thinned]
        figure.add_scatter(
            x=[datetime.fromtimestamp(at, UTC) for at, _ in thinned],
            y=[answer.legend[:34] or str(number)] * len(thinned),
            mode="markers",
            marker={"symbol": "square", "size": 9, "color": colours},
            showlegend=False,
        )
    figure.update_xaxes(gridcolor=GRID, tickformat="%H:%M")
    figure.update_yaxes(type="category", gridcolor="rgba(0,0,0,0)")
    return figure


def _row_colour(panel: Json, value: float) -> str:
    if math.isnan(value):
        return "rgba(0,0,0,0)"
    if _defaults(panel)["color"]["mode"] != "continuous-BlYlRd":
        return _meaning(panel, value)
    part = min(1.0, max(0.0, value / _defaults(panel)["max"]))
    blue, yellow, red = (87, 148, 242), (250, 222, 42), (242, 73, 92)
    one, other, share = (blue, yellow, part * 2) if part < 0.5 else (yellow, red, part * 2 - 1)
    return "rgb(" + ",".join(f"{a + (b - a) * share:.0f}" for a, b in zip(one, other, strict=True)) + ")"
