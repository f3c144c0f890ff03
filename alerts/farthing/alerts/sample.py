"""A made-up firing of an alert, as Prometheus would give it to Alertmanager: to try out the way to people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from farthing.alerts.rules import AlertRule
from farthing.domain import conventions as names

__all__ = ["SampleAlert", "sample_alert", "threshold"]

MARK: Final = "TEST: "
VALUE: Final = "a test value"
"""Stands for every number: a made-up one might be believed."""

_SAMPLES: Final[Mapping[str, str]] = {
    names.LABEL_JOB: names.JOB_ENGINES,
    names.LABEL_INSTANCE: "farthing-test:8000",
    names.LABEL_TIER: "interactive",
}
"""Labels of which a name in the form ``farthing-test-LABEL`` would not look right."""

_ACTION: Final = re.compile(r"\{\{-?((?:\"(?:\\.|[^\"\\])*\"|[^\"])*?)-?\}\}")
_LABEL: Final = re.compile(r"\$labels\.(\w+)")
_SELECTOR: Final = re.compile(r"\{(?:\"(?:\\.|[^\"\\])*\"|[^}\"])*\}")
_COMPARISON: Final = re.compile(
    r"(?P<sign>>=|<=|==|!=|>|<)\s*(?:bool\s+)?"
    r"(?:(?:on|ignoring)\s*\([^)]*\)\s*(?:group_(?:left|right)\s*(?:\([^)]*\))?\s*)?)?"
    r"(?:(?P<number>-?\d+\.?\d*(?:e[+-]?\d+)?)(?![\w.])|(?P<series>[a-z_][\w:]*+)(?!\s*\())?",
    re.IGNORECASE,
)
_QUERY: Final = re.compile(r"\bquery\b")
_BLOCKS: Final = ("with", "if", "range")


@dataclass(frozen=True, slots=True)
class SampleAlert:
    """Labels and annotations of one alert; no series of the fleet has labels like these."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def sample_alert(rule: AlertRule, test: str, labels: Mapping[str, str] | None = None) -> SampleAlert:
    """The alert as it would fire, marked as the test named ``test``; ``labels`` replace made-up ones or add to them.

    Numbers and costs are not known here: texts say so where they would stand.
    """
    texts = {"summary": rule.summary, "description": rule.description, "dashboard_url": rule.dashboard}
    wanted = {name for text in texts.values() for name in _LABEL.findall(text)}
    made_up = {name: _SAMPLES.get(name, f"farthing-test-{name}") for name in sorted(wanted)}
    document = rule.document()
    found = {"alertname": rule.name, **made_up, **document["labels"], **(labels or {}), names.LABEL_TEST: test}
    filled = {name: _filled(text, found) for name, text in texts.items()}
    return SampleAlert(
        labels=found,
        annotations={
            "summary": MARK + filled["summary"],
            "description": "This is a test; nothing is wrong. The alert would say: " + filled["description"],
            "runbook_url": rule.runbook_url,
            "dashboard_url": filled["dashboard_url"],
        },
    )


def threshold(rule: AlertRule) -> str | None:
    """The first comparison of the alert's expression, with a number or a series: ``> 0.5``. None: another, or none."""
    found = _COMPARISON.search(_SELECTOR.sub("", rule.expr))
    if found is None:
        return None
    if found["number"] is not None:
        return f"{found['sign']} {float(found['number']):.10g}"
    return f"{found['sign']} {found['series']}" if found["series"] else None


def _filled(template: str, labels: Mapping[str, str]) -> str:
    """The text with labels filled in; of a block with an alternative, what stands where nothing is known."""
    parts = _ACTION.split(template)
    pieces = [(bool(index % 2), part.strip() if index % 2 else part) for index, part in enumerate(parts)]
    return "".join(_texts(iter(pieces), labels))


def _texts(pieces: Iterator[tuple[bool, str]], labels: Mapping[str, str]) -> Iterator[str]:
    for is_action, part in pieces:
        word = part.split(maxsplit=1)[0] if is_action and part.strip() else ""
        if not is_action:
            yield part
        elif word in _BLOCKS:
            yield _block(pieces, labels)
        elif word in {"end", "else"}:
            yield f"\0{word}"
            return
        else:
            yield _value(part, labels)


def _block(pieces: Iterator[tuple[bool, str]], labels: Mapping[str, str]) -> str:
    """What a block says: its alternative, or its only text."""
    chosen = ""
    while True:
        *texts, last = _texts(pieces, labels)
        chosen = "".join(texts)
        if last != "\0else":
            return chosen


def _value(action: str, labels: Mapping[str, str]) -> str:
    found = _LABEL.search(action)
    if found is None or _QUERY.search(action):
        return VALUE
    return labels.get(found[1], "")
