"""The ledger's sums as the exporters show them: pure functions of totals, boots and gauges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from farthing.books.prices import Tariff
from farthing.domain import conventions as c
from farthing.domain.model import Check, Engine, EngineGauges, EngineView, TenantView
from farthing.ledger.repository import Boot
from farthing.service.boot_account import BootAccount
from farthing.service.scraped_account import ScrapedAccount
from farthing.service.totals import Totals
from farthing.service.unit_prices import TOKENS_OF_PHASE
from farthing.settings import EngineSettings

__all__ = ["EngineBooks", "engine_view", "tenant_views", "unit_costs"]

_STATES = {"stop": "down", "down": "down", "asleep": "asleep", "draining": "draining", c.STARTING: "starting"}


@dataclass(frozen=True, slots=True)
class EngineBooks:
    """What the accountant holds of one engine."""

    name: str
    configured: EngineSettings | None
    boots: tuple[Boot, ...]
    account: BootAccount | ScrapedAccount | None
    """Of its latest boot; None when that was closed by an earlier process, or nothing came yet."""
    tariff: Tariff | None
    """What its GPUs cost; None when no price applies, or nothing came yet."""
    wip_nano: dict[str, int]
    checks: tuple[Check, ...]
    recent_nano: Mapping[str, int] = field(default_factory=dict)
    """Phase -> nano-dollars per million tokens of late."""
    saturated_nano: Mapping[str, int] = field(default_factory=dict)
    """The same in a full engine."""
    bounds_nano: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Phase -> the least and the most that the price of late may be."""


def engine_view(books: EngineBooks, totals: Totals, gauges: EngineGauges, now_ns: int) -> EngineView:
    """One engine's view; ``now_ns`` is UTC."""
    account = books.account
    latest = books.boots[-1] if books.boots else None
    counts = totals.windows[books.name]
    accounts = {key: nano for key, nano in totals.accounts[books.name].items() if nano}
    bill = sum(boot.bill_nano for boot in books.boots)
    energies = [energy for boot in books.boots if (energy := boot.energy_mj) is not None]
    engine = Engine(
        name=books.name,
        kind=latest.kind if latest else (books.configured.kind if books.configured else c.UNKNOWN),
        model=latest.model if latest else c.UNKNOWN,
        gpu=latest.gpu if latest else (books.configured.gpu if books.configured else ""),
        gpu_count=latest.gpu_count if latest else (books.configured.gpu_count if books.configured else 0),
    )
    if isinstance(account, BootAccount) and not account.closed:
        gauges = replace(
            gauges,
            running=gauges.running if gauges.running is not None else account.running,
            waiting=gauges.waiting if gauges.waiting is not None else account.waiting,
        )
    return EngineView(
        engine=engine,
        state=_state(account, latest, gauges),
        price_nano_per_hour=books.tariff.nano_per_hour(now_ns)
        if books.tariff and books.tariff.priced(now_ns)
        else None,
        bill_nano=bill,
        accounts_nano=accounts,
        unattributed_nano=dict(totals.unattributed[books.name]),
        late_nano={key: nano for key, nano in totals.late[books.name].items() if nano},
        wip_nano=books.wip_nano,
        residual_nano=bill - sum(accounts.values()) - sum(books.wip_nano.values()),
        busy_ns=counts["busy_ns"],
        tokens={
            c.TOKEN_PROMPT_COMPUTED: counts["prompt_computed"],
            c.TOKEN_PROMPT_CACHED: counts["prompt_cached"],
            c.TOKEN_IMAGE: totals.image_tokens[books.name],
            c.TOKEN_OUTPUT: counts["engine_output"],
        },
        energy_millijoules=sum(energies) if energies else None,
        unit_cost_nano_per_million=unit_costs(accounts, counts),
        fit=account.fit() if account else None,
        gauges=gauges,
        watermark_lag_ns=_lag(account, now_ns),
        checks=books.checks,
        recent_unit_cost_nano=books.recent_nano,
        saturated_unit_cost_nano=books.saturated_nano,
        recent_unit_cost_bounds_nano=books.bounds_nano,
    )


def unit_costs(accounts: dict[tuple[str, str, str], int], counts: dict[str, int]) -> dict[str, int | None]:
    """Nano-dollars of busy work (charged and aborted) per million tokens of its kind; None without tokens."""
    costs: dict[str, int | None] = {}
    for phase in c.PHASES:
        nano = sum(n for (account, p, _), n in accounts.items() if p == phase and account in (c.CHARGED, c.ABORTED))
        tokens = counts.get(TOKENS_OF_PHASE[phase], 0)
        costs[phase] = nano * 1_000_000 // tokens if tokens else None
    return costs


def tenant_views(totals: Totals) -> tuple[TenantView, ...]:
    """Every tenant, by name, model and tier."""
    keys = sorted({*totals.tenant_cost, *totals.tenant_aborted, *totals.tenant_requests})
    return tuple(
        TenantView(
            tenant=tenant,
            model=model,
            tier=tier,
            cost_nano={phase: totals.tenant_cost[tenant, model, tier][phase] for phase in c.PHASES},
            aborted_nano=totals.tenant_aborted[tenant, model, tier],
            tokens={kind: totals.tenant_tokens[tenant, model, tier][kind] for kind in c.TOKEN_KINDS},
            requests=dict(totals.tenant_requests[tenant, model, tier]),
        )
        for tenant, model, tier in keys
    )


def _state(account: BootAccount | ScrapedAccount | None, latest: Boot | None, gauges: EngineGauges) -> str:
    if account is None:
        return "down" if latest and latest.closed_ns is not None else c.UNKNOWN
    if isinstance(account, BootAccount) and account.silent:
        return c.UNKNOWN
    known = _STATES.get(account.state)
    if known:
        return known
    return "idle" if gauges.running == 0 else "serving"


def _lag(account: BootAccount | ScrapedAccount | None, now_ns: int) -> int | None:
    if account is None or account.closed:
        return None
    if isinstance(account, BootAccount):
        return max(0, now_ns - account.started.anchor.to_wall(account.stream.watermark_ns))
    return max(0, now_ns - account.watermark_ns)
