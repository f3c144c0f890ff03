"""A dashboard's questions: its variables, macros and steps put into its queries, as Grafana does before it asks.

After Grafana 11: the template service's syntax (public/app/features/templating), and of its Prometheus data source the
escaping of chosen values (packages/grafana-prometheus/src/datasource.ts) and the step and rate interval
(pkg/promlib/models/query.go).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ALL", "Asked", "Board", "Chosen", "Span", "Variable", "boards", "default_of", "filled"]

ALL = "$__all"
POINTS = 1_000
"""maxDataPoints of a panel of about that many pixels."""
SAFE_POINTS = 11_000
"""More points of a series Prometheus refuses."""
_VARIABLE = re.compile(r"\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\$\{(\w+)(?:\.[^:^}]+)?(?::([^}]+))?\}")
_LEGEND = re.compile(r"\{\{\s*(.+?)\s*\}\}")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "y": 31_536_000}
# Grafana's rangeutil.roundInterval: (below so many milliseconds, this many)
_ROUNDED = (
    *((10, 1), (15, 10), (35, 20), (75, 50), (150, 100), (350, 200), (750, 500), (1_500, 1_000), (3_500, 2_000)),
    *((7_500, 5_000), (12_500, 10_000), (17_500, 15_000), (25_000, 20_000), (45_000, 30_000), (90_000, 60_000)),
    *((210_000, 120_000), (450_000, 300_000), (750_000, 600_000), (1_050_000, 900_000), (1_500_000, 1_200_000)),
    *((2_700_000, 1_800_000), (5_400_000, 3_600_000), (9_000_000, 7_200_000), (16_200_000, 10_800_000)),
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is chosen of a variable: values, or All."""

    values: tuple[str, ...]
    all_value: str | None = None
    many: bool = True
    """The variable may have several values, so that PromQL matches it by a regular expression."""

    @property
    def is_all(self) -> bool:
        return self.values == (ALL,)

    def promql(self, listed: Sequence[str], form: str | None) -> str:
        """As it stands in PromQL; ``listed`` are the variable's options, which All means where it has no value."""
        if self.is_all and self.all_value is not None:
            return self.all_value
        values = tuple(listed) if self.is_all else self.values
        if form in {"raw", "pipe"}:
            return "|".join(values)
        if form == "csv":
            return ",".join(values)
        if form == "regex":
            escaped = [re.sub(r"([\\^$*+?.()|[\]{}/])", r"\\\1", value) for value in values]
            return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
        if form is not None:
            raise LookupError(f"format {form} of a variable is not known here")
        if not self.many:
            (value,) = values
            return value.replace("\\", "\\\\").replace("'", "\\\\'")
        escaped = [re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\")) for value in values]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


@dataclass(frozen=True, slots=True)
class Span:
    """The time range of a dashboard, and how often its data source scrapes."""

    start: float
    end: float
    scrape_seconds: float

    @property
    def seconds(self) -> int:
        return round(self.end - self.start)

    def step(self, minimum: str | None = None, points: int | None = None) -> float:
        """Seconds between two points of a panel with such a min step and maxDataPoints."""
        least = max(_seconds(minimum) if minimum else self.scrape_seconds, self.seconds / SAFE_POINTS)
        return max(_rounded(self.seconds / (points or POINTS)), least)

    def macros(self, step: float) -> dict[str, str]:
        """Grafana's own variables."""
        rate = max(step + self.scrape_seconds, 4 * self.scrape_seconds)
        return {
            "__interval": _duration(step),
            "__interval_ms": str(round(step * 1_000)),
            "__rate_interval": _duration(rate),
            "__rate_interval_ms": str(round(rate * 1_000)),
            "__range": f"{self.seconds}s",
            "__range_s": str(self.seconds),
            "__range_ms": str(self.seconds * 1_000),
            "__from": str(round(self.start * 1_000)),
            "__to": str(round(self.end * 1_000)),
        }


def _seconds(duration: str) -> float:
    found = re.fullmatch(r"[<>]?(\d+(?:\.\d+)?)([a-z]+)", duration)
    if found is None:
        raise ValueError(f"{duration!r} is no duration")
    return float(found[1]) * _SECONDS[found[2]]


def _duration(seconds: float) -> str:
    return f"{round(seconds)}s" if seconds >= 1 else f"{round(seconds * 1_000)}ms"


def _rounded(seconds: float) -> float:
    milliseconds = seconds * 1_000
    return next((to for below, to in _ROUNDED if milliseconds < below), 21_600_000) / 1_000


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard."""

    name: str
    kind: str
    query: str
    all_value: str | None
    many: bool
    default: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of a panel, or of an annotation, as the dashboard has it."""

    board: str
    panel: str
    letter: str
    expr: str
    legend: str
    instant: bool
    minimum: str | None
    points: int | None
    kind: str
    keys: tuple[str, ...] = ()
    """Labels that are columns of a table."""

    @property
    def id(self) -> str:
        return f"{self.board}/{self.panel}/{self.letter}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that its legend shows."""
        return tuple(name for name in _LEGEND.findall(self.legend) if name != "__name__")

    def names(self) -> set[str]:
        """Variables that it depends on."""
        return {one for found in _VARIABLE.finditer(self.expr) for one in (found[1], found[2], found[4]) if one}


@dataclass(frozen=True)
class Board:
    """A dashboard, taken apart."""

    uid: str
    title: str
    variables: tuple[Variable, ...]
    asked: tuple[Asked, ...]
    annotations: tuple[Asked, ...] = ()

    def panels(self) -> dict[str, list[Asked]]:
        """Title -> the panel's queries."""
        found: dict[str, list[Asked]] = {}
        for one in self.asked:
            found.setdefault(one.panel, []).append(one)
        return found


def boards(texts: Mapping[str, str]) -> list[Board]:
    """Dashboards by their JSON texts."""
    return [_board(json.loads(text)) for text in texts.values()]


def _board(document: Mapping[str, Any]) -> Board:
    uid = str(document["uid"])
    listed = [_variable(one) for one in document["templating"]["list"] if one["type"] != "datasource"]
    asked = [one for panel in _panels(document["panels"]) for one in _asked(uid, panel)]
    notes = [
        Asked(
            uid, f"annotation {one['name']}", "A", one["expr"], one.get("titleFormat", ""), False, one["step"], None, ""
        )
        for one in document.get("annotations", {}).get("list", ())
        if one.get("expr")
    ]
    return Board(uid, str(document["title"]), tuple(listed), tuple(asked), tuple(notes))


def _panels(panels: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those with data, also of collapsed rows."""
    for panel in panels:
        if panel["type"] == "row":
            yield from _panels(panel.get("panels", ()))
        else:
            yield panel


def _asked(uid: str, panel: Mapping[str, Any]) -> Iterator[Asked]:
    keys: tuple[str, ...] = ()
    for transformation in panel.get("transformations", ()):
        renamed = transformation.get("options", {}).get("renameByName", {})
        keys += tuple(name for name in renamed if re.fullmatch(r"[a-z_]+", name))
    for target in panel.get("targets", ()):
        yield Asked(
            board=uid,
            panel=str(panel["title"]),
            letter=str(target["refId"]),
            expr=str(target["expr"]),
            legend=str(target.get("legendFormat", "")),
            instant=bool(target.get("instant")) and not target.get("range"),
            minimum=target.get("interval") or panel.get("interval"),
            points=panel.get("maxDataPoints"),
            kind=str(panel["type"]),
            keys=keys,
        )


def _variable(document: Mapping[str, Any]) -> Variable:
    query = document["query"]
    current = document.get("current", {}).get("value", ())
    return Variable(
        name=str(document["name"]),
        kind=str(document["type"]),
        query=str(query["query"] if isinstance(query, Mapping) else query),
        all_value=document.get("allValue"),
        many=bool(document.get("multi") or document.get("includeAll")),
        default=(current,) if isinstance(current, str) else tuple(current),
    )


def default_of(variable: Variable) -> Chosen:
    """What is chosen of a variable as its dashboard opens."""
    return Chosen(variable.default or (ALL,), variable.all_value, variable.many)


def filled(
    text: str, chosen: Mapping[str, Chosen], options: Mapping[str, Sequence[str]], macros: Mapping[str, str]
) -> str:
    """Text with its variables and macros put in; LookupError for one that nobody knows."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[4]
        if name in macros:
            return macros[name]
        if name not in chosen:
            raise LookupError(f"no variable {name} in {text}")
        return chosen[name].promql(options.get(name, ()), found[3] or found[5])

    return _VARIABLE.sub(value, text)
