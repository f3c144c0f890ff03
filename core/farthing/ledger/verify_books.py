"""Windows and requests against the journal and the records that they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from farthing.books.periods import bounds
from farthing.domain import conventions as c
from farthing.domain.clock import Anchor
from farthing.ledger import tables as t
from farthing.ledger.verify_sums import Found, Scope, difference, named, stream

__all__ = [
    "adjustments_have_windows",
    "requests_are_the_journals",
    "requests_are_the_records",
    "windows_are_the_journals",
    "windows_tile_their_boot",
]

_WINDOW = ("boot", "engine_index", "start_ns")
_TIMES = {"started": "at_ns", "lifecycle": "at_ns", "counters": "at_ns", "steps": "until_ns", "usage": "ended_ns"}
"""Kind of a record -> the field of its line that is its event's time."""
_SAID = (
    "request_id",
    "tenant",
    "project",
    "workload",
    "tier",
    "model",
    "outcome",
    "status",
    "seen_by",
    "trace_id",
    "span_id",
    "parent_span_id",
    "estimate_nano",
)
"""What a request's row has from its record under the same name."""
_UNSAID = ("", c.UNKNOWN, "both", None)
"""What a row says where its record says nothing."""
_STARTED = {"engine_kind": "kind", "model": "model", "ranks": "ranks", "wall_ns": "wall_ns", "at_ns": "mono_ns"}
"""Field of a start's line -> the column of its boot."""
_NOTES = (c.INBOX_REFUSED, c.INBOX_SILENT, c.INBOX_ABANDONED)


def windows_are_the_journals(scope: Scope) -> Found:
    """Every window's journal lines add up to its bill and its energy, and are of its time.

    Where the journal is sealed, a window's lines may all be gone.
    """
    w, j = t.windows.c, t.journal.c
    rows = scope.count(t.windows)
    ours = (~j.boot.startswith(c.CAPACITY_BOOT, autoescape=True), scope.live_in(j.boot, "windows"))
    window = [w[name] for name in _WINDOW]
    bills = sa.select(
        *window,
        w.wall_start_ns,
        w.wall_end_ns,
        w.fit_version,
        w.bill_nano,
        sa.func.coalesce(w.energy_mj, 0).label("mj"),
    )
    zero = sa.literal(0)
    lines = sa.select(
        *(j[name] for name in _WINDOW), j.wall_start_ns, j.wall_end_ns, j.fit_version, j.nano, j.millijoules
    )
    kept, posted = bills.where(scope.live(t.windows)).subquery(), lines.where(*ours, scope.unsealed()).subquery()
    key = (*_WINDOW, "wall_start_ns", "wall_end_ns", "fit_version")
    both = sa.union_all(
        sa.select(
            *(kept.c[n] for n in key), kept.c.bill_nano.label("bill"), kept.c.mj, zero.label("nano"), zero.label("used")
        ),
        sa.select(
            *(posted.c[n] for n in key), zero.label("bill"), zero.label("mj"), posted.c.nano, posted.c.millijoules
        ),
    ).subquery()
    sums = [sa.func.sum(both.c[name]) for name in ("bill", "nano", "mj", "used")]
    bill, nano, energy, used = sums
    gone: sa.ColumnElement[bool] = sa.false()
    if scope.sealed.journal_through:
        end = bounds(scope.sealed.journal_through)[1]
        gone = (both.c.wall_end_ns <= end) & (nano == 0) & (used == 0)
    columns = [both.c[name] for name in key]
    query = sa.select(*columns, *sums).group_by(*columns).having(((bill != nano) | (energy != used)) & ~gone)
    row = scope.connection.execute(query.order_by(*columns).limit(1)).first()
    if row is None:
        return Found(rows, _strange_line(scope))
    amounts = [int(amount) for amount in row[len(key) :]]
    detail = f"bill {amounts[0]} and lines {amounts[1]} nano, {amounts[2]} and {amounts[3]} mJ"
    return Found(rows, f"windows: {named(_WINDOW, row[:3])}: {detail}, from {row[3]} to {row[4]} by {row[5]}")


def windows_tile_their_boot(scope: Scope) -> Found:
    """Windows of a rank follow one another without gap, at the boot's clock, and their busy time is its phases'."""
    w, b = t.windows.c, t.boots.c
    phases = w.prefill_ns + w.decode_ns + w.vision_ns
    following = sa.func.lead(w.start_ns).over(partition_by=(w.boot, w.engine_index), order_by=w.start_ns)
    seen = (
        sa.select(
            *(w[name] for name in _WINDOW),
            (w.end_ns - following).label("gap"),
            (w.wall_start_ns - w.start_ns - b.wall_ns + b.mono_ns).label("start_off"),
            (w.wall_end_ns - w.end_ns - b.wall_ns + b.mono_ns).label("end_off"),
            (w.busy_ns - phases).label("busy_off"),
            (b.ranks - 1 - w.engine_index).label("ranks_left"),
            sa.case((b.ranks == 1, b.covered_ns - w.wall_end_ns), else_=0).label("covered"),
        )
        .join_from(t.windows, t.boots, w.boot == b.boot)
        .subquery()
    )
    off = [seen.c[name] != 0 for name in ("gap", "start_off", "end_off", "busy_off")]
    wrong = sa.or_(*off, seen.c.ranks_left < 0, seen.c.covered < 0)
    query = sa.select(*(seen.c[name] for name in _WINDOW)).where(wrong)
    row = scope.connection.execute(query.order_by(*(seen.c[name] for name in _WINDOW)).limit(1)).first()
    detail = "does not fit its boot's clock, ranks, its neighbour or its phases"
    return Found(scope.count(t.windows), "" if row is None else f"windows: {named(_WINDOW, row)} {detail}")


def requests_are_the_journals(scope: Scope) -> Found:
    """What requests cost, and used of energy, is what journal lines of their boot, tenant, model and tier say.

    Of boots with sealed requests or journal lines the sums by the hour are what is left to compare.
    """
    q, j, b = t.requests.c, t.journal.c, t.boots.c
    keys = ("boot", "tenant", "model", "tier")
    compared = scope.live(t.requests)
    ours = [(j.debit.in_((c.CHARGED, c.ABORTED))) | (j.reason == c.REASON_FAILED), scope.live_in(j.boot, "requests")]
    ours += [~j.boot.startswith(prefix, autoescape=True) for prefix in (c.SCRAPED_BOOT, c.CAPACITY_BOOT)]
    if scope.sealed.journal_through:
        young = sa.select(b.boot).where(b.started_ns >= bounds(scope.sealed.journal_through)[1])
        compared &= q.boot.in_(young)
        ours.append(j.boot.in_(young))
    costs = [q[f"{phase}_nano"] for phase in c.PHASES]
    kept = sa.select(*(q[name] for name in keys), *costs, q.energy_mj).where(compared)
    phases = [sa.case((j.phase == phase, j.nano), else_=0).label(f"{phase}_nano") for phase in c.PHASES]
    posted = sa.select(*(j[name] for name in keys), *phases, j.millijoules.label("energy_mj")).where(*ours)
    amounts = [*(f"{phase}_nano" for phase in c.PHASES), "energy_mj"]
    row = scope.connection.execute(difference(kept, posted, keys, amounts).limit(1)).first()
    rows = scope.count(t.requests)
    if row is None:
        return Found(rows)
    off = ", ".join(f"{name} {int(row[place])}" for place, name in enumerate(amounts, len(keys)) if row[place])
    return Found(rows, f"requests: {named(keys, row[:4])}: requests minus journal: {off}")


