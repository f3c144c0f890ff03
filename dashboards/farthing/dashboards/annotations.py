"""What is marked on the graphs of every dashboard: alerts, restarts of engines, changes of prices."""

from __future__ import annotations

from typing import Final

from farthing.dashboards.parts import Annotation
from farthing.dashboards.scopes import BOOKS, ENGINES, INSTANCES
from farthing.domain import conventions as names

__all__ = ["ANNOTATIONS"]

_OF_ENGINES: Final = frozenset({"cluster", "engine_kind", "model", "instance"})

ANNOTATIONS: Final = (
    Annotation(
        "Alerts",
        BOOKS.now("ALERTS", 'alertstate="firing"', f'{names.LABEL_SEVERITY}=~"critical|warning"'),
        "{{alertname}}",
        "{{severity}} {{instance}} {{model}} {{engine}} {{tenant}}",
        "red",
        frozenset({"cluster"}),
    ),
    Annotation(
        "Restarts",
        f"({INSTANCES.now(names.REC_RESETS)}) > 0",
        "{{instance}} restarted",
        "{{model}}: its counters began anew",
        "purple",
        _OF_ENGINES,
    ),
    Annotation(
        "Price changes",
        f"({ENGINES.over('changes', '2m', names.METRIC_PRICE)}) > 0",
        "{{engine}}: another price",
        "{{gpu}}",
        "yellow",
        _OF_ENGINES,
    ),
)
