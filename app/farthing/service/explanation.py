"""Where a statement's line comes from: its formula, the requests behind it, and what they were costed with."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farthing.books.closing import ClosingDocument, decode_closing
from farthing.books.periods import bounds
from farthing.books.policy import parse_policy
from farthing.books.recompute import recompute_line
from farthing.books.statement import Statement, StatementLine
from farthing.domain import conventions as c
from farthing.domain.clock import utc
from farthing.domain.errors import PeriodError
from farthing.domain.money import from_nano
from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.period_books import PeriodBooks
from farthing.ledger.repository import Ledger
from farthing.service.issued import issued_statement

__all__ = ["EngineSource", "Explanation", "RequestSource", "explain_line"]


@dataclass(frozen=True, slots=True)
class RequestSource:
    """A request behind a line."""

    request_id: str
    ended: str
    outcome: str
    tokens: int | None
    nano: int
    window: str
    """When the costed window began in which it ended (UTC), and the fit that split it."""


@dataclass(frozen=True, slots=True)
class EngineSource:
    """A boot behind a line, and what its work was costed with."""

    boot: str
    windows: int
    """0 where they were pruned."""
    fit: str
    """Version and method of its latest fit."""
    error: float | None
    price: str
    sha256: str
    """Over its input records, as the closing cites them."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A line's sources, from the amount down to the hashes of what came in."""

    title: str
    told: tuple[tuple[str, str], ...]
    requests: tuple[RequestSource, ...]
    request_count: int
    engines: tuple[EngineSource, ...]


def explain_line(ledger: Ledger, number: str, place: int, top: int) -> Explanation:
    """Explain a line of an issued statement; its ``top`` costliest requests are listed.

    Raises PeriodError when there is no such line.
    """
    statement = issued_statement(ledger, number)
    line = statement.line(place)
    k = t.closings.c
    with transaction(ledger.engine) as connection:
        query = sa.select(k.document, k.policy_version, k.sha256).where(k.period == statement.period)
        row = connection.execute(query).one()
        document = decode_closing(bytes(row.document))
        content = PeriodBooks(connection).version("policy", row.policy_version)
        if content is None:
            raise PeriodError(f"statement {number}: policy {row.policy_version} is not in the ledger any more")
        amount = recompute_line(line, document.facts, parse_policy(content))
        where = _requests_of(line, statement)
        count, requests = _costliest(connection, line, where, top) if where is not None else (0, ())
        engines = _engines(connection, document, line)
        pruned = _pruned(connection, document)
    return Explanation(
        title=f"Line {place} of statement {number}: {line.description}",
        told=_told(line, statement, amount, row.sha256) + pruned,
        requests=requests,
        request_count=count,
        engines=engines,
    )


def _told(line: StatementLine, statement: Statement, amount: int | None, closing: str) -> tuple[tuple[str, str], ...]:
    told: list[tuple[str, Any]] = [
        ("amount", "unpriced" if line.amount_nano is None else f"{from_nano(line.amount_nano):f} {statement.currency}"),
        ("recomputed", "the same" if amount == line.amount_nano else f"DIFFERS: {amount} nano"),
        ("section", line.section),
        ("service period", line.service_period),
        ("account", " ".join(part for part in (line.account, line.phase, line.reason) if part)),
        ("who", " / ".join(part for part in (line.tenant, line.project, line.model, line.tier) if part)),
        ("method", line.method),
        ("quantity", "" if line.quantity is None else f"{line.quantity:,} {line.unit}"),
        *((f"basis: {name}", value) for name, value in sorted(line.basis.items())),
        ("pricing", statement.pricing),
        ("policy", statement.policy_version),
        ("settlement", statement.settlement_policy),
        ("prices", ", ".join(statement.price_versions)),
        ("closing", f"SHA-256 {closing}"),
    ]
    return tuple((name, str(value)) for name, value in told if value not in {"", None})


