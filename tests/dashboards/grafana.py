"""A Prometheus asked as Grafana asks it for a dashboard: the requests that panels and variables make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from farthing.dashboards.questions import ALL, Asked, Board, Chosen, Span, Variable, boards, default_of, filled

__all__ = ["ALL", "Answer", "Asked", "Board", "Chosen", "Span", "Store", "Variable", "boards"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What Prometheus said: series with their points."""

    expr: str
    series: tuple[tuple[Mapping[str, str], tuple[tuple[float, float], ...]], ...]
    seconds: float
    """How long it took, the request's way included."""

    def values(self) -> list[float]:
        return [value for _, points in self.series for _, value in points]


@dataclass(frozen=True)
class Store:
    """A Prometheus as Grafana's data source, for one time range."""

    url: str
    span: Span
    client: httpx.Client

    def options(self, board: Board, choices: Mapping[str, Chosen]) -> dict[str, list[str]]:
        """Variable -> what can be chosen, each seeing what is chosen of the variables before it."""
        found: dict[str, list[str]] = {}
        chosen: dict[str, Chosen] = {}
        for variable in board.variables:
            found[variable.name] = self._listed(variable, chosen, found)
            chosen[variable.name] = choices.get(variable.name, default_of(variable))
        return found

    def _listed(self, variable: Variable, chosen: Mapping[str, Chosen], options: Mapping[str, list[str]]) -> list[str]:
        if variable.kind != "query":
            return [one.strip() for one in variable.query.split(",")]
        query = filled(variable.query, chosen, options, self.span.macros(self.span.step()))
        found = re.fullmatch(r"label_values\((?:(.+),\s*)?(\w+)\)", query)
        assert found, f"variable {variable.name}: {query}"
        parameters = {"start": str(self.span.start), "end": str(self.span.end)}
        if found[1]:
            parameters["match[]"] = found[1]
        return sorted(self._get(f"label/{found[2]}/values", parameters))

    def ask(
        self, asked: Asked, board: Board, choices: Mapping[str, Chosen], options: Mapping[str, list[str]]
    ) -> Answer:
        """A panel's query with some variables chosen, the others as the dashboard opens."""
        step = self.span.step(asked.minimum, asked.points)
        expr = self.expression(asked, board, choices, options)
        if asked.instant:
            return self.query(expr, "query", {"time": repr(self.span.end)})
        # Grafana aligns a range to its step
        start, end = (at // step * step for at in (self.span.start, self.span.end))
        return self.query(expr, "query_range", {"start": repr(start), "end": repr(end), "step": repr(step)})

    def expression(
        self, asked: Asked, board: Board, choices: Mapping[str, Chosen], options: Mapping[str, list[str]]
    ) -> str:
        """What ``ask`` asks."""
        chosen = {one.name: choices.get(one.name, default_of(one)) for one in board.variables}
        return filled(asked.expr, chosen, options, self.span.macros(self.span.step(asked.minimum, asked.points)))

    def query(self, expr: str, what: str, parameters: Mapping[str, str]) -> Answer:
        """One query of Prometheus' API."""
        response = self.client.post(f"{self.url}/api/v1/{what}", data={"query": expr, **parameters})
        assert response.status_code == httpx.codes.OK, f"{expr}\n{response.text[:2_000]}"
        data = response.json()["data"]
        if data["resultType"] == "scalar":
            data = {"result": [{"metric": {}, "value": data["result"]}]}
        series = tuple(
            (one["metric"], tuple((float(at), float(value)) for at, value in one.get("values") or [one["value"]]))
            for one in data["result"]
        )
        return Answer(expr, series, response.elapsed.total_seconds())

    def _get(self, what: str, parameters: Mapping[str, str]) -> list[str]:
        response = self.client.get(f"{self.url}/api/v1/{what}", params=parameters)
        assert response.status_code == httpx.codes.OK, response.text
        return list(response.json()["data"])
