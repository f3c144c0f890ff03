"""What all panels have in common: data source, colours, queries, thresholds, links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Final, TypeAlias

from farthing.dashboards.parts import Band, Link, Query
from farthing.domain import conventions as names

__all__ = [
    "BROKEN",
    "CALM",
    "CAREFUL",
    "COLOURS",
    "DATASOURCE",
    "Json",
    "colour_overrides",
    "last_value",
    "links",
    "set_values",
    "steps",
    "targets",
]

Json: TypeAlias = dict[str, Any]

DATASOURCE: Final[Mapping[str, str]] = {"type": "prometheus", "uid": "${datasource}"}
"""Whatever the dashboard's data source variable says."""
CALM, CAREFUL, BROKEN = "green", "orange", "red"
_MEANINGS: Final = {"fine": CALM, "careful": CAREFUL, "broken": BROKEN}

COLOURS: Final[Mapping[str, str]] = {
    names.PREFILL: "#5794F2",
    names.DECODE: "#73BF69",
    names.VISION: "#B877D9",
    names.CHARGED: "#73BF69",
    names.ABORTED: "#F2495C",
    names.STARTING: "#FADE2A",
    names.IDLE: "#8E8E8E",
    names.ASLEEP: "#3274D9",
    names.DRAINING: "#96D98D",
    names.DOWN: "#C4162A",
    names.UNATTRIBUTED: "#FF9830",
    names.UNALLOCATED: "#6E6E6E",
    names.UNUSED_COMMITMENT: "#A352CC",
    names.SHARED: "#37872D",
    names.FINISHED: "#73BF69",
    names.FAILED: "#C4162A",
    names.FAILED_EARLY: "#8B0000",
    names.ABORTED_EARLY: "#FF7383",
    names.REJECTED: "#FF9830",
    names.INVALID: "#8E8E8E",
    names.GOOD: "#73BF69",
    names.BAD: "#F2495C",
    "queue": "#FF9830",
}
"""Phase, account, outcome or stage -> its colour, the same on every dashboard."""


def targets(queries: Sequence[Query], *, instant: bool = False, form: str = "time_series") -> list[Json]:
    """Grafana's queries with the letters it gives them; instant ones ask for the end of the time range only.

    Raises ValueError when there are more queries than letters.
    """
    return [
        {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "exemplar": query.exemplars,
            "expr": query.expr,
            "format": form,
            "instant": instant,
            "legendFormat": query.legend,
            "range": not instant,
            "refId": letter,
        }
        for letter, query in zip(ascii_uppercase[: len(queries)], queries, strict=True)
    ]


def steps(bands: Sequence[Band], low: str = "fine") -> list[Json]:
    """Grafana's threshold steps; the first, of what is below all bands, has no start and means ``low``."""
    rest = [{"color": _MEANINGS[band.meaning], "value": band.start} for band in bands]
    return [{"color": _MEANINGS[low], "value": None}, *rest]


def colour_overrides(legends: Iterable[str], more: Mapping[str, str] | None = None) -> list[Json]:
    """Overrides that give phases, accounts and stages their colours: series named so, or named so and something.

    A phase of what was charged has the phase's colour: the last override that matches counts, so phases come last.
    ``more`` are legends of one panel and their colours.
    """
    own = [
        {
            "matcher": {"id": "byName", "options": legend},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for legend, colour in (more or {}).items()
    ]
    return own + [
        {
            "matcher": {
                "id": "byRegexp",
                "options": f"/^({names.CHARGED} )?{name}( .*)?$/" if name in names.PHASES else f"/^{name}( .*)?$/",
            },
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": COLOURS[name]}}],
        }
        for name in sorted(legends, key=names.PHASES.__contains__)
    ]


def links(chosen: Sequence[Link]) -> list[Json]:
    """Links of a panel or of its data."""
    return [{"title": link.title, "url": link.url, "targetBlank": False} for link in chosen]


def last_value() -> Json:
    """The reduction of a series to what holds now."""
    return {"calcs": ["lastNotNull"], "fields": "", "values": False}


def set_values(document: Json, without: frozenset[str] = frozenset()) -> Json:
    """The document without what is unset, and without some keys."""
    return {key: value for key, value in document.items() if value is not None and key not in without}
