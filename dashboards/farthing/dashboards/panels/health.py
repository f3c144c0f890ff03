"""Panels about health at first sight: alerts that fire, requests that were served, promises that are kept."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import health_queries as health
from farthing.dashboards import theme
from farthing.dashboards.links import of_cell, runbook, to_dashboard
from farthing.dashboards.parts import Band, Column, Link, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["alerts", "alerts_firing", "error_budget", "not_served", "served"]

_SLOS: Final = to_dashboard(names.DASHBOARD_SLO, "SLOs and error budgets")
_LATENCY: Final = to_dashboard(names.DASHBOARD_LATENCY, "Latency anatomy")


def alerts_firing() -> Panel:
    """How many alerts fire."""
    return theme.number(
        "Alerts firing",
        "Alerts that fire now, critical and warning, of the whole fleet whatever is chosen. Not 0: the list below "
        "leads to what to do. Unknown: even the watchdog that always fires is missing, so no rule is evaluated; see "
        "the runbook of FarthingWatchdog.",
        "none",
        [Query(health.alerts_firing())],
        bands=(Band(1, "broken"),),
        panel_links=(runbook("FarthingWatchdog"),),
    )


def alerts() -> Panel:
    """Which alerts fire, and of what."""
    keys = {
        "alertname": "Alert",
        names.LABEL_SEVERITY: "Severity",
        names.LABEL_MODEL: "Model",
        names.LABEL_INSTANCE: "Instance",
        names.LABEL_ENGINE: "Engine",
    }
    return theme.listing(
        "Which alerts fire?",
        "One line an alert and what it is about; click its name for the runbook, the model for where its time goes, "
        "the engine for how it works. Start with the critical ones: others often follow from them. Empty: none fires.",
        keys,
        (Column("Firing", "none", health.alerts(tuple(keys))),),
        row_links={
            "alertname": Link("What to do", f"{names.RUNBOOK_BASE}${{__value.raw}}.md"),
            names.LABEL_MODEL: of_cell(names.DASHBOARD_LATENCY, "Where its time goes", "model"),
            names.LABEL_INSTANCE: of_cell(names.DASHBOARD_ENGINE, "How it works", "instance"),
            names.LABEL_ENGINE: of_cell(names.DASHBOARD_ENGINE, "How it works", "instance"),
        },
        footer=False,
    )


def served(settings: Settings) -> Panel:
    """What part of requests was served."""
    failed = settings.alerts.failed_ratio
    return theme.number(
        "Requests served, in range",
        "Finished requests, of those that ought to be: without those given up while they were answered and those "
        "refused for their own fault, with those given up before a first token. Red below the alerts' limit: see why "
        "beside the alerts below. Unknown: no engine has the probe, or there were no requests.",
        "percentunit",
        [Query(health.served())],
        bands=(Band(1 - failed, "careful"), Band(1 - failed / 2, "fine")),
        low="broken",
        decimals=2,
        panel_links=(_SLOS, runbook("LLMServerErrorsHigh")),
    )


def error_budget() -> Panel:
    """Of which promise the least error budget is left."""
    return theme.number(
        "Least error budget left",
        "What is left of the error budget that is used up most, over its own window, of the chosen models. Below 0 the "
        "promise is broken: nothing that may make it worse is to be released; see the SLOs' dashboard for which one it "
        "is. Unknown: nothing is promised, or Prometheus is younger than five minutes.",
        "percentunit",
        [Query(health.least_budget())],
        bands=(Band(0, "careful"), Band(0.25, "fine")),
        low="broken",
        decimals=1,
        panel_links=(_SLOS, runbook("SLOErrorBudgetBurningFast")),
    )


def not_served(settings: Settings) -> Panel:
    """Which part of requests was not served, by why."""
    return theme.over_time(
        "Error rate, by how requests ended",
        "Share of requests that ended otherwise than finished; the dashed line is the alerts' limit for failures. "
        "Failed: the engine or the server; see LLMServerErrorsHigh. Rejected: no room; add engines. Aborted: clients "
        "hang up; compare their time-outs with latency. Failed in engines counts those without a probe too.",
        "percentunit",
        [
            Query(health.not_finished(), "{{outcome}}"),
            Query(health.failed_in_engines(), "failed in engines"),
        ],
        bands=(Band(settings.alerts.failed_ratio, "broken"),),
        panel_links=(_SLOS, _LATENCY, runbook("LLMServerErrorsHigh"), runbook("LLMRequestsFailing")),
    )
