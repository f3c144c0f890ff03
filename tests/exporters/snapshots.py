"""Made-up snapshots whose identity holds: one H100 with every account in use and four tenants."""

from __future__ import annotations

from dataclasses import replace

from farthing.domain.clock import SECOND
from farthing.domain.conventions import METRIC_TPOT, METRIC_TTFT
from farthing.domain.energy import EnergyView, EngineEnergy
from farthing.domain.model import (
    AuditView,
    Check,
    Engine,
    EngineGauges,
    EngineView,
    Fit,
    HistogramView,
    IntakeView,
    Snapshot,
    SourceView,
    TenantView,
)
from farthing.domain.spend import AnomalyView, BudgetView, ForecastView, SpendView, TenantSpend, UnpricedView

START_NS = 1_792_000_000 * SECOND
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# Nano-dollars per step; every tenant's charges add up to the engine's, and the lines to the bill.
CHARGES = {
    "acme-search": {"prefill": 310_000_001, "decode": 720_000_002, "vision": 90_000_000},
    "globex": {"prefill": 205_000_000, "decode": 402_000_000, "vision": 151_000_003},
    "initech": {"prefill": 61_000_000, "decode": 99_000_007},
    "unknown": {"prefill": 4_000_000, "decode": 7_000_000},
}
ABORTS = {"acme-search": 12_000_000, "globex": 31_000_000, "initech": 0, "unknown": 0}
ENDED = {tenant: {"finished": 90, "aborted": 3} for tenant in CHARGES}
ENDED["globex"] |= {"failed": 2, "rejected": 1}
PHASE_COST = {phase: sum(cost.get(phase, 0) for cost in CHARGES.values()) for phase in ("prefill", "decode", "vision")}
TOKENS = {"prompt_computed": 4_000_000, "prompt_cached": 1_500_000, "image": 300_000, "output": 1_200_000}
UNIT_COST = {
    "prefill": PHASE_COST["prefill"] * 1_000_000 // TOKENS["prompt_computed"],
    "decode": (PHASE_COST["decode"] + sum(ABORTS.values())) * 1_000_000 // TOKENS["output"],
    "vision": PHASE_COST["vision"] * 1_000_000 // TOKENS["image"],
}


def engine_view(step: int = 100, name: str = "llama-8b") -> EngineView:
    """An engine after ``step`` windows; dollars, tokens and time are proportional to it."""
    accounts = {("charged", phase, "modelled"): nano * step for phase, nano in PHASE_COST.items()}
    accounts |= {
        ("aborted", "decode", "estimated"): sum(ABORTS.values()) * step,
        ("starting", "", "metered"): 210_000_000 * step,
        ("idle", "", "metered"): 640_000_000 * step,
        ("asleep", "", "metered"): 55_000_000 * step,
        ("down", "", "metered"): 20_000_000 * step,
        ("unattributed", "", "metered"): 9_000_000 * step,
    }
    wip = {"decode": 21_000_000, "prefill": 9_000_000}
    return EngineView(
        engine=Engine(name, "vllm", MODEL, "NVIDIA H100 80GB HBM3", 1),
        state="serving",
        price_nano_per_hour=2_490_000_000,
        bill_nano=sum(accounts.values()) + sum(wip.values()),
        accounts_nano=accounts,
        unattributed_nano={"lost_record": 6_000_000 * step, "unmetered": 3_000_000 * step},
        wip_nano=wip,
        residual_nano=0,
        busy_ns=4 * SECOND * step,
        tokens={kind: count * step for kind, count in TOKENS.items()},
        energy_millijoules=2_100_500 * step,
        unit_cost_nano_per_million={**UNIT_COST},
        recent_unit_cost_nano={"prefill": 21_000_000, "decode": 395_000_000},
        saturated_unit_cost_nano={"prefill": 20_000_000, "decode": 108_000_000},
        recent_unit_cost_bounds_nano={"prefill": (20_000_000, 22_000_000), "decode": (386_000_000, 404_000_000)},
        fit=Fit("f7", "modelled", {"step": 0.004, "decode_tokens": 2.1e-5}, {"step": (0.003, 0.005)}, 0.043, 240),
        gauges=EngineGauges(
            running=37,
            waiting=4,
            kv_usage=0.62,
            generation_tokens_per_second=1_840.0,
            prompt_tokens_per_second=6_900.0,
            scrape_up=True,
            scrape_failures=2,
        ),
        watermark_lag_ns=7 * SECOND,
        checks=(
            Check("identity", True, "bill equals its lines to the nano-dollar"),
            Check("output_tokens", False, "engine counted 1,200,000, requests 1,188,004 (1.0 % lost)"),
        ),
    )


def tenant_views(step: int = 100) -> tuple[TenantView, ...]:
    """The four tenants after ``step`` windows."""
    tiers = {"acme-search": "interactive", "globex": "documents", "initech": "batch", "unknown": "unknown"}
    return tuple(
        TenantView(
            tenant=tenant,
            model=MODEL,
            tier=tiers[tenant],
            cost_nano={phase: nano * step for phase, nano in cost.items()},
            aborted_nano=ABORTS[tenant] * step,
            tokens={"prompt_computed": 900_000 * step, "prompt_cached": 200_000 * step, "output": 280_000 * step},
            requests={outcome: count * step for outcome, count in ENDED[tenant].items()},
        )
        for tenant, cost in CHARGES.items()
    )


