"""All dashboards as the files that Grafana provisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from farthing.dashboards.batch import batch_jobs
from farthing.dashboards.economics import token_economics
from farthing.dashboards.engine import engines
from farthing.dashboards.fleet import fleet
from farthing.dashboards.gpus import gpus_and_energy
from farthing.dashboards.itself import itself
from farthing.dashboards.latency import latency
from farthing.dashboards.slo import slo
from farthing.dashboards.tenants import tenants
from farthing.domain.conventions import (
    DASHBOARD_BATCH,
    DASHBOARD_ECONOMICS,
    DASHBOARD_ENGINE,
    DASHBOARD_FARTHING,
    DASHBOARD_FLEET,
    DASHBOARD_GPUS,
    DASHBOARD_LATENCY,
    DASHBOARD_SLO,
    DASHBOARD_TENANTS,
)
from farthing.settings import Settings

__all__ = ["DASHBOARDS", "render_dashboards"]

DASHBOARDS: Final[tuple[tuple[str, Callable[[Settings], str]], ...]] = (
    (DASHBOARD_FLEET, fleet),
    (DASHBOARD_ECONOMICS, token_economics),
    (DASHBOARD_TENANTS, tenants),
    (DASHBOARD_SLO, slo),
    (DASHBOARD_LATENCY, latency),
    (DASHBOARD_FARTHING, itself),
    (DASHBOARD_GPUS, gpus_and_energy),
    (DASHBOARD_ENGINE, engines),
    (DASHBOARD_BATCH, batch_jobs),
)
"""UID and maker of every dashboard; a new one is added here."""


def render_dashboards(settings: Settings) -> dict[str, str]:
    """File name -> JSON text of each dashboard."""
    return {f"{uid}.json": make(settings) for uid, make in DASHBOARDS}
