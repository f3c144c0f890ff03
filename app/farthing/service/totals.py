"""Cumulative sums over the ledger, loaded once and kept current with each posting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import sqlalchemy as sa

from farthing.domain import conventions as c
from farthing.domain.model import Adjustment, SettledWindow
from farthing.ledger import tables as t
from farthing.ledger.cost_sums import cost_sums
from farthing.ledger.repository import Ledger, Posted

__all__ = ["Totals"]

TenantKey = tuple[str, str, str]
"""tenant, model, tier."""

_REQUEST_TOKENS = {
    c.TOKEN_PROMPT_COMPUTED: "prompt_computed",
    c.TOKEN_PROMPT_CACHED: "prompt_cached",
    c.TOKEN_IMAGE: "image_tokens",
    c.TOKEN_OUTPUT: "output_tokens",
}


class Totals:
    """Everything settled so far, by engine and by tenant; integers throughout."""

    def __init__(self) -> None:
        self.accounts: defaultdict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
        """engine -> (account, phase, method) -> nano-dollars."""
        self.unattributed: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._boots: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """boot -> account -> nano-dollars."""
        self.windows: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """engine -> bill_nano, busy_ns, and tokens by kind."""
        self.tenant_cost: defaultdict[TenantKey, Counter[str]] = defaultdict(Counter)
        self.tenant_aborted: Counter[TenantKey] = Counter()
        self.tenant_requests: defaultdict[TenantKey, Counter[str]] = defaultdict(Counter)
        self.tenant_tokens: defaultdict[TenantKey, Counter[str]] = defaultdict(Counter)
        self.late: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        """engine -> (phase, method) -> nano-dollars that late records moved out of unattributed."""
        self.image_tokens: Counter[str] = Counter()
        self.one_sided: Counter[str] = Counter()

    @classmethod
    def load(cls, ledger: Ledger) -> Totals:
        """The sums of everything in the ledger, from its hourly sums: as quick for many requests as for few."""
        totals = cls()
        b, w, u = t.boot_lines.c, t.window_hours.c, t.usage_hours.c
        keys = ("engine", "account", "phase", "method", "reason", "tenant", "model", "tier")
        for key, (nano, late) in cost_sums(ledger, keys, amounts=("nano", "late_nano")).items():
            engine, account, phase, method, reason, *who = key
            totals._line(engine, account, phase, method, reason, nano)
            totals._tenant(account, phase, (who[0], who[1], who[2]), nano)
            if late:
                totals.late[engine][phase, method] += late
        for row in ledger.select(sa.select(b.boot, b.account, _sum(b.nano)).group_by(b.boot, b.account)):
            totals._boots[row.boot][row.account] += int(row.nano)
        sums = [_sum(column) for column in (w.bill_nano, w.busy_ns, *_window_tokens())]
        for row in ledger.select(sa.select(w.engine, *sums).group_by(w.engine)):
            values = row._mapping
            totals.windows[row.engine].update({name: int(values[name]) for name in values if name != "engine"})
        counts = [_sum(u[column]) for column in ("requests", "one_sided", *_REQUEST_TOKENS.values())]
        by = (u.engine, u.tenant, u.model, u.tier, u.outcome)
        for row in ledger.select(sa.select(*by, *counts).group_by(*by)):
            tokens = {kind: int(row._mapping[column]) for kind, column in _REQUEST_TOKENS.items()}
            key = (row.tenant, row.model, row.tier)
            totals._requests(row.engine, key, row.outcome, tokens, int(row.requests))
            totals.one_sided[row.engine] += int(row.one_sided)
        return totals

    def add(self, engine: str, posted: Posted) -> None:
        """Count what was just posted."""
        for window in posted.windows:
            counts = self.windows[engine]
            counts.update({"bill_nano": window.bill_nano, "busy_ns": window.busy_ns})
            counts.update({column.name: window.tokens.get(column.name, 0) for column in _window_tokens()})
        sources: list[SettledWindow | Adjustment] = [*posted.windows, *posted.adjustments]
        for source in sources:
            for p in source.postings:
                self._line(engine, p.account, p.phase, p.method, p.reason, p.nano)
                self._boots[source.boot][p.account] += p.nano
                self._tenant(p.account, p.phase, (p.tenant, p.model, p.tier), p.nano)
                if p.nano < 0:
                    self.late[engine][p.phase, p.method] -= p.nano
        for request in posted.requests:
            tokens = {kind: getattr(request, column) or 0 for kind, column in _REQUEST_TOKENS.items()}
            key = (request.tenant, request.model, request.tier)
            self._requests(request.engine, key, request.outcome, tokens, 1)
            self.one_sided[request.engine] += request.seen_by != "both" and request.outcome == c.FINISHED

    def boot_lines(self, boots: Iterable[str]) -> dict[str, int]:
        """Settled nano-dollars by account of some boots together."""
        lines: Counter[str] = Counter()
        for boot in boots:
            lines.update(self._boots[boot])
        return dict(lines)

    def _line(self, engine: str, account: str, phase: str, method: str, reason: str, nano: int) -> None:  # noqa: PLR0917 - the journal's columns, in their order
        self.accounts[engine][account, phase, method] += nano
        if account == c.UNATTRIBUTED:
            self.unattributed[engine][reason] += nano

    def _tenant(self, account: str, phase: str, key: TenantKey, nano: int) -> None:
        if account == c.CHARGED:
            self.tenant_cost[key][phase] += nano
        elif account == c.ABORTED:
            self.tenant_aborted[key] += nano

    def _requests(self, engine: str, key: TenantKey, outcome: str, tokens: dict[str, int], number: int) -> None:
        self.tenant_requests[key][outcome] += number
        self.tenant_tokens[key].update(tokens)
        self.image_tokens[engine] += tokens[c.TOKEN_IMAGE]


def _sum(column: sa.Column[int]) -> sa.Label[int]:
    return sa.func.sum(column).label(column.name)


def _window_tokens() -> tuple[sa.Column[int], ...]:
    w = t.window_hours.c
    return (w.prompt_computed, w.prompt_cached, w.engine_output, w.encoder)