def histogram_view(step: int = 100, metric: str = METRIC_TTFT, tier: str = "interactive") -> HistogramView:
    """A histogram of 20 observations per step: 10 % in each of the buckets but 50 % in (0.1, 0.25]."""
    return HistogramView(
        metric=metric,
        model=MODEL,
        tier=tier,
        bounds=BOUNDS,
        counts=tuple(step * count for count in (2, 4, 14, 16, 18, 20, 20)),
        sum_seconds=6.5 * step,
        exemplars=(None, None, ({"trace_id": TRACE}, 0.2, START_NS / SECOND), None, None, None, None),
    )


def spend_view(step: int = 100) -> SpendView:
    """A month of which ``step`` windows are settled: a budget that is half spent, one that is over, an anomaly."""
    now = START_NS + step * 5 * SECOND
    tenants = tuple(
        TenantSpend(view.tenant, sum(view.cost_nano.values()) // 2, sum(view.cost_nano.values()) + view.aborted_nano)
        for view in tenant_views(step)
    )
    acme = tenants[0].month_nano
    return SpendView(
        taken_ns=now,
        through_ns=now,
        month="2026-10",
        today_nano=1_230_000_000 * step,
        yesterday_nano=1_100_000_000 * step,
        month_nano=2_999_000_001 * step,
        last_month_nano=None,
        forecast=ForecastView(400_000_000_000, 350_000_000_000, 470_000_000_000, "daily season"),
        tenants=tenants,
        budgets=(
            BudgetView("tenant=acme-search", "acme-search", None, None, 2 * acme, acme, None, (("0.5", now),)),
            BudgetView("everything", None, None, None, 10**9, 2 * 10**9, ForecastView(1, 1, 1, "x")),
        ),
        anomalies=(
            AnomalyView("globex", "spike", now - 3_600 * SECOND, None, 9 * 10**9, 3 * 10**9, 6 * 10**9),
            AnomalyView(None, "drop", now - 9_600 * SECOND, now, 10**9, 3 * 10**9, -2 * 10**9),
        ),
        unpriced=(UnpricedView("lab-1", "qwen", "RTX 4090", "no price for RTX 4090"),),
        capacity_nano={("unallocated", "unassigned"): 5 * 10**9},
        unit_costs_nano={"request": 4_000_000},
        shares={"idle": 0.25, "saved": 0.12},
    )


def energy_view(step: int = 100) -> EnergyView:
    """Energy of an engine and of two tenants after ``step`` windows."""
    lines = {
        ("charged", "prefill", "modelled"): 800_100 * step,
        ("charged", "decode", "modelled"): 900_400 * step,
        ("charged", "vision", "modelled"): 150_000 * step,
        ("idle", "", "metered"): 300_000 * step,
        ("unattributed", "decode", "modelled"): 1_000 * step,
    }
    per_token = {"prefill": 0.2, "decode": 0.75}
    tenants = {("acme-search", MODEL, "interactive"): 1_000_500 * step, ("globex", MODEL, "documents"): 700_000 * step}
    return EnergyView({"llama-8b": EngineEnergy(lines, per_token, 0.25 * step, 52_000 * step)}, tenants)


def snapshot(step: int = 100) -> Snapshot:
    """Everything after ``step`` windows of five seconds."""
    return Snapshot(
        taken_ns=START_NS + step * 5 * SECOND,
        currency="USD",
        version="0.1.0",
        engines=(engine_view(step),),
        tenants=tenant_views(step),
        histograms=(histogram_view(step), histogram_view(step, METRIC_TPOT)),
        intake=IntakeView({("usage", "accepted"): 400 * step, ("usage", "refused"): 1}),
        spend=spend_view(step),
        requests={(MODEL, "interactive", "finished"): 360 * step, (MODEL, "interactive", "rejected"): 2 * step},
        slo_requests={("acme-total", MODEL, "good"): 88 * step, ("acme-total", MODEL, "bad"): 2 * step},
        energy=energy_view(step),
        auth_failures={"token": step, "login": 2, "scope": 0},
        discovery=(SourceView("engines.d/*.yaml", 2, 0), SourceView("vllm.internal (A)", 0, 1)),
        spans={"sent": 40 * step, "failed": 3, "dropped": 0},
        spans_waiting=2,
        audit=AuditView(400 * step, 1, True),
    )


def empty_snapshot() -> Snapshot:
    """A ledger in which no engine has reported yet."""
    nothing = replace(snapshot(0), engines=(), tenants=(), histograms=(), intake=IntakeView(), spend=None)
    return replace(
        nothing,
        requests={},
        slo_requests={},
        energy=EnergyView(),
        auth_failures={},
        discovery=(),
        spans={},
        spans_waiting=None,
        audit=None,
    )
