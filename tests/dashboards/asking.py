"""Asking all that dashboards ask, and what is wrong with an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice, product

from tests.alerts.promql import read
from tests.dashboards.grafana import Answer, Asked, Board, Chosen, Store, Variable

from farthing.domain import conventions as names

__all__ = ["all_expressions", "choices_of", "complaints", "names_in", "wrong_labels"]

_NAME = re.compile(r"[a-zA-Z_:][\w:]*")
LATE_SECONDS = 600
"""A line that is to be read now has a point within so long before the end of its range."""
TRIED = 24
"""How many choices of the rest are tried for each engine."""


def all_expressions(boards: Iterable[Board]) -> list[str]:
    """The PromQL of every panel, annotation and variable, as written."""
    found: list[str] = []
    for board in boards:
        found += [one.expr for one in (*board.asked, *board.annotations)]
        found += [variable.query for variable in board.variables if variable.kind == "query"]
    return found


def names_in(expressions: Iterable[str]) -> frozenset[str]:
    """Whatever could be a metric's name."""
    return frozenset(name for expr in expressions for name in _NAME.findall(expr))


def complaints(asked: Asked, answer: Answer, known: Collection[str], end: float, *, zero: bool = False) -> list[str]:
    """What is wrong with an answer, in words; ``known`` are the names of all series there are.

    ``zero``: the truth is 0, and nothing else is expected.
    """
    found = [f"no series {name}" for name in sorted({use.metric for use in read(answer.expr).uses} - set(known))]
    values = answer.values()
    if not values:
        return [*found, "no data"]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        found.append("only NaN or infinite")
    elif any(finite) and zero:
        found.append("not 0, as is told of it")
    elif not any(finite) and not zero:
        found.append("0 all the time")
    seen = {name for labels, _ in answer.series for name in labels}
    found += [f"no label {name}" for name in asked.labels if name not in seen]
    if not asked.instant and max(at for _, points in answer.series for at, _ in points) < end - LATE_SECONDS:
        found.append("nothing of late")
    return found


def choices_of(store: Store, board: Board, asked: Collection[Asked]) -> Iterator[dict[str, Chosen]]:
    """One value chosen of each variable that queries depend on, as they go together: an engine of each model first."""
    named = {name for one in asked for name in one.names()}
    variables = {one.name: one for one in board.variables if one.name in named}
    seen = []
    for engine in _engines(store):
        fixed = _chosen({name: value for name, value in engine.items() if name in variables}, variables)
        options = store.options(board, fixed)
        free = {name: values for name, values in options.items() if name in variables and name not in fixed and values}
        for values in islice(product(*free.values()), TRIED):
            choices = fixed | _chosen(dict(zip(free, values, strict=True)), variables)
            if choices not in seen:
                seen.append(choices)
                yield choices


def _chosen(values: Mapping[str, str], variables: Mapping[str, Variable]) -> dict[str, Chosen]:
    return {name: Chosen((value,), variables[name].all_value, variables[name].many) for name, value in values.items()}


def _engines(store: Store) -> list[dict[str, str]]:
    """Kind, model, instance and host of every engine, the first of each model before all others."""
    moment = {"time": repr(store.span.end)}
    labels = ("engine_kind", "model", "instance")
    info = store.query(f"group by ({', '.join(labels)}) ({names.REC_ENGINE})", "query", moment)
    devices = store.query(f"group by (engine, hostname) ({names.METRIC_GPU_ENGINE})", "query", moment)
    hosts = {found["engine"]: {"hostname": found["hostname"]} for found, _ in devices.series}
    engines = sorted(({**found, **hosts.get(found["instance"], {})} for found, _ in info.series), key=_recorded_first)
    firsts = {(one["engine_kind"], one["model"]): one for one in reversed(engines)}.values()
    return [*sorted(firsts, key=_recorded_first), *(one for one in engines if one not in firsts)]


def _recorded_first(engine: Mapping[str, str]) -> tuple[bool, str]:
    return "hostname" not in engine, engine["instance"]


def wrong_labels(answer: Answer, choices: Mapping[str, Chosen], labels: Mapping[str, str]) -> list[str]:
    """Series of others than were chosen; ``labels``: variable -> the label that it chooses."""
    found = []
    for name, choice in choices.items():
        label = labels.get(name, name)
        others = {series[label] for series, _ in answer.series if label in series} - set(choice.values)
        found += [f"{label} {other} beside {choice.values[0]}" for other in sorted(others)]
    return found
