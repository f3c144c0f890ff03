"""Panels about batch work: how much there is, whether it is in time, what it costs, whether there is room for more."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import batch_queries, engine_queries, queries, theme
from farthing.dashboards.links import of_cell, runbook, to_dashboard
from farthing.dashboards.parts import Band, Column, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "batch_share",
    "batch_size",
    "budget_left",
    "cost",
    "cost_per_request",
    "cost_per_token",
    "drained",
    "energy_per_token",
    "first_token_by_tier",
    "idle_cost",
    "in_time",
    "outcomes",
    "queue_wait_by_tier",
    "spare_kv",
    "tenants",
    "throughput",
    "tokens",
    "unit_cost",
    "work",
]

USD: Final = "currencyUSD"
SETTLING_STEP: Final = "30s"
"""Windows of 5 s settle in lumps: a rate over fewer than some six of them is a saw."""
_OUTPUT: Final = f'{names.LABEL_KIND}="{names.TOKEN_OUTPUT}"'
_ABORTED: Final = f'{names.LABEL_OUTCOME}="{names.ABORTED}"'


def budget_left() -> Panel:
    """What is left of the tier's error budget."""
    return theme.number(
        "Deadline budget left",
        "Of the promises to the chosen tier (by default: whole within 60 s), what is left of the error budget that "
        "has least left. Below 0 more came late than was promised: start jobs earlier, or give them engines. Unknown: "
        "nothing is promised to the tier, or it had no requests.",
        "percentunit",
        [Query(batch_queries.least_budget())],
        bands=(Band(0, "careful"), Band(0.25, "fine")),
        low="broken",
        decimals=0,
        panel_links=(to_dashboard(names.DASHBOARD_SLO, "SLOs"), runbook("SLOErrorBudgetBurningSlowly")),
    )


def drained() -> Panel:
    """How long the present queue lasts."""
    return theme.number(
        "Queue is done in",
        "What waits in the chosen engines, of all tiers, by what they finish per second now. What a job has not sent "
        "yet is not in it: divide its requests by the throughput below. Unknown: engines finish nothing now.",
        "s",
        [Query(batch_queries.drained_in())],
        decimals=0,
        panel_links=(runbook("LLMQueueBacklog"),),
    )


