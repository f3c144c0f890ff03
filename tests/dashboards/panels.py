"""The committed choice of panels, taken apart for tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from farthing.dashboards.render import render_dashboards
from farthing.settings import Settings

__all__ = ["dashboards", "expressions", "filled", "notes", "panels", "variable_queries"]


VARIABLES = ("cluster", "engine_kind", "model", "instance", "tenant", "tier", "slo", "hostname")


def dashboards(settings: Settings | None = None) -> dict[str, Any]:
    """File name -> the dashboard's JSON, parsed."""
    return {name: json.loads(text) for name, text in render_dashboards(settings or Settings()).items()}


def panels(settings: Settings | None = None) -> Iterator[dict[str, Any]]:
    """Every panel with data, of every dashboard."""
    for dashboard in dashboards(settings).values():
        yield from (panel for panel in dashboard["panels"] if panel["type"] not in {"row", "text"})


def notes() -> Iterator[dict[str, Any]]:
    """Every panel that is a text."""
    for dashboard in dashboards().values():
        yield from (panel for panel in dashboard["panels"] if panel["type"] == "text")


def expressions() -> list[tuple[str, str]]:
    """(panel title and query letter, PromQL as written) of every query."""
    return [
        (f"{panel['title']} {target['refId']}", target["expr"]) for panel in panels() for target in panel["targets"]
    ]


def variable_queries() -> list[tuple[str, str, str]]:
    """(variable, selector, label) of every variable that Prometheus fills."""
    found = []
    for dashboard in dashboards().values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert match is not None
                found.append((variable["name"], match[1], match[2]))
    return found


def filled(expr: str, window: str = "1m", **chosen: str) -> str:
    """The PromQL that Grafana sends once the variables are chosen; All where none is."""
    for name in ("$__rate_interval", "$__range"):
        expr = expr.replace(name, window)
    for name in VARIABLES:
        expr = expr.replace(f"${name}", chosen.get(name, ".*"))
    assert "$" not in expr, expr
    return expr