def _pruned(connection: Connection, document: ClosingDocument) -> tuple[tuple[str, str], ...]:
    """What of the sources is not there any more."""
    s = t.seals.c
    members = [member for boot in document.boots for member in boot.members]
    of_period = (s.table_name == t.journal.name) & (s.period == document.facts.period)
    query = sa.select(s.table_name).where(s.boot.in_(members) | of_period).distinct().order_by(s.table_name)
    names = list(connection.execute(query).scalars())
    return (("pruned", f"{', '.join(names)} of this period; a backup has them"),) if names else ()


def _requests_of(line: StatementLine, statement: Statement) -> list[sa.ColumnElement[bool]] | None:
    """Which requests are behind a line; None when none are, as of shares of pools."""
    if line.account not in {c.CHARGED, c.ABORTED} or not line.tenant:
        return None
    q = t.requests.c
    start, end = bounds(line.service_period)
    outcome = c.ABORTED if line.account == c.ABORTED else c.FINISHED
    found = [q.ended_wall_ns >= start, q.ended_wall_ns < end, q.tenant == line.tenant, q.outcome == outcome]
    if line.phase:
        found.append(q[f"{line.phase}_nano"] > 0)
    found += [q[name] == getattr(line, name) for name in ("project", "model", "tier") if getattr(line, name)]
    return found


def _costliest(
    connection: Connection, line: StatementLine, where: list[sa.ColumnElement[bool]], top: int
) -> tuple[int, tuple[RequestSource, ...]]:
    q, w = t.requests.c, t.windows.c
    cost = q[f"{line.phase}_nano"] if line.phase else q.prefill_nano + q.decode_nano + q.vision_nano
    count = int(connection.execute(sa.select(sa.func.count()).select_from(t.requests).where(*where)).scalar() or 0)
    query = sa.select(t.requests, cost.label("nano")).where(*where).order_by(cost.desc(), q.request_id).limit(top)
    rows = connection.execute(query).all()
    found = []
    for row in rows:
        query = sa.select(w.wall_start_ns, w.fit_version).where(w.boot == row.boot, w.wall_end_ns > row.ended_wall_ns)
        window = connection.execute(query.order_by(w.wall_end_ns).limit(1)).first()
        known = [value for value in (row.prompt_computed, row.output_tokens) if value is not None]
        found.append(
            RequestSource(
                request_id=row.request_id,
                ended=f"{utc(row.ended_wall_ns):%Y-%m-%d %H:%M:%S}",
                outcome=row.outcome,
                tokens=sum(known) if known else None,
                nano=int(row.nano),
                window=f"{utc(window.wall_start_ns):%H:%M:%S} {window.fit_version}" if window else "",
            )
        )
    return count, tuple(found)


def _engines(connection: Connection, document: ClosingDocument, line: StatementLine) -> tuple[EngineSource, ...]:
    """The boots whose journal lines are behind a line."""
    j, f = t.journal.c, t.fits.c
    where = [j.period == document.facts.period, j.debit == line.account]
    who = ("phase", "tenant", "project", "model", "tier")
    where += [j[name] == getattr(line, name) for name in who if getattr(line, name)]
    counts: Counter[str] = Counter()
    query = sa.select(j.boot, sa.func.count(sa.distinct(j.start_ns))).where(*where).group_by(j.boot)
    for boot, number in connection.execute(query):
        counts[boot] += int(number)
    b = t.boot_lines.c
    kept = sa.select(b.boot).where(b.period == document.facts.period, b.account == line.account)
    # of a journal that was pruned, the sums tell at least whose account it was
    behind = set(counts) or set(connection.execute(kept).scalars())
    found = []
    for boot in document.boots:
        windows = sum(counts[member] for member in boot.members)
        if not behind.intersection(boot.members):
            continue
        fits = sa.select(f.version, f.method, f.evidence).where(f.boot.in_(boot.members)).order_by(f.version.desc())
        fit = connection.execute(fits.limit(1)).first()
        error = json.loads(fit.evidence)["walk_forward_wape"] if fit else None
        name = f"{fit.version} ({fit.method})" if fit else ""
        found.append(EngineSource(boot.name, windows, name, error, boot.price_version, boot.sha256))
    return tuple(found)
