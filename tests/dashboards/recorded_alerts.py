"""The alerts of our rules over the past of a Prometheus, as the series that Prometheus itself keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.alerts.live_prometheus import Prometheus
from tests.dashboards.recorded_rules import EVALUATION_SECONDS

from farthing.alerts.rules import AlertRule

__all__ = ["alerts_text"]


def alerts_text(server: Prometheus, rules: Iterable[AlertRule], span: tuple[int, int]) -> Iterator[str]:
    """``ALERTS`` as lines of OpenMetrics, evaluated once a minute.

    Prometheus, rules/alerting.go: pending since the first of an unbroken run of evaluations, firing after ``for``.
    """
    start, end = span
    for rule in rules:
        given = {"start": str(start), "end": str(end), "step": str(EVALUATION_SECONDS)}
        labels = dict(rule.document()["labels"]) | {"alertname": rule.name}
        for series in server.get("query_range", query=rule.expr, **given)["result"]:
            own = {**{name: value for name, value in series["metric"].items() if name != "__name__"}, **labels}
            yield from _states(own, [int(at) for at, _ in series["values"]], rule.for_seconds)


def _states(labels: dict[str, str], moments: list[int], for_seconds: int) -> Iterator[str]:
    since = before = None
    for at in moments:
        if since is None or before is None or at - before > EVALUATION_SECONDS:
            since = at
        before = at
        state = "firing" if at - since >= for_seconds else "pending"
        inside = ",".join(f'{name}="{value}"' for name, value in sorted((labels | {"alertstate": state}).items()))
        yield f"ALERTS{{{inside}}} 1 {at}\n"
