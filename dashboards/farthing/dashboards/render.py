"""All dashboards as the files that Grafana provisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from farthing.dashboards.fleet import fleet
from farthing.domain.conventions import DASHBOARD_FLEET
from farthing.settings import Settings

__all__ = ["DASHBOARDS", "render_dashboards"]

DASHBOARDS: Final[tuple[tuple[str, Callable[[Settings], str]], ...]] = ((DASHBOARD_FLEET, fleet),)
"""UID and maker of every dashboard; a new one is added here."""


def render_dashboards(settings: Settings) -> dict[str, str]:
    """File name -> JSON text of each dashboard."""
    return {f"{uid}.json": make(settings) for uid, make in DASHBOARDS}