def cost() -> Panel:
    """What the tier cost in the time range."""
    return theme.number(
        "Cost, in range",
        "Settled cost of the chosen tier's requests within the time range, given-up ones included. Idle engines are "
        "not in it; see whether there is room to fill below.",
        USD,
        [Query(batch_queries.tier_cost())],
        decimals=2,
        panel_links=(to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics"),),
    )


def batch_share() -> Panel:
    """The tier's share of all tiers' cost."""
    return theme.number(
        "Share of all work",
        "Part of the cost of all tiers' requests within the time range that the chosen tier took. Large while users "
        "wait: give batch work other hours or a lower priority.",
        "percentunit",
        [Query(batch_queries.tier_share())],
        decimals=1,
    )


def unit_cost() -> Panel:
    """Dollars per million tokens of the tier."""
    return theme.number(
        "Cost per million tokens",
        "Of the chosen tier within the time range, prompts and answers together. Batch work should be the cheapest "
        "there is: when it is not, it runs in small batches; send more of it at once.",
        USD,
        [Query(batch_queries.unit_cost_now())],
        decimals=3,
        panel_links=(to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics"),),
    )


def work() -> Panel:
    """How much of the tier's work is in flight, and waits."""
    return theme.over_time(
        "Requests in flight and waiting",
        "Mean number of the tier's requests between arrival and answer, and of those in engines' queues, from the "
        "seconds that requests spent there (known when they end). Much of it waiting: more at once does not make it "
        "faster. Little in flight while engines idle: the job sends too few at once.",
        "short",
        [
            Query(batch_queries.in_flight(), "{{tier}} in flight"),
            Query(batch_queries.waiting(), "{{tier}} waiting"),
        ],
        panel_links=(runbook("LLMQueueBacklog"),),
    )


def throughput() -> Panel:
    """Requests of the tier that finish per second."""
    return theme.over_time(
        "Requests finished per second",
        "Of the tier. The requests that a job still has, by this number, are the seconds that it still takes. Falling "
        "at steady work in flight: prompts became longer, or interactive work takes the batch's places.",
        "reqps",
        [Query(batch_queries.throughput(), "{{tier}}")],
    )


def tokens() -> Panel:
    """Tokens of the tier per second."""
    return theme.over_time(
        "Tokens per second",
        "Settled tokens of the tier: generated, and of prompts computed and taken from a cache. Cached ones cost "
        "nothing: order a job so that equal beginnings follow one another.",
        "suffix: tok/s",
        [
            Query(batch_queries.token_rate(names.TOKEN_OUTPUT), "{{tier}} output"),
            Query(batch_queries.token_rate(names.TOKEN_PROMPT_COMPUTED), "{{tier}} computed prompt"),
            Query(batch_queries.token_rate(names.TOKEN_PROMPT_CACHED), "{{tier}} cached prompt"),
        ],
        min_step=SETTLING_STEP,
    )


def outcomes() -> Panel:
    """How the tier's requests end."""
    return theme.over_time(
        "Requests by outcome",
        "Requests of the tier that ended, per second, by how. aborted: the job's own time-out is too short for the "
        "queue, and what was computed is paid for. rejected: it sends more at once than engines take. failed: see the "
        "runbook of LLMServerErrorsHigh.",
        "reqps",
        [Query(queries.requests_ended(), "{{outcome}}")],
        stacked=True,
        panel_links=(runbook("LLMRequestsAborted"), runbook("LLMRequestsRejected"), runbook("LLMServerErrorsHigh")),
    )


def in_time() -> Panel:
    """For how much of the tier each promise was kept."""
    return theme.over_time(
        "In time, of the last hour's requests",
        "Part of the requests for which each promise to the tier was kept, over the hour before each moment; what was "
        "refused or failed counts as late. Falling: less at once, or more engines. Empty: nothing is promised to the "
        "tier.",
        "percentunit",
        [Query(batch_queries.in_time(), "{{slo}} {{model}}")],
        full=1,
        panel_links=(to_dashboard(names.DASHBOARD_SLO, "SLOs"), runbook("SLOErrorBudgetBurningFast")),
    )


def cost_per_token() -> Panel:
    """Dollars per million tokens, of every tier."""
    return theme.over_time(
        "Cost per million tokens, by tier",
        "Prompts and answers together, of every tier, whatever is chosen. Batch above interactive: it runs alone in "
        "small batches; let it fill what interactive work leaves, or send more at once.",
        USD,
        [Query(batch_queries.unit_cost(), "{{tier}}")],
        min_step=SETTLING_STEP,
        panel_links=(to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics"),),
    )


def cost_per_request() -> Panel:
    """Dollars per finished request, of every tier."""
    return theme.over_time(
        "Cost per request, by tier",
        "Settled cost by finished requests, of every tier; given-up ones are paid for too. It follows the length of "
        "prompts and answers: compare a tier with itself, and tiers per token.",
        USD,
        [Query(batch_queries.request_cost(), "{{tier}}")],
        min_step=SETTLING_STEP,
        panel_links=(to_dashboard(names.DASHBOARD_TENANTS, "Tenants"),),
    )


def energy_per_token() -> Panel:
    """Joules per token, of every tier."""
    return theme.over_time(
        "Energy per token, by tier",
        "Joules by tokens of prompts and answers together, of every tier. Work that can wait can also wait for hours "
        "with cleaner or cheaper power. Empty: no device is read; run an agent on the GPUs' hosts.",
        "joule",
        [Query(batch_queries.energy_per_token(), "{{tier}}")],
        min_step=SETTLING_STEP,
        panel_links=(to_dashboard(names.DASHBOARD_GPUS, "GPUs and energy"),),
    )


def idle_cost() -> Panel:
    """What idle engines cost per hour: room that is paid for."""
    return theme.over_time(
        "Idle engines cost per hour",
        "Dollars per hour that buy nothing, by engine, as they settle: room for batch work that is paid for already. "
        "Send jobs there; if there are none, release the engine.",
        USD,
        [Query(queries.cost_rate((names.LABEL_ENGINE,), (names.IDLE,)), "{{engine}}")],
        stacked=True,
        min_step=SETTLING_STEP,
        panel_links=(runbook("FarthingIdleCostHigh"), runbook("LLMGPUAllocatedIdle")),
    )


def batch_size(settings: Settings) -> Panel:
    """Requests running in each engine, against what fills it."""
    return theme.over_time(
        "Running, against a full engine",
        "Requests that each engine runs; the dashed line is costing.saturated_requests, at which it counts as full. "
        "Well below: one more request costs almost nothing. At it: a job only lengthens the queue.",
        "short",
        [Query(engine_queries.number(names.REC_RUNNING), "{{instance}}")],
        bands=(Band(settings.costing.saturated_requests, "careful"),),
        panel_links=(to_dashboard(names.DASHBOARD_ENGINE, "Engine"),),
    )


def spare_kv() -> Panel:
    """What of each KV cache is free."""
    return theme.over_time(
        "Spare KV cache",
        "Part of each engine's KV cache that no running request uses. Near 0: more batch work would preempt or wait, "
        "however few requests run; shorter contexts or an engine more. See the runbook of LLMKVCacheFull.",
        "percentunit",
        [Query(batch_queries.spare_kv(), "{{instance}}")],
        full=1,
        panel_links=(runbook("LLMKVCacheFull"),),
    )


def first_token_by_tier(settings: Settings) -> Panel:
    """95th percentile of the time to the first token, of every tier."""
    return theme.over_time(
        "Time to first token, p95 by tier",
        "Of every tier, as clients see it; the dashed line is what interactive work is promised. Interactive rising "
        "as batch work in flight does: batch hurts it; lower the job's concurrency or priority, or give it engines of "
        "its own.",
        "s",
        [Query(batch_queries.quantile(names.METRIC_TTFT, 0.95), "{{tier}}")],
        bands=(Band(settings.alerts.ttft_p95_seconds, "broken"),),
        panel_links=(runbook("LLMTimeToFirstTokenHigh"), to_dashboard(names.DASHBOARD_LATENCY, "Latency anatomy")),
    )


def queue_wait_by_tier() -> Panel:
    """95th percentile of the time in the queue, of every tier."""
    return theme.over_time(
        "Time in the queue, p95 by tier",
        "Of every tier. Equal for all: engines serve first come, first served, and a job's burst delays users; give "
        "requests a priority (vLLM: --scheduling-policy priority). Batch alone: it waits as it may.",
        "s",
        [Query(batch_queries.quantile(names.METRIC_QUEUE, 0.95), "{{tier}}")],
        panel_links=(runbook("LLMQueueBacklog"), to_dashboard(names.DASHBOARD_LATENCY, "Latency anatomy")),
    )


def tenants() -> Panel:
    """A table of who runs the tier's work."""
    growth = queries.tenant_settled
    return theme.listing(
        "Who runs batch work, in range",
        "Tenants of the chosen tier by cost within the time range. A dear million tokens: small batches or long "
        "contexts. Many aborted: their time-outs do not fit the queue.",
        {names.LABEL_TENANT: "Tenant"},
        (
            Column("Cost", USD, growth(names.METRIC_TENANT_COST), decimals=2),
            Column("Requests", "short", growth(names.METRIC_TENANT_REQUESTS)),
            Column("Aborted", "short", growth(names.METRIC_TENANT_REQUESTS, _ABORTED)),
            Column("Output tokens", "short", growth(names.METRIC_TENANT_TOKENS, _OUTPUT)),
            Column("Per million tokens", USD, batch_queries.tenant_unit_cost(), decimals=3),
            Column("Energy", "joule", growth(names.METRIC_TENANT_ENERGY)),
        ),
        row_links={names.LABEL_TENANT: of_cell(names.DASHBOARD_TENANTS, "This tenant", "tenant")},
        footer=False,
    )
