"""What the page reads: a snapshot and its history as JSON-ready values. Money is integer nano-dollars throughout.

Keys that end in ``_nano`` or ``nano`` are nano-dollars; None is unknown and stays null.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from farthing.domain.clock import SECOND, utc
from farthing.domain.conventions import (
    ABORTED,
    ASLEEP,
    CHARGED,
    DECODE,
    DOWN,
    DRAINING,
    IDLE,
    METHODS,
    PHASES,
    PREFILL,
    STARTING,
    UNATTRIBUTED,
    VISION,
    WIP,
)
from farthing.domain.model import EngineView, Fit, Snapshot, TenantView
from farthing.exporters.web.history import PHASE_TOKENS, History, Latency
from farthing.exporters.web.spend import spend_payload

__all__ = ["history_payload", "latency_columns", "latency_payload", "snapshot_payload", "tenant_payload"]

LINES = (PREFILL, DECODE, VISION, ABORTED, STARTING, IDLE, ASLEEP, DRAINING, DOWN, UNATTRIBUTED, WIP)
"""The identity's right side, in the order of the promise; all are shown, also those that are 0."""

Payload = dict[str, Any]


def snapshot_payload(snapshot: Snapshot) -> Payload:
    """The page's whole picture: the fleet's identity, its engines and its tenants (costliest first)."""
    return {
        "taken_ns": snapshot.taken_ns,
        "taken_at": utc(snapshot.taken_ns).isoformat(timespec="milliseconds"),
        "currency": snapshot.currency,
        "version": snapshot.version,
        "fleet": _fleet(snapshot.engines),
        "engines": [_engine(view) for view in snapshot.engines],
        "tenants": _tenants(snapshot.tenants),
        "spend": None if snapshot.spend is None else spend_payload(snapshot.spend),
        "intake": [
            {"kind": kind, "result": result, "records": count}
            for (kind, result), count in sorted(snapshot.intake.records.items())
        ],
    }


def history_payload(history: History, since_ns: int | None = None) -> Payload:
    """Columns of equal length, oldest first, of the points after ``since_ns``; and the last minute's latency."""
    points = history.points(since_ns)
    recent = history.recent()
    newest_ns = history.newest_ns
    return {
        "capacity": history.capacity,
        "newest_ms": None if newest_ns is None else newest_ns // 1_000_000,
        "at_ms": [point.at_ns // 1_000_000 for point in points],
        "spend_nano_per_hour": [point.spend_nano_per_hour for point in points],
        "unit_cost_nano_per_million": {
            phase: [point.unit_cost_nano_per_million.get(phase) for point in points] for phase in PHASES
        },
        "generation_tokens_per_second": [point.generation_tokens_per_second for point in points],
        "prompt_tokens_per_second": [point.prompt_tokens_per_second for point in points],
        "ttft_seconds": latency_columns([point.ttft for point in points]),
        "tpot_seconds": latency_columns([point.tpot for point in points]),
        "waiting": [point.waiting for point in points],
        "running": [point.running for point in points],
        "kv_usage": [point.kv_usage for point in points],
        "recent": {
            "seconds": recent.seconds,
            "ttft_seconds": latency_payload(recent.ttft),
            "tpot_seconds": latency_payload(recent.tpot),
        },
    }


def _fleet(views: Sequence[EngineView]) -> Payload:
    prices = [view.price_nano_per_hour for view in views]
    known = [price for price in prices if price is not None]
    lines = _lines(views)
    return {
        "bill_nano": sum(view.bill_nano for view in views),
        "lines": lines,
        "lines_nano": sum(line["nano"] for line in lines),
        "residual_nano": sum(view.residual_nano for view in views),
        # Two engines' residuals could cancel in the sum; the books are balanced only if each one is.
        "balanced": all(_balanced(view) for view in views),
        "unattributed_nano": _added(view.unattributed_nano for view in views),
        "wip_nano": _added(view.wip_nano for view in views),
        "spend_nano_per_hour": sum(known) if known else None,
        "unpriced": [view.engine.name for view in views if view.price_nano_per_hour is None],
        "unit_cost": {phase: _unit_cost(phase, views) for phase in PHASES},
    }


def _balanced(view: EngineView) -> bool:
    """Whether the engine's lines add up to its bill, added here once more and not taken from its residual alone."""
    lines = sum(view.accounts_nano.values()) + sum(view.wip_nano.values())
    return view.residual_nano == 0 and lines == view.bill_nano


def _lines(views: Sequence[EngineView]) -> list[Payload]:
    """The right side of the identity, line by line, each with its dollars by method."""
    nano: dict[str, int] = dict.fromkeys(LINES, 0)
    methods: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for view in views:
        for (account, phase, method), amount in view.accounts_nano.items():
            # A charge without a known phase is a line of its own, so that the sum stays whole.
            line = phase if account == CHARGED and phase in PHASES else account
            nano[line] = nano.get(line, 0) + amount
            methods[line][method] += amount
        nano[WIP] += sum(view.wip_nano.values())
    return [
        {"account": line, "nano": amount, "methods_nano": _by_method(methods[line])} for line, amount in nano.items()
    ]


def _unit_cost(phase: str, views: Sequence[EngineView]) -> Payload:
    """The fleet's cost per million tokens of a phase, how it was obtained, and the fit's error where it is known."""
    known = [(view, cost) for view in views if (cost := view.unit_cost_nano_per_million.get(phase)) is not None]
    methods: dict[str, int] = defaultdict(int)
    for view, _ in known:
        for (account, line_phase, method), nano in view.accounts_nano.items():
            if account == CHARGED and line_phase == phase:
                methods[method] += nano
    errors = [None if view.fit is None else _finite(view.fit.walk_forward_wape) for view, _ in known]
    return {
        "nano_per_million": _average([(cost, view.tokens.get(PHASE_TOKENS[phase], 0)) for view, cost in known]),
        "methods_nano": _by_method(methods),
        # The worst of several engines; unknown as soon as it is unknown for one.
        "fit_error": max((error for error in errors if error is not None), default=None)
        if None not in errors
        else None,
    }


def _average(costs: Sequence[tuple[int, int]]) -> int | None:
    """Average of (cost, tokens), weighted by tokens; a single engine's cost is passed on as it is."""
    if len(costs) == 1:
        return costs[0][0]
    tokens = sum(weight for _, weight in costs)
    return round(sum(cost * weight for cost, weight in costs) / tokens) if tokens else None


def _engine(view: EngineView) -> Payload:
    gauges = view.gauges
    return {
        "name": view.engine.name,
        "kind": view.engine.kind,
        "model": view.engine.model,
        "gpu": view.engine.gpu,
        "gpu_count": view.engine.gpu_count,
        "state": view.state,
        "price_nano_per_hour": view.price_nano_per_hour,
        "bill_nano": view.bill_nano if view.billed else None,
        "lines": _lines([view]),
        "unattributed_nano": dict(view.unattributed_nano),
        "wip_nano": dict(view.wip_nano),
        "residual_nano": view.residual_nano,
        "busy_seconds": view.busy_ns / SECOND,
        "tokens": dict(view.tokens),
        "energy_millijoules": view.energy_millijoules,
        "unit_cost_nano_per_million": dict(view.unit_cost_nano_per_million),
        "recent_unit_cost_nano_per_million": dict(view.recent_unit_cost_nano),
        "saturated_unit_cost_nano_per_million": dict(view.saturated_unit_cost_nano),
        "fit": None if view.fit is None else _fit(view.fit),
        "running": _finite(gauges.running),
        "waiting": _finite(gauges.waiting),
        "kv_usage": _finite(gauges.kv_usage),
        "generation_tokens_per_second": _finite(gauges.generation_tokens_per_second),
        "prompt_tokens_per_second": _finite(gauges.prompt_tokens_per_second),
        "scrape_up": gauges.scrape_up,
        "scrape_failures": gauges.scrape_failures,
        "watermark_lag_seconds": None if view.watermark_lag_ns is None else view.watermark_lag_ns / SECOND,
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in view.checks],
    }


