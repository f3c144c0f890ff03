"""What a period's key figures are computed from, read from the ledger's hourly sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from farthing.books.kpis import Measures
from farthing.books.variance import Driver
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.ledger import tables as t
from farthing.ledger.cost_sums import cost_sums
from farthing.ledger.repository import Ledger
from farthing.service.hourly_spend import BORNE
from farthing.service.scope import Scope
from farthing.service.unpriced import unpriced_in

__all__ = ["DOCUMENT_LIMIT", "drivers", "key_figures", "measure", "with_requests"]

DOCUMENT_LIMIT = 100_000
"""Requests of a period that are read one by one without being asked to."""

_COLUMNS = {
    c.TOKEN_PROMPT_COMPUTED: "prompt_computed",
    c.TOKEN_PROMPT_CACHED: "prompt_cached",
    c.TOKEN_IMAGE: "image_tokens",
    c.TOKEN_OUTPUT: "output_tokens",
}
_UNITS = {c.PREFILL: "prompt_computed", c.DECODE: "output_tokens", c.VISION: "image_tokens"}


def measure(ledger: Ledger, scope: Scope) -> Measures:
    """A period's cost, requests and tokens. What only single requests know is left unknown."""
    o, u, s = t.cost_hours.c, t.usage_hours.c, t.saving_hours.c
    accounts: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    named = 0
    for (account, phase, tenant), (nano,) in cost_sums(ledger, ("account", "phase", "tenant"), scope.where(o)).items():
        accounts[account] += nano
        if account in BORNE:
            phases[phase] += nano
            named += 0 if tenant in {"", c.UNKNOWN} else nano
    sums = [sa.func.sum(u[name]).label(name) for name in ("requests", "uncounted", *_COLUMNS.values())]
    requests: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    uncounted = 0
    for row in ledger.select(sa.select(u.outcome, *sums).where(*scope.where(u)).group_by(u.outcome)):
        values = row._mapping
        requests[row.outcome] += int(values["requests"])
        uncounted += int(values["uncounted"])
        tokens.update({kind: int(values[column]) for kind, column in _COLUMNS.items()})
    ((saved,),) = ledger.select(sa.select(sa.func.sum(s.nano)).where(*scope.where(s)))
    unpriced = tuple(engine.engine for engine in unpriced_in(ledger, scope))
    return Measures(accounts, phases, named, requests, tokens, uncounted, int(saved or 0), unpriced=unpriced)


def key_figures(ledger: Ledger, scope: Scope, *, documents: bool = False) -> Measures:
    """A period's measures, with documents and images where there are few requests or where they are asked for."""
    measures = measure(ledger, scope)
    if documents or sum(measures.requests.values()) <= DOCUMENT_LIMIT:
        return with_requests(ledger, scope, measures)
    return measures


def with_requests(ledger: Ledger, scope: Scope, measures: Measures) -> Measures:
    """The same with documents and requests with images, which are counted request by request.

    Documents are the workloads that a tenant's requests name. A request counts in the hour in which it ended, with all
    of its cost.
    """
    q = t.requests.c
    cost = q.prefill_nano + q.decode_nano + q.vision_nano
    where: list[sa.ColumnElement[bool]] = [q.ended_wall_ns >= scope.start_hour * HOUR]
    if scope.end_hour is not None:
        where.append(q.ended_wall_ns < scope.end_hour * HOUR)
    where += [q[key] == name for key, name in scope.filters.items()]
    documents: Any = sa.select(sa.func.sum(cost).label("nano")).where(*where, q.workload.not_in(("", c.UNKNOWN)))
    documents = documents.group_by(q.tenant, q.workload).subquery()
    counted: Any = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(documents.c.nano), 0)).select_from(documents)
    images: Any = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(cost), 0))
    images = images.where(*where, q.image_tokens > 0, q.outcome == c.FINISHED)
    ((number, nano),) = ledger.select(counted)
    ((pictures, picture_nano),) = ledger.select(images)
    return replace(
        measures,
        documents=(int(number), int(nano)),
        image_requests=(int(pictures), int(picture_nano)),
    )


def drivers(ledger: Ledger, scope: Scope) -> dict[tuple[str, ...], Driver]:
    """(model, phase) -> tokens and nano-dollars of charged and aborted work; (account, reason) -> what has no unit."""
    o, u = t.cost_hours.c, t.usage_hours.c
    costs: Counter[tuple[str, ...]] = Counter()
    for key, (nano,) in cost_sums(ledger, ("account", "model", "phase", "reason"), scope.where(o)).items():
        account, model, phase, reason = key
        costs[(model, phase) if account in BORNE else (account, reason)] += nano
    sums = [sa.func.sum(u[name]).label(name) for name in _UNITS.values()]
    units: dict[tuple[str, ...], int] = {}
    for row in ledger.select(sa.select(u.model, *sums).where(*scope.where(u)).group_by(u.model)):
        for phase, column in _UNITS.items():
            units[row.model, phase] = int(row._mapping[column])
    found: dict[tuple[str, ...], Driver] = {}
    for key, nano in costs.items():
        found[key] = (None if key[0] in c.BOOK_ACCOUNTS else units.get(key, 0), nano)
    return found
