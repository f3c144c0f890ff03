"""The spend that ``farthing serve`` shows, computed beside costing, and the events of budgets, written once each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal

import sqlalchemy as sa

from farthing.books.anomalies import Anomaly, detect
from farthing.books.budgets import Budget, BudgetEvent, BudgetState, events_due
from farthing.books.kpis import shares, unit_costs
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.domain.money import from_nano
from farthing.domain.spend import AnomalyView, BudgetView, ForecastView, SpendView, TenantSpend, UnpricedView
from farthing.ledger import tables as t
from farthing.ledger.budget_events import budget_events, write_budget_events
from farthing.ledger.engine_notes import unpriced_engines
from farthing.ledger.repository import Ledger
from farthing.service.hourly_spend import BORNE, Calendar, HourlySpend, settled_through
from farthing.service.measures import measure
from farthing.service.scope import Scope
from farthing.service.spend import EVERYTHING, WHO, budget_forecasts, budget_states, expected
from farthing.settings import Settings

__all__ = ["SpendWatch"]

_log = logging.getLogger(__name__)

WATCHED_TENANTS = 100
"""Tenants, costliest of the month first, that are watched for anomalies."""
MEASURE_TICKS = 10
"""How many updates share one reading of unit costs and capacity."""

_Told = tuple[tuple[Anomaly, ...], ForecastView | None]


class SpendWatch:
    """Reads spend from the ledger; ``update`` is called about once a minute, by one thread at a time.

    What it costs does not depend on how many requests there are. Forecasts and anomalies are computed once an hour.
    ``clock_ns`` is UTC.
    """

    def __init__(self, ledger: Ledger, settings: Settings, clock_ns: Callable[[], int]) -> None:
        self._ledger = ledger
        self._currency = settings.currency
        self._budgets: tuple[Budget, ...] = tuple(entry.budget for entry in settings.budgets)
        self._clock_ns = clock_ns
        self._borne = HourlySpend(ledger, WHO, BORNE)
        self._whole = HourlySpend(ledger, (), c.ACCOUNTS)
        self._told_at: tuple[int, int] | None = None
        self._everything: _Told = ((), None)
        self._tenants: dict[str, tuple[Anomaly, ...]] = {}
        self._forecasts: dict[str, ForecastView | None] = {}
        self._ticks = 0
        self._measured: tuple[dict[str, int], dict[str, float]] = ({}, {})
        self._capacity: dict[tuple[str, str], int] = {}

    def update(self) -> SpendView:
        """Spend as of now; writes and logs the events of budgets whose thresholds were passed.

        Raises LedgerError when the ledger fails.
        """
        now_ns = self._clock_ns()
        calendar, through = Calendar.at(now_ns), settled_through(self._ledger, now_ns)
        for spend in (self._borne, self._whole):
            spend.refresh(calendar.history, calendar.now)
        states = budget_states(self._budgets, self._borne, self._whole, calendar)
        self._write_events(states, calendar, now_ns)
        if self._told_at != (calendar.month, through):
            self._tell(calendar, through)
            self._told_at = (calendar.month, through)
        if self._ticks % MEASURE_TICKS == 0 or not self._measured[1]:
            self._measure(calendar)
        self._ticks += 1
        return self._view(calendar, through, states, now_ns)

    # ---- inside --------------------------------------------------------------------------------

    def _write_events(self, states: Sequence[BudgetState], calendar: Calendar, now_ns: int) -> None:
        for event in write_budget_events(self._ledger, events_due(states, calendar.month_name, now_ns)):
            _log.warning(
                "budget %s: %s %s of %s are spent in %s, past its threshold of %s",
                event.budget,
                self._currency,
                f"{from_nano(event.spent_nano):.2f}",
                f"{from_nano(event.monthly_nano):.2f}",
                event.month,
                f"{event.threshold.normalize():f}",
            )

    def _tell(self, calendar: Calendar, through: int) -> None:
        """Forecasts and anomalies of the hours that are complete."""
        everything = self._whole.series(lambda key: key, through).get(EVERYTHING)
        self._everything = (
            tuple(_recent(detect(everything[1], start_hour=everything[0]), calendar)) if everything else (),
            expected(*everything, calendar) if everything else None,
        )
        month: Counter[str] = Counter()
        for (tenant, *_), nano in self._borne.sums(calendar.month, calendar.next_month).items():
            month[tenant] += nano
        watched = {tenant for tenant, _ in month.most_common(WATCHED_TENANTS)}
        series = self._borne.series(lambda key: key[:1] if key[0] in watched else None, through)
        self._tenants = {
            tenant: tuple(_recent(detect(history, start_hour=start), calendar))
            for (tenant,), (start, history) in series.items()
        }
        self._forecasts = budget_forecasts(self._budgets, self._borne, self._everything[1], calendar, through)

    def _measure(self, calendar: Calendar) -> None:
        measures = measure(self._ledger, Scope(calendar.month))
        costs = {unit.key: unit.direct_nano for unit in unit_costs(measures)}
        parts = {share.key: share.value for share in shares(measures)}
        self._measured = (
            {key: nano for key, nano in costs.items() if isinstance(nano, int)},
            {key: value for key, value in parts.items() if isinstance(value, float)},
        )
        o = t.cost_hours.c
        query = sa.select(o.account, o.reason, sa.func.sum(o.nano)).where(o.account.in_(c.CAPACITY_ACCOUNTS))
        rows = self._ledger.select(query.group_by(o.account, o.reason))
        self._capacity = {(account, reason): int(nano) for account, reason, nano in rows}

    def _view(self, calendar: Calendar, through: int, states: Sequence[BudgetState], now_ns: int) -> SpendView:
        today: Counter[str] = Counter()
        month: Counter[str] = Counter()
        for sums, start in ((today, calendar.today), (month, calendar.month)):
            for (tenant, *_), nano in self._borne.sums(start, calendar.next_month).items():
                sums[tenant] += nano
        unpriced = tuple(UnpricedView(u.engine, u.model, u.gpu, u.reason) for u in unpriced_engines(self._ledger))
        first = self._whole.first_hour

        def bill(start: int, end: int) -> int | None:
            nano = self._whole.sums(start, end)[EVERYTHING]
            return None if first is None or first >= end or (unpriced and not nano) else nano

        events = budget_events(self._ledger, calendar.month_name) if self._budgets else ()
        return SpendView(
            taken_ns=now_ns,
            through_ns=through * HOUR,
            month=calendar.month_name,
            today_nano=bill(calendar.today, calendar.next_month),
            yesterday_nano=bill(calendar.yesterday, calendar.today),
            month_nano=bill(calendar.month, calendar.next_month),
            last_month_nano=bill(calendar.last_month, calendar.month),
            forecast=self._everything[1],
            tenants=tuple(TenantSpend(tenant, today[tenant], nano) for tenant, nano in sorted(month.items())),
            budgets=tuple(self._budget(state, events) for state in states),
            anomalies=self._anomalies(calendar),
            unpriced=unpriced,
            capacity_nano=self._capacity,
            unit_costs_nano=self._measured[0],
            shares=self._measured[1],
        )

    def _budget(self, state: BudgetState, events: Sequence[BudgetEvent]) -> BudgetView:
        budget = state.budget
        passed = [e for e in events if (e.budget, e.monthly_nano) == (budget.name, budget.monthly_nano)]
        return BudgetView(
            name=budget.name,
            tenant=budget.tenant,
            project=budget.project,
            model=budget.model,
            monthly_nano=budget.monthly_nano,
            spent_nano=state.spent_nano,
            forecast=self._forecasts.get(budget.name),
            events=tuple((_shown(event.threshold), event.at_ns) for event in passed),
        )

    def _anomalies(self, calendar: Calendar) -> tuple[AnomalyView, ...]:
        by_tenant: list[tuple[str | None, tuple[Anomaly, ...]]] = [(None, self._everything[0]), *self._tenants.items()]
        found = [
            AnomalyView(
                tenant=tenant,
                kind=one.kind,
                start_ns=one.start_hour * HOUR,
                end_ns=None if one.end_hour is None else one.end_hour * HOUR,
                observed_nano=one.observed_nano,
                expected_nano=one.expected_nano,
                impact_nano=one.impact_nano,
            )
            for tenant, anomalies in by_tenant
            for one in anomalies
            if one.end_hour is None or one.end_hour > calendar.month
        ]
        return tuple(sorted(found, key=lambda view: (-view.start_ns, view.tenant or "")))


def _recent(anomalies: Sequence[Anomaly], calendar: Calendar) -> list[Anomaly]:
    return [one for one in anomalies if one.end_hour is None or one.end_hour > calendar.month]


def _shown(share: Decimal) -> str:
    return f"{share.normalize():f}"