def _fit(fit: Fit) -> Payload:
    return {
        "version": fit.version,
        "method": fit.method,
        "walk_forward_wape": _finite(fit.walk_forward_wape),
        "windows": fit.windows,
        "coefficients": {name: _finite(value) for name, value in fit.coefficients.items()},
        "intervals": {name: [_finite(bound) for bound in bounds] for name, bounds in fit.intervals.items()},
    }


def _tenants(views: Sequence[TenantView]) -> list[Payload]:
    """One entry per tenant, the costliest first."""
    members: dict[str, list[TenantView]] = defaultdict(list)
    for view in views:
        members[view.tenant].append(view)
    entries = [tenant_payload(tenant, parts) for tenant, parts in members.items()]
    return sorted(entries, key=lambda entry: (-entry["cost_nano"], entry["tenant"]))


def tenant_payload(tenant: str, parts: Sequence[TenantView]) -> Payload:
    """A tenant over its models and tiers; ``cost_nano`` is what it was charged plus what it aborted."""
    phases = _added(view.cost_nano for view in parts)
    charged = sum(phases.values())
    aborted = sum(view.aborted_nano for view in parts)
    return {
        "tenant": tenant,
        "models": sorted({view.model for view in parts}),
        "tiers": sorted({view.tier for view in parts}),
        "cost_nano": charged + aborted,
        "charged_nano": charged,
        "aborted_nano": aborted,
        "phases_nano": phases,
        "tokens": _added(view.tokens for view in parts),
        "requests": _added(view.requests for view in parts),
    }


def _finite(value: float | None) -> float | None:
    """The value, or None for NaN and infinities: JSON has no word for them, and they are no knowledge either."""
    return value if value is not None and math.isfinite(value) else None


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Key -> sum over mappings."""
    total: dict[str, int] = defaultdict(int)
    for part in parts:
        for key, amount in part.items():
            total[key] += amount
    return dict(total)


def _by_method(amounts: Mapping[str, int]) -> dict[str, int]:
    """Methods that carry dollars, the surest first."""
    ranked = [*METHODS, *(method for method in amounts if method not in METHODS)]
    return {method: amounts[method] for method in ranked if amounts.get(method)}


def latency_columns(values: Sequence[Latency]) -> Payload:
    """Quantiles in seconds, a column each."""
    return {"p50": [value.p50 for value in values], "p95": [value.p95 for value in values]}


def latency_payload(value: Latency) -> Payload:
    """Quantiles in seconds over one interval, and of how many observations."""
    return {"p50": value.p50, "p95": value.p95, "count": value.count}
