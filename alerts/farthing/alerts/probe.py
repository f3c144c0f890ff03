"""Probe alerts: what the probe in an engine says of itself, beside the engine's own series, or that it is not there."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import INSTANCE_SPEND, by_instance, dashboard_url
from farthing.alerts.rules import TEAM_PLATFORM, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["probe"]

RANGE: Final = "10m"
OFF_SECONDS: Final = 300
"""Whoever sets the kill switch wants it for a moment, or has forgotten it."""
SPOOLING_SECONDS: Final = 600
"""A restart of Farthing is over by then, and what waited is delivered."""
MISSING_SECONDS: Final = 600
"""Between an engine's first answer and its probe's first record."""


def probe(settings: Settings) -> RuleGroup:
    """The alerts about the probe."""
    return RuleGroup(
        names.GROUP_PROBE_ALERTS,
        (_missing(settings), _off(settings), _spooling(settings), _dropping(settings), _erring(settings)),
    )


def _of_engines(metric: str) -> str:
    return f'{metric}{{{names.LABEL_JOB}="{names.JOB_ENGINES}"}}'


def _missing(settings: Settings) -> AlertRule:
    """An engine answers, and is on no books: its probe is configured and sends nothing.

    An engine without the probe is on the books from its first scrape, unless it has no price, of which
    FarthingEngineUnpriced tells. FarthingScrapeFailing of the engine inhibits it.
    """
    engine = names.LABEL_ENGINE
    return AlertRule(
        name="FarthingProbeMissing",
        expr=by_instance(
            f"max by ({engine}) ({names.METRIC_SCRAPE_UP}) == 1\n"
            f"unless on ({engine})\n{names.METRIC_WATERMARK_LAG}\n"
            f"unless on ({engine})\n{names.METRIC_UNPRICED}"
        ),
        for_seconds=MISSING_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="{{ $labels.engine }} answers, and nothing of its work is on the books",
        description=(
            "{{ $labels.engine }} answers its scrapes (farthing_engine_scrape_up is {{ $value }}), but the probe that "
            "it is configured to have has sent nothing for ten minutes. Nobody is charged for its work; "
            f"it costs {INSTANCE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _off(settings: Settings) -> AlertRule:
    """The kill switch is set. FarthingTargetDown of the instance inhibits it."""
    return AlertRule(
        name="FarthingProbeOff",
        expr=f"{_of_engines(names.PROBE_ON)} == 0",
        for_seconds=OFF_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="The probe in {{ $labels.instance }} is switched off",
        description=(
            "The kill switch of the probe in {{ $labels.instance }} is set ({{ $value }} processes report): what runs "
            f"meanwhile is on nobody's books. The engine costs {INSTANCE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _spooling(settings: Settings) -> AlertRule:
    """Records wait on disk. FarthingBooksStalled, and FarthingProbeDropping of the instance, inhibit it."""
    return AlertRule(
        name="FarthingProbeSpooling",
        expr=f"{_of_engines(names.PROBE_SPOOLED)} > 0",
        for_seconds=SPOOLING_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="The probe in {{ $labels.instance }} has {{ $value | humanize1024 }}B that it cannot deliver",
        description=(
            "The probe in {{ $labels.instance }} has kept records on disk for ten minutes, "
            "{{ $value | humanize1024 }}B now, because intake does not take them; when the spool is full the oldest "
            f"are lost. The engine costs {INSTANCE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _dropping(settings: Settings) -> AlertRule:
    """Records are lost for good. FarthingTargetDown of the instance inhibits it; it inhibits FarthingProbeSpooling."""
    return AlertRule(
        name="FarthingProbeDropping",
        expr=f"increase({_of_engines(names.PROBE_DROPPED)}[{RANGE}]) > 0",
        for_seconds=0,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary='The probe in {{ $labels.instance }} gave up {{ $value | printf "%.0f" }} records',
        description=(
            'The probe in {{ $labels.instance }} gave up about {{ $value | printf "%.0f" }} records in ten minutes, '
            "for want of room or because intake refused their delivery as a whole. Their cost becomes unattributed; "
            f"the engine costs {INSTANCE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _erring(settings: Settings) -> AlertRule:
    """The probe meets what it does not expect, as after an engine's upgrade. FarthingTargetDown inhibits it."""
    return AlertRule(
        name="FarthingProbeErring",
        expr=f"increase({_of_engines(names.PROBE_ERRORS)}[{RANGE}]) > 0",
        for_seconds=0,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary='The probe in {{ $labels.instance }} had {{ $value | printf "%.0f" }} exceptions',
        description=(
            'The probe in {{ $labels.instance }} caught about {{ $value | printf "%.0f" }} exceptions of its own in '
            "ten minutes. The engine serves on, but what it did then may be missing from the books; "
            f"it costs {INSTANCE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )
