"""Error alerts: requests fail, or their clients give up.

Shares of requests, with a floor of requests that went wrong, so that one failure of a quiet night wakes nobody.
"""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import MODEL_SPEND, dashboard_url, percent_text
from farthing.alerts.rules import TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.promql.scope import FLEET
from farthing.promql.serving import ended_in, engine_share, mean_rate, outcome_share
from farthing.settings import Settings

__all__ = ["MINIMUM_REQUESTS", "errors", "share_of_rates"]

MINIMUM_REQUESTS: Final = 5
"""Requests that must have gone wrong within the range: fewer are single cases, whatever their share."""
LASTING_SECONDS: Final = 60
ENGINE_RANGE: Final = "5m"
ENGINE_RANGE_SECONDS: Final = 300
EDGE_RANGE: Final = "10m"
"""Of Farthing's counters, which grow as records arrive."""


def errors(settings: Settings) -> RuleGroup:
    """The error alerts; thresholds from ``settings.alerts``."""
    return RuleGroup(
        names.GROUP_ERROR_ALERTS,
        (_requests_failing(settings), _server_errors_high(settings), _requests_aborted(settings)),
    )


def share_of_rates(record: str, ratio: float) -> str:
    """By model: the part of ``record`` in it and the finished requests of five minutes, beyond ``ratio``.

    Without a series of ``record`` the alert is silent.
    """
    return (
        f"{engine_share(FLEET, ENGINE_RANGE, record)}\n> {ratio!r}\n"
        f"and\n{mean_rate(FLEET, ENGINE_RANGE, record)} * {ENGINE_RANGE_SECONDS} >= {MINIMUM_REQUESTS}"
    )


def _share_of_outcomes(outcomes: tuple[str, str], ratio: float) -> str:
    """By model: the part of requests that ended in one of these ways, beyond ``ratio``."""
    return (
        f"{outcome_share(FLEET, EDGE_RANGE, outcomes)}\n> {ratio!r}\n"
        f"and\n{ended_in(FLEET, EDGE_RANGE, outcomes)} >= {MINIMUM_REQUESTS}"
    )


def _requests_failing(settings: Settings) -> AlertRule:
    """The engine ends requests with an error. Nothing inhibits it; it inhibits LLMServerErrorsHigh of the model."""
    return AlertRule(
        name="LLMRequestsFailing",
        expr=share_of_rates(names.REC_FAILED_RATE, settings.alerts.failed_ratio),
        for_seconds=LASTING_SECONDS,
        severity="critical",
        team=TEAM_SERVING,
        component="errors",
        summary="{{ $labels.model }}: {{ $value | humanizePercentage }} of requests fail in the engine",
        description=(
            "{{ $value | humanizePercentage }} of the requests to {{ $labels.model }} ended with an error in the "
            f"engine over the last five minutes; accepted are {percent_text(settings.alerts.failed_ratio)}. "
            f"The engines of this model cost {MODEL_SPEND} while it lasts."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FLEET, by_model=True),
    )


def _server_errors_high(settings: Settings) -> AlertRule:
    """Clients get 5xx, as the probe at the engine's edge sees it. LLMRequestsFailing of the model inhibits it."""
    return AlertRule(
        name="LLMServerErrorsHigh",
        expr=_share_of_outcomes((names.FAILED, names.FAILED_EARLY), settings.alerts.failed_ratio),
        for_seconds=LASTING_SECONDS,
        severity="critical",
        team=TEAM_SERVING,
        component="errors",
        summary="{{ $labels.model }}: {{ $value | humanizePercentage }} of requests get a server error",
        description=(
            "{{ $value | humanizePercentage }} of the requests to {{ $labels.model }} were answered with a server "
            f"error over the last ten minutes; accepted are {percent_text(settings.alerts.failed_ratio)}. "
            f"The engines of this model cost {MODEL_SPEND} while it lasts."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FLEET, by_model=True),
    )


def _requests_aborted(settings: Settings) -> AlertRule:
    """Clients hang up, and what was computed for them is paid for. LLMTimeToFirstTokenHigh of the model inhibits it."""
    return AlertRule(
        name="LLMRequestsAborted",
        expr=_share_of_outcomes((names.ABORTED, names.ABORTED_EARLY), settings.alerts.aborted_ratio),
        for_seconds=LASTING_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="errors",
        summary="{{ $labels.model }}: clients hang up on {{ $value | humanizePercentage }} of requests",
        description=(
            "Clients gave up {{ $value | humanizePercentage }} of their requests to {{ $labels.model }} over the last "
            f"ten minutes; usual is less than {percent_text(settings.alerts.aborted_ratio)}. What was computed for "
            f"them is paid for: the engines of this model cost {MODEL_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FLEET, by_model=True),
    )