def requests_are_the_records(scope: Scope) -> Found:
    """A request's row says what its record says, every record's key is its line's, and so is its time."""
    r, q, b = t.records.c, t.requests.c, t.boots.c
    joined = t.records.outerjoin(
        t.requests,
        (q.boot == r.boot) & (q.process == r.process) & (q.sequence == r.sequence) & (r.kind == "usage"),
    ).outerjoin(t.boots, b.boot == r.boot)
    names = ("boot", "process", "sequence")
    query = sa.select(
        *(r[name] for name in (*names, "kind", "event_ns", "line")),
        *(q[name].label(f"said_{name}") for name in (*_SAID, "ended_wall_ns")),
        *(b[name].label(f"boot_{name}") for name in (*_STARTED.values(), "started_ns")),
    ).select_from(joined)
    rows = 0
    for row in stream(scope.connection, query):
        rows += 1
        if bad := _record(row):
            return Found(rows, f"records: boot {row.boot}, process {row.process}, sequence {row.sequence}: {bad}")
    own = sa.select(r.boot).where(*(r[name] == q[name] for name in names))
    without = sa.select(*(q[name] for name in names)).where(scope.live_in(q.boot, "records"), ~own.exists())
    row = scope.connection.execute(without.limit(1)).first()
    return Found(rows, "" if row is None else f"requests: {named(names, row)} has no record")


def adjustments_have_windows(scope: Scope) -> Found:
    """Every adjustment is one of a window and of a record that took part in it."""
    a, w, q = t.adjustments.c, t.windows.c, t.requests.c
    windows = sa.select(w.boot).where(*(w[name] == a[name] for name in _WINDOW))
    requests = sa.select(q.boot).where(*(q[name] == a[name] for name in ("boot", "process", "sequence")))
    lost = (scope.live_in(a.boot, "windows") & ~windows.exists()) | (
        scope.live_in(a.boot, "requests") & ~requests.exists()
    )
    names = [column.name for column in t.adjustments.columns]
    row = scope.connection.execute(sa.select(t.adjustments).where(lost).limit(1)).first()
    bad = "" if row is None else f"adjustments: {named(names, row)} has no window or no request"
    return Found(scope.count(t.adjustments), bad)


# ---- inside ------------------------------------------------------------------------------------------


def _strange_line(scope: Scope) -> str:
    """A journal line of no known state or origin."""
    j = t.journal.c
    bought = j.boot.startswith(c.CAPACITY_BOOT, autoescape=True)
    wrong = j.state.not_in(c.ENTRY_STATES) | (j.credit != sa.case((bought, c.CAPACITY), else_=c.GPU_ALLOCATION))
    row = scope.connection.execute(sa.select(j.id, j.state, j.credit).where(wrong).order_by(j.id).limit(1)).first()
    return "" if row is None else f"journal: line {row.id} is {row.state!r} and credits {row.credit!r}"


def _record(row: Any) -> str:
    """What is wrong with a record, or with the request or boot that it became."""
    try:
        said = json.loads(bytes(row.line))
        kind = said["kind"]
        key = (row.boot, row.process, row.sequence) if kind in _NOTES else (said["boot"], said["proc"], said["seq"])
    except (ValueError, KeyError, TypeError):
        return "its line is no record"
    if (*key, kind) != (row.boot, row.process, row.sequence, row.kind):
        return "its line is another record's"
    if kind in _TIMES and said.get(_TIMES[kind]) != row.event_ns:
        return "its line is of another time"
    if kind == "started" and row.boot_kind is not None and not row.boot.startswith(c.SCRAPED_BOOT):
        return _start(row, said)
    return "" if row.said_request_id is None else _request(row, said)


def _start(row: Any, said: Mapping[str, Any]) -> str:
    for field, column in _STARTED.items():
        found = getattr(row, f"boot_{column}")
        if said.get(field, 1) != found:
            return f"it says {field} {said.get(field)!r}, and its boot {found!r}"
    return "" if row.boot_started_ns == row.boot_wall_ns else "its boot started at another time"


def _request(row: Any, said: Mapping[str, Any]) -> str:
    for name in _SAID:
        found = getattr(row, f"said_{name}")
        if found != said[name] if name in said else found not in _UNSAID:
            return f"it says {name} {said.get(name)!r}, and its request {found!r}"
    if row.boot_wall_ns is None:
        return ""
    ended = Anchor(row.boot_wall_ns, row.boot_mono_ns).to_wall(row.event_ns)
    return "" if ended == row.said_ended_wall_ns else "its request ended at another time"
