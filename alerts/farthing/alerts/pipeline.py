"""Pipeline alerts: what Farthing and Prometheus themselves need in order to see."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import ENGINE_SPEND, FLEET_SPEND, by_instance, dashboard_url, seconds_text
from farthing.alerts.rules import TEAM_PLATFORM, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["TARGET_DOWN", "pipeline"]

TARGET_DOWN: Final = "FarthingTargetDown"
DOWN_SECONDS: Final = 60
"""How long a target may miss its scrapes: a restart of Farthing, or of an engine behind a rollout, is shorter."""
LASTING_SECONDS: Final = 60
ABSENT_SECONDS: Final = 300
RED_SECONDS: Final = 300
"""A check may be red between a record's arrival and its counterpart's."""
SKEW_SECONDS: Final = 3600
"""A rollout is over by then."""
INTAKE_RANGE: Final = "10m"
LIMITED_SECONDS: Final = 300
"""Senders that were away deliver what they kept, faster than is allowed: for minutes that is as it should be."""
AUTH_FAILURES: Final = 20
"""Callers turned away in ten minutes: somebody who mistypes a token, or a page left open with an old one, is fewer; a
sender or a scrape with a wrong one is more, and so is a guess."""
AUTH_SECONDS: Final = 300
"""A change of tokens reaches all that use them within minutes."""
AUDIT_SECONDS: Final = 300
"""Whoever held the trail before a restart may take so long to end."""
TOLD_BY_OTHERS: Final = (names.CHECK_RESIDUAL, names.CHECK_UNATTRIBUTED, names.CHECK_PRICED)
"""Checks of which FarthingResidualNotZero, FarthingUnattributedHigh and FarthingEngineUnpriced tell."""


def pipeline(settings: Settings) -> RuleGroup:
    """The alerts about the pipeline itself; thresholds from ``settings.alerts``."""
    return RuleGroup(
        names.GROUP_PIPELINE_ALERTS,
        (
            _target_down(settings),
            _absent(settings),
            _scrape_failing(settings),
            _watermark_stale(settings),
            _books_stalled(settings),
            _intake_refusing(settings),
            _intake_limiting(settings),
            _auth_failing(settings),
            _audit_failing(settings),
            _reconciliation_red(settings),
            _version_skew(settings),
        ),
    )


def _target_down(settings: Settings) -> AlertRule:
    """A target of Prometheus does not answer. Nothing inhibits it; it inhibits warnings of the same instance."""
    # `up` is 0 by definition here, so the number worth telling is how much of the job is dark.
    down = f'printf "count(up{{{names.LABEL_JOB}=%q}} == 0)" $labels.job | query | first | value'
    known = f'printf "count(up{{{names.LABEL_JOB}=%q}})" $labels.job | query | first | value'
    return AlertRule(
        name=TARGET_DOWN,
        expr=f'up{{{names.LABEL_JOB}=~"{names.JOB_ENGINES}|{names.JOB_FARTHING}"}} == 0',
        for_seconds=DOWN_SECONDS,
        severity="critical",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="{{ $labels.job }} target {{ $labels.instance }} does not answer its scrapes",
        description=(
            f"{{{{ {down} }}}} of {{{{ {known} }}}} {{{{ $labels.job }}}} targets are down, "
            "{{ $labels.instance }} for a minute or longer. What it serves and costs meanwhile is not seen; "
            f"the fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _absent(settings: Settings) -> AlertRule:
    """Prometheus knows no Farthing at all, so that no cost alert can fire. Nothing inhibits it."""
    count = '{{ with query "count(up)" }}{{ . | first | value }}{{ else }}no{{ end }}'
    return AlertRule(
        name="FarthingAbsent",
        expr=f'absent(up{{{names.LABEL_JOB}="{names.JOB_FARTHING}"}})',
        for_seconds=ABSENT_SECONDS,
        severity="critical",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="Prometheus scrapes no {{ $labels.job }}",
        description=(
            f"Prometheus has {count} targets, count(up), and none with the job {{{{ $labels.job }}}}: no cost is seen "
            f"and no alert about it can fire. The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _scrape_failing(settings: Settings) -> AlertRule:
    """Farthing cannot read an engine. FarthingTargetDown of it inhibits this; it inhibits what follows from it."""
    return AlertRule(
        name="FarthingScrapeFailing",
        expr=by_instance(f"max by ({names.LABEL_ENGINE}) ({names.METRIC_SCRAPE_UP}) == 0"),
        for_seconds=LASTING_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="Farthing cannot scrape {{ $labels.engine }}",
        description=(
            "Farthing's scrapes of {{ $labels.engine }} have failed for a minute (farthing_engine_scrape_up is "
            f"{{{{ $value }}}}). Without the probe its work is not costed meanwhile. The engine costs {ENGINE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _watermark_stale(settings: Settings) -> AlertRule:
    """An engine's books are behind. FarthingTargetDown, FarthingScrapeFailing and FarthingBooksStalled inhibit it."""
    lag = settings.alerts.watermark_lag_seconds
    return AlertRule(
        name="FarthingWatermarkStale",
        expr=by_instance(f"max by ({names.LABEL_ENGINE}) ({names.METRIC_WATERMARK_LAG}) > {lag!r}"),
        for_seconds=LASTING_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="The books of {{ $labels.engine }} are {{ $value | humanizeDuration }} behind",
        description=(
            "What {{ $labels.engine }} did in the last {{ $value | humanizeDuration }} is not known; usual is less "
            f"than {seconds_text(lag)}. The engine costs {ENGINE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _books_stalled(settings: Settings) -> AlertRule:
    """Every engine's books stand still although engines answer: the ledger is not written, or nothing reaches intake.

    Nothing inhibits it; it inhibits FarthingWatermarkStale and FarthingProbeSpooling, which follow from it.
    """
    lag = settings.alerts.watermark_lag_seconds
    return AlertRule(
        name="FarthingBooksStalled",
        expr=f"min({names.METRIC_WATERMARK_LAG}) > {lag!r}\nand\nmax({names.METRIC_SCRAPE_UP}) == 1",
        for_seconds=LASTING_SECONDS,
        severity="critical",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="No engine's books have moved for {{ $value | humanizeDuration }}",
        description=(
            "Engines answer, and no engine's books have moved for {{ $value | humanizeDuration }}: the ledger is not "
            f"written, or no record arrives. What is done is not costed; the fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _intake(result: str) -> str:
    increase = f'increase({names.METRIC_INTAKE}{{{names.LABEL_RESULT}="{result}"}}[{INTAKE_RANGE}])'
    return f"sum by ({names.LABEL_KIND}) ({increase}) > 0"


def _intake_refusing(settings: Settings) -> AlertRule:
    """Intake refuses records, each of which may have been work. Nothing inhibits it."""
    return AlertRule(
        name="FarthingIntakeRefusing",
        expr=_intake("refused"),
        for_seconds=0,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary='Intake refused {{ $value | printf "%.0f" }} records of kind {{ $labels.kind }}',
        description=(
            'Intake refused about {{ $value | printf "%.0f" }} records of kind {{ $labels.kind }} in ten minutes: what '
            f"they tell of is on nobody's books. The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _intake_limiting(settings: Settings) -> AlertRule:
    """Intake tells senders to come later, and goes on to. Nothing inhibits it."""
    return AlertRule(
        name="FarthingIntakeLimiting",
        expr=_intake("limited"),
        for_seconds=LIMITED_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary='Intake turned {{ $value | printf "%.0f" }} deliveries away for now',
        description=(
            'Intake told senders {{ $value | printf "%.0f" }} times in ten minutes to come later ({{ $labels.kind }}): '
            f"their records wait, and costs come late. The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _auth_failing(settings: Settings) -> AlertRule:
    """Callers go on to be turned away: something has a wrong token, or somebody guesses. Nothing inhibits it."""
    increase = f"increase({names.METRIC_AUTH_FAILURES}[{INTAKE_RANGE}])"
    return AlertRule(
        name="FarthingAuthFailing",
        expr=f"sum by ({names.LABEL_REASON}) ({increase}) > {AUTH_FAILURES}",
        for_seconds=AUTH_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary='Farthing turned {{ $value | printf "%.0f" }} callers away ({{ $labels.reason }})',
        description=(
            'Farthing turned callers away about {{ $value | printf "%.0f" }} times in ten minutes '
            "({{ $labels.reason }}): something has a wrong token and what it delivers or reads is missing, or somebody "
            f"tries tokens. The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _audit_failing(settings: Settings) -> AlertRule:
    """The audit trail cannot be written. Nothing is lost while the ledger keeps requests. Nothing inhibits it."""
    return AlertRule(
        name="FarthingAuditFailing",
        expr=f"increase({names.METRIC_AUDIT_FAILURES}[{INTAKE_RANGE}]) > 0\nand\n{names.METRIC_AUDIT_UP} == 0",
        for_seconds=AUDIT_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="The audit trail of {{ $labels.instance }} is not written",
        description=(
            "Farthing at {{ $labels.instance }} could not write its audit trail about "
            '{{ $value | printf "%.0f" }} times in ten minutes: the disk is full or away, another process writes it, '
            "or what is there was altered; its log says which. Requests are served, costed and kept in the ledger, and "
            f"are written once it can be. The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _reconciliation_red(settings: Settings) -> AlertRule:
    """A check that no alert of its own tells of disagrees. FarthingTargetDown of the engine inhibits it."""
    check = f'{{{names.LABEL_CHECK}!~"{"|".join(TOLD_BY_OTHERS)}"}}'
    return AlertRule(
        name="FarthingReconciliationRed",
        expr=by_instance(f"min by ({names.LABEL_ENGINE}, {names.LABEL_CHECK}) ({names.METRIC_CHECK}{check}) == 0"),
        for_seconds=RED_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="{{ $labels.engine }}: check {{ $labels.check }} is red",
        description=(
            "The books of {{ $labels.engine }} and what else is known of it disagree: {{ $labels.check }} is "
            f"{{{{ $value }}}}, and 1 when all is well. Its costs may be wrong; the engine costs {ENGINE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _version_skew(settings: Settings) -> AlertRule:
    """Farthings of several versions run beside each other. Nothing inhibits it."""
    return AlertRule(
        name="FarthingVersionSkew",
        expr=f"count(count by ({names.LABEL_VERSION}) ({names.METRIC_BUILD})) > 1",
        for_seconds=SKEW_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="pipeline",
        summary="Farthing runs in {{ $value }} versions",
        description=(
            "Farthing has run in {{ $value }} versions for an hour; the older may refuse the records of a newer probe, "
            f"and a newer one's ledger. The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )
