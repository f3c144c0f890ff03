"""What a tenant's token reads: a snapshot and its past, of its own tenants alone, as JSON-ready values.

What it may not see is absent, never 0 or null: the fleet's bill, engines, idle and unattributed time, checks, intake,
unit costs of engines, and every other tenant. No value here is a sum or a share of anything but its own rows, so
nothing of anybody else's can be had by subtraction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from farthing.domain.clock import utc
from farthing.domain.model import Snapshot, TenantView
from farthing.domain.spend import SpendView, TenantSpend
from farthing.exporters.web.payload import latency_columns, latency_payload, tenant_payload
from farthing.exporters.web.spend import ANOMALIES_SHOWN, anomaly_payload, budget_payload, milliseconds
from farthing.exporters.web.tenant_history import TenantHistory

__all__ = ["own_history_payload", "own_snapshot_payload"]

Payload = dict[str, Any]


def own_snapshot_payload(snapshot: Snapshot, tenants: Collection[str]) -> Payload:
    """The rows of some tenants, costliest first, each with its parts by model and tier; and their spend."""
    views: defaultdict[str, list[TenantView]] = defaultdict(list)
    for view in snapshot.tenants:
        if view.tenant in tenants:
            views[view.tenant].append(view)
    rows = [
        {**tenant_payload(tenant, parts), "parts": [_part(view) for view in sorted(parts, key=_dearest)]}
        for tenant, parts in views.items()
    ]
    return {
        "taken_ns": snapshot.taken_ns,
        "taken_at": utc(snapshot.taken_ns).isoformat(timespec="milliseconds"),
        "currency": snapshot.currency,
        "version": snapshot.version,
        "tenants": sorted(rows, key=lambda row: (-row["cost_nano"], row["tenant"])),
        "spend": None if snapshot.spend is None else _spend(snapshot.spend, tenants),
    }


def own_history_payload(history: TenantHistory, tenants: Collection[str], since_ns: int | None = None) -> Payload:
    """Columns of equal length, oldest first, of the points of some tenants together after ``since_ns``."""
    points, recent = history.read(tenants, since_ns)
    shown = [point for point in points if since_ns is None or point.at_ns > since_ns]
    return {
        "capacity": history.capacity,
        "newest_ms": points[-1].at_ns // 1_000_000 if points else None,
        "at_ms": [point.at_ns // 1_000_000 for point in shown],
        "spend_nano_per_hour": [point.spend_nano_per_hour for point in shown],
        "generation_tokens_per_second": [point.output_tokens_per_second for point in shown],
        "prompt_tokens_per_second": [point.prompt_tokens_per_second for point in shown],
        "requests_per_second": [point.requests_per_second for point in shown],
        "ttft_seconds": latency_columns([point.ttft for point in shown]),
        "tpot_seconds": latency_columns([point.tpot for point in shown]),
        "recent": {
            "seconds": recent.seconds,
            "ttft_seconds": latency_payload(recent.ttft),
            "tpot_seconds": latency_payload(recent.tpot),
        },
    }


def _dearest(view: TenantView) -> tuple[int, str, str]:
    return -sum(view.cost_nano.values()) - view.aborted_nano, view.model, view.tier


def _part(view: TenantView) -> Payload:
    entry = tenant_payload(view.tenant, [view])
    del entry["tenant"], entry["models"], entry["tiers"]
    return {"model": view.model, "tier": view.tier, **entry}


def _spend(spend: SpendView, tenants: Collection[str]) -> Payload:
    own = [one for one in spend.tenants if one.tenant in tenants]
    anomalies = [one for one in spend.anomalies if one.tenant is not None and one.tenant in tenants]
    return {
        "through_ms": milliseconds(spend.through_ns),
        "month": spend.month,
        "today_nano": sum(one.today_nano for one in own) if own else None,
        "month_nano": sum(one.month_nano for one in own) if own else None,
        "tenants": [_tenant_spend(one) for one in own],
        # a budget of a project or a model alone covers others too
        "budgets": [budget_payload(one) for one in spend.budgets if one.tenant is not None and one.tenant in tenants],
        "anomalies": [anomaly_payload(one) for one in anomalies[:ANOMALIES_SHOWN]],
        # whose requests an engine without a price served is not known, so it may be theirs; its name is not theirs
        "incomplete": bool(spend.unpriced),
    }


def _tenant_spend(spend: TenantSpend) -> Payload:
    return {"tenant": spend.tenant, "today_nano": spend.today_nano, "month_nano": spend.month_nano}
