"""Panels about energy: how much, for what, at which efficiency, and what it costs and emits."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import gpu_queries, theme
from farthing.dashboards.links import to_dashboard
from farthing.dashboards.parts import Panel, Query
from farthing.domain import conventions as names

__all__ = ["carbon", "energy", "energy_by_account", "energy_cost", "energy_per_token", "tokens_per_joule"]

USD: Final = "currencyUSD"
SETTLING_STEP: Final = "30s"
"""Windows of 5 s settle in lumps: a rate over fewer than some six of them is a saw."""


def energy() -> Panel:
    """Joules of the engines' GPUs in the time range."""
    return theme.number(
        "Energy, in range",
        "What the GPUs of the chosen engines took within the time range, by the driver's counter or, where it has "
        "none, power times time. Unknown: nothing reads their devices; run an agent on their host.",
        "joule",
        [Query(gpu_queries.energy_in_range(names.METRIC_ENERGY))],
        decimals=1,
    )


def energy_cost() -> Panel:
    """What that energy costs."""
    return theme.number(
        "Energy cost, in range",
        "That energy, with the building's share (PUE), at the tariff in farthing.yaml. Of rented GPUs it is in their "
        "price already. Unknown: no tariff is set (gpus.energy_usd_per_kwh).",
        USD,
        [Query(gpu_queries.energy_in_range(names.METRIC_ENERGY_COST))],
        decimals=2,
        panel_links=(to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics"),),
    )


def carbon() -> Panel:
    """What that energy emits."""
    return theme.number(
        "Carbon dioxide, in range",
        "Grams of carbon dioxide equivalent of that energy, with the building's share, at the grid's intensity. To "
        "lower it: fewer idle engines, or a host in a cleaner grid. Unknown: no intensity is set "
        "(gpus.carbon_g_per_kwh).",
        "massg",
        [Query(gpu_queries.energy_in_range(names.METRIC_CARBON))],
        decimals=1,
    )


def tokens_per_joule() -> Panel:
    """Tokens per joule of all energy."""
    return theme.over_time(
        "Tokens per joule (tokens a second per watt)",
        "Tokens by all energy that the engines took, idle included. Falling at steady traffic: batches have become "
        "smaller, or an engine stands by; more company per engine raises it most.",
        "suffix: tok/J",
        [
            Query(gpu_queries.tokens_per_joule(names.TOKEN_OUTPUT), "output"),
            Query(gpu_queries.tokens_per_joule(names.TOKEN_PROMPT_COMPUTED), "computed prompt"),
        ],
        min_step=SETTLING_STEP,
    )


def energy_per_token() -> Panel:
    """Joules per token by phase."""
    return theme.over_time(
        "Energy per token, by phase",
        "Joules of each phase by its tokens, of work settled lately: prefill per computed prompt token, decode per "
        "output token, vision per image token. It falls with company, as the cost does: when decode rises at steady "
        "traffic, batches have become smaller or contexts longer.",
        "joule",
        [Query(gpu_queries.energy_per_token(phase), phase) for phase in names.PHASES],
        min_step=SETTLING_STEP,
        panel_links=(to_dashboard(names.DASHBOARD_ENGINE, "Engine"),),
    )


def energy_by_account() -> Panel:
    """Watts by account and phase, over time."""
    return theme.over_time(
        "Power by account and phase",
        "Where the watts go, of settled work: idle is an engine that waits with its memory powered, aborted is work "
        "for nobody. A growing idle part: fewer engines. Work that no request explains is not in it.",
        "watt",
        [Query(gpu_queries.energy_power((names.LABEL_ACCOUNT, names.LABEL_PHASE)), "{{account}} {{phase}}")],
        stacked=True,
        min_step=SETTLING_STEP,
    )
