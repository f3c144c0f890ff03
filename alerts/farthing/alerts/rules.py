"""Recording rules, alert rules and groups of them, as Prometheus knows them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from farthing.domain.conventions import LABEL_COMPONENT, LABEL_SEVERITY, LABEL_TEAM, RUNBOOK_BASE

__all__ = [
    "EVALUATION_SECONDS",
    "SLOW_SECONDS",
    "TEAM_FINANCE",
    "TEAM_PLATFORM",
    "TEAM_SERVING",
    "AlertRule",
    "RecordingRule",
    "Rule",
    "RuleGroup",
    "Severity",
]

Severity: TypeAlias = Literal["critical", "warning", "none"]
"""``none`` is for the alert that always fires, and says that alerts arrive."""

EVALUATION_SECONDS: Final = 5
"""How often a group is evaluated that does not say otherwise: a stall shows within seconds."""
SLOW_SECONDS: Final = 60
"""How often groups are evaluated whose expressions look back for hours: nothing in them changes within seconds."""

TEAM_SERVING: Final = "llm-serving"
"""Owner of the engines and their latency."""
TEAM_PLATFORM: Final = "platform"
"""Owner of Prometheus, Farthing and the machines."""
TEAM_FINANCE: Final = "finance"
"""Owner of budgets, and of what is spent against them."""

# Prometheus accepts more; ours are level:metric:operation and <Component><Symptom>.
_RECORD: Final = re.compile(r"^[a-z]+:[a-z0-9_]+:[a-z0-9_]+$")
_ALERT: Final = re.compile(r"^[A-Z][A-Za-z0-9]+$")


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A series recorded under ``record`` (``level:metric:operation``); ValueError for any other shape of name."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Added to every series that the expression gives."""

    def __post_init__(self) -> None:
        if not _RECORD.match(self.record):
            raise ValueError(f"recording rule {self.record!r} must be named level:metric:operation")

    def document(self) -> dict[str, Any]:
        """The rule as a mapping in the key order of Prometheus' documentation."""
        labels = {"labels": dict(self.labels)} if self.labels else {}
        return {"record": self.record, "expr": self.expr, **labels}


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alert ``<Component><Symptom>``; summary, description and dashboard may hold Prometheus templates.

    Raises ValueError when the name has another shape or a text is empty.
    """

    name: str
    expr: str
    for_seconds: int
    severity: Severity
    team: str
    """Who is told: the label that Alertmanager's routes go by."""
    component: str
    """What the alert is about: ``latency``, ``pipeline`` …"""
    summary: str
    """One line: what is wrong, where, by how much."""
    description: str
    """The number, the promise it breaks, and the cost at stake."""
    dashboard: str
    """URL of the dashboard to open first."""
    keep_firing_seconds: int = 0
    """How long it goes on firing once its expression is empty, for what it inhibits; since Prometheus 2.42."""

    def __post_init__(self) -> None:
        if not _ALERT.match(self.name):
            raise ValueError(f"alert {self.name!r} must be named ComponentSymptom in CamelCase")
        for text in (self.expr, self.team, self.component, self.summary, self.description, self.dashboard):
            if not text:
                raise ValueError(f"alert {self.name} leaves a text empty; every text is shown to whoever is paged")

    @property
    def runbook_url(self) -> str:
        """Where the alert's runbook is, computed from its name."""
        return f"{RUNBOOK_BASE}{self.name}.md"

    def document(self) -> dict[str, Any]:
        """The rule as a mapping in the key order of Prometheus' documentation."""
        labels: Mapping[str, str] = {
            LABEL_SEVERITY: self.severity,
            LABEL_TEAM: self.team,
            LABEL_COMPONENT: self.component,
        }
        annotations: Mapping[str, str] = {
            "summary": self.summary,
            "description": self.description,
            "runbook_url": self.runbook_url,
            "dashboard_url": self.dashboard,
        }
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": f"{self.for_seconds}s",
            **({"keep_firing_for": f"{self.keep_firing_seconds}s"} if self.keep_firing_seconds else {}),
            "labels": dict(labels),
            "annotations": dict(annotations),
        }


Rule: TypeAlias = RecordingRule | AlertRule


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """Rules evaluated together, in order, every ``interval_seconds``; ValueError when a name is there twice."""

    name: str
    rules: tuple[Rule, ...]
    interval_seconds: int = EVALUATION_SECONDS

    def __post_init__(self) -> None:
        defined = [
            (rule.record, tuple(sorted(rule.labels.items()))) if isinstance(rule, RecordingRule) else (rule.name, ())
            for rule in self.rules
        ]
        twice = sorted(name for (name, _), times in Counter(defined).items() if times > 1)
        if twice:
            raise ValueError(f"group {self.name} defines {twice[0]} twice")

    @property
    def alerts(self) -> tuple[AlertRule, ...]:
        """The alert rules of the group, in order."""
        return tuple(rule for rule in self.rules if isinstance(rule, AlertRule))

    @property
    def recordings(self) -> tuple[RecordingRule, ...]:
        """The recording rules of the group, in order."""
        return tuple(rule for rule in self.rules if isinstance(rule, RecordingRule))

    def document(self) -> dict[str, Any]:
        """The group as a mapping in the key order of Prometheus' documentation."""
        return {
            "name": self.name,
            "interval": f"{self.interval_seconds}s",
            "rules": [rule.document() for rule in self.rules],
        }
