"""All rule groups as the files that Prometheus loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from farthing.alerts.cache import cache
from farthing.alerts.coldstart import cold_start
from farthing.alerts.cost import cost
from farthing.alerts.deadman import deadman
from farthing.alerts.documents import to_yaml
from farthing.alerts.efficiency import efficiency
from farthing.alerts.errors import errors
from farthing.alerts.gpu import gpu
from farthing.alerts.gpu_hardware import gpu_hardware
from farthing.alerts.gpu_signals import gpu_vocabulary
from farthing.alerts.latency import latency
from farthing.alerts.pipeline import pipeline
from farthing.alerts.probe import probe
from farthing.alerts.rules import EVALUATION_SECONDS, AlertRule, RuleGroup
from farthing.alerts.saturation import saturation
from farthing.alerts.signals import details, vocabulary
from farthing.alerts.slo import slo, slo_budget
from farthing.alerts.spend import spend
from farthing.alerts.stalled import stalled
from farthing.settings import Settings

__all__ = ["FAMILIES", "alert_rules", "render_rules", "rule_groups"]

FAMILIES: Final[tuple[Callable[[Settings], RuleGroup], ...]] = (
    vocabulary,
    details,
    gpu_vocabulary,
    efficiency,
    slo,
    slo_budget,
    latency,
    errors,
    stalled,
    saturation,
    spend,
    cost,
    cache,
    gpu,
    gpu_hardware,
    cold_start,
    pipeline,
    probe,
    deadman,
)
"""Every family of rules; a new one is added here."""


def rule_groups(settings: Settings) -> tuple[RuleGroup, ...]:
    """Every rule group, in the order of FAMILIES; those of the default interval follow the settings."""
    return tuple(_timed(family(settings), settings.alerts.evaluation_seconds) for family in FAMILIES)


def alert_rules(settings: Settings) -> tuple[AlertRule, ...]:
    """Every alert rule, in the order of FAMILIES."""
    return tuple(alert for group in rule_groups(settings) for alert in group.alerts)


def render_rules(settings: Settings) -> dict[str, str]:
    """File name -> YAML text of one Prometheus rule file per group."""
    return {f"{group.name}.yml": to_yaml({"groups": [group.document()]}) for group in rule_groups(settings)}


def _timed(group: RuleGroup, seconds: int) -> RuleGroup:
    return replace(group, interval_seconds=seconds) if group.interval_seconds == EVALUATION_SECONDS else group
