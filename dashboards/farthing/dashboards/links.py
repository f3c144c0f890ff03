"""Where panels and cells lead: to another dashboard with the same choices and time range, to an alert's runbook."""

from __future__ import annotations

from typing import Final

from farthing.dashboards.parts import Link
from farthing.domain.conventions import RUNBOOK_BASE

__all__ = ["of_cell", "runbook", "to_dashboard"]

_KEPT: Final = "${__url_time_range}"
_CHOICES: Final = "${__all_variables}"
"""Every choice as ``var-name=value``; a dashboard passes over those that it does not know."""
_CELL: Final = "${__value.raw}"


def to_dashboard(uid: str, title: str) -> Link:
    """A panel's link to another dashboard, with the reader's choices and time range."""
    return Link(title, f"/d/{uid}?{_KEPT}&{_CHOICES}")


def of_cell(uid: str, title: str, variable: str) -> Link:
    """A cell's link to another dashboard, whose ``variable`` is the cell's text."""
    return Link(title, f"/d/{uid}?{_KEPT}&${{datasource:queryparam}}&var-{variable}={_CELL}")


def runbook(alert: str) -> Link:
    """What to do when the alert fires."""
    return Link(f"Runbook: {alert}", f"{RUNBOOK_BASE}{alert}.md")
