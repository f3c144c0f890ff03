"""What requests of one trace did and cost, from the ledger alone: their times, their settled cost by phase, and the
estimate that was known when they ended.

Times are those of a request's record; where that was pruned, only its end is known. A cost is settled once every
window that the request reaches into is in the books.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import msgspec
import sqlalchemy as sa

from farthing.collectors.wire import decode_line
from farthing.costing.stream import Options
from farthing.domain import conventions as c
from farthing.domain.clock import Anchor
from farthing.domain.errors import TraceError
from farthing.domain.records import Usage
from farthing.domain.trace_ids import is_trace_id
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service.boot_account import kept_options
from farthing.service.scope import shortened
from farthing.service.trace_windows import WindowsOf, settled_until, windows_of

__all__ = [
    "MOST_REQUESTS",
    "PhaseCost",
    "Rest",
    "State",
    "Step",
    "TraceView",
    "TracedRequest",
    "trace_document",
    "trace_view",
]

MOST_REQUESTS: Final = 500
"""Requests of one trace that are shown; the earliest of them, and the one that was asked for."""
READ_TOGETHER: Final = 25
"""Records that are held in memory at once: one may have a thousand sequences."""
BILLION: Final = 10**9

State: TypeAlias = Literal["settled", "in progress", "given up"]
"""Of a cost: final but for late records, part of it still to come, or never to be known as its books stand still."""

QUEUE: Final = "queue"
PREFILL: Final = "prefill"
DECODE: Final = "decode"
WAIT: Final = "wait"
STREAM: Final = "stream"


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a request's time, in UTC nanoseconds: queue, prefill and decode as the engine timed its sequences, from
    the first one's beginning to the last one's end; without engine, wait and stream as its client saw them.
    """

    name: str
    start_ns: int
    end_ns: int
    count: int = 1
    """Sequences that had it."""


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """What a phase of a request cost, settled so far, and how that was split."""

    phase: str
    nano: int
    methods: tuple[str, ...]
    """Of the journal's lines that it is in; empty where these were pruned."""


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """A request and its cost. Times are UTC nanoseconds; None is unknown."""

    request_id: str
    trace_id: str
    span_id: str
    parent_span_id: str
    engine: str
    """Empty for a tenant, whom it does not concern."""
    model: str
    tenant: str
    project: str
    tier: str
    outcome: str
    status: int
    arrived_ns: int | None
    ended_ns: int
    steps: tuple[Step, ...]
    prompt_tokens: int | None
    cached_tokens: int | None
    image_tokens: int | None
    output_tokens: int | None
    state: State
    phases: tuple[PhaseCost, ...]
    """Those that cost anything."""
    cost_nano: int
    """Of all phases."""
    fit_error: float | None
    """Weighted absolute percentage error (0-1) with which its windows' fits predict, the largest; None without one."""
    estimate_nano: int | None
    """At the unit prices that the probe knew when it ended."""
    energy_mj: int
    saved_nano: int
    """By caches; not money spent."""
    settles_ns: int | None = None
    """By when its cost is settled at the latest, as long as its engine reports (UTC); None unless it is in progress."""

    @property
    def begin_ns(self) -> int:
        """When it arrived; its end where that is not known (UTC)."""
        return self.ended_ns if self.arrived_ns is None else self.arrived_ns

    @property
    def difference_nano(self) -> int | None:
        """Settled minus estimated; None where either is unknown."""
        if self.state != "settled" or self.estimate_nano is None:
            return None
        return self.cost_nano - self.estimate_nano


@dataclass(frozen=True, slots=True)
class Rest:
    """The requests of a trace that are not shown one by one, together."""

    requests: int
    ended_ns: int
    """When the last of them ended (UTC)."""
    state: State
    phases: tuple[PhaseCost, ...]
    """Those that cost anything, without methods."""
    cost_nano: int
    """Of all phases."""
    estimate_nano: int | None
    """None where one of them has none."""


@dataclass(frozen=True, slots=True)
class TraceView:
    """Requests that belong together, in the order of their arrival."""

    trace_id: str
    """Empty for a request without a trace."""
    currency: str
    requests: tuple[TracedRequest, ...]
    rest: Rest | None = None
    """None where all of them are shown."""

    @property
    def more(self) -> int:
        """Requests that are not shown."""
        return 0 if self.rest is None else self.rest.requests

    @property
    def state(self) -> State:
        """Settled when every request is."""
        return _state_of(part.state for part in self._parts())

    @property
    def cost_nano(self) -> int:
        """What is settled of all its requests."""
        return sum(part.cost_nano for part in self._parts())

    @property
    def estimate_nano(self) -> int | None:
        """Of all its requests; None where one of them has none."""
        estimates = [part.estimate_nano for part in self._parts()]
        return None if None in estimates else sum(each for each in estimates if each is not None)

    @property
    def start_ns(self) -> int:
        """When the first that is shown arrived, as far as that is known (UTC)."""
        return min(request.begin_ns for request in self.requests)

    @property
    def end_ns(self) -> int:
        """When its last request ended (UTC)."""
        return max(part.ended_ns for part in self._parts())

    def _parts(self) -> tuple[TracedRequest | Rest, ...]:
        return self.requests if self.rest is None else (*self.requests, self.rest)


_WORST_FIRST: tuple[State, ...] = ("given up", "in progress")


def _state_of(parts: Iterable[State]) -> State:
    states = set(parts)
    return next((state for state in _WORST_FIRST if state in states), "settled")


def trace_view(ledger: Ledger, name: str, currency: str, tenants: frozenset[str] | None = None) -> TraceView:
    """The requests of a trace, by its id or that of any request in it; of ``tenants`` alone where they are given, and
    then without the names of engines and the errors of their fits.

    Raises TraceError when there are none, in the same words for what may not be seen.
    """
    where, asked = _wanted(ledger, name, tenants)
    found = _found(ledger, where, asked)
    read = _usages(ledger, found[:MOST_REQUESTS])
    windows = windows_of(ledger, [usage for usage, _ in read.values()])
    reach = settled_until(ledger, where) if len(found) > MOST_REQUESTS else {}
    # costs are read after the windows that settle them: what is called settled has all of its cost
    found = _found(ledger, where, asked)
    if not found:
        raise TraceError(
            f"no request or trace {shortened(name)} in the ledger; a request is there some seconds after it ended, if "
            "its engine has a price"
        )
    shown, rest = found[:MOST_REQUESTS], None
    if len(found) > MOST_REQUESTS:
        rest = _rest(ledger, [*where, _after(shown[-1], asked)], reach)
    requests = _requests(shown, read, windows)
    if tenants is not None:
        requests = (replace(request, engine="", fit_error=None) for request in requests)
    views = sorted(requests, key=lambda request: (request.begin_ns, request.request_id))
    return TraceView(next((row.trace_id for row in shown if row.trace_id), ""), currency, tuple(views), rest)


def trace_document(view: TraceView) -> dict[str, Any]:
    """The trace as JSON has it: every field of the view, and what follows from them."""
    requests = [
        {**msgspec.to_builtins(request), "difference_nano": request.difference_nano} for request in view.requests
    ]
    return {
        "trace_id": view.trace_id,
        "currency": view.currency,
        "state": view.state,
        "start_ns": view.start_ns,
        "end_ns": view.end_ns,
        "cost_nano": view.cost_nano,
        "estimate_nano": view.estimate_nano,
        "requests": requests,
        "more": view.more,
        "rest": msgspec.to_builtins(view.rest),
    }


_Read: TypeAlias = dict[tuple[str, int, int], tuple[Usage, tuple[Step, ...]]]
"""Boot, process and sequence -> the record of a request, without its sequences, and its steps."""


def _wanted(ledger: Ledger, name: str, tenants: frozenset[str] | None) -> tuple[list[sa.ColumnElement[bool]], str]:
    """Requests by their trace, else by their own id and with them those of their traces; and this id."""
    q = t.requests.c
    seen = [] if tenants is None else [q.tenant.in_(sorted(tenants))]
    by_trace = [_of_traces([name]), *seen]
    if is_trace_id(name) and ledger.select(sa.select(q.boot).where(*by_trace).limit(1)):
        return by_trace, ""
    where = q.request_id == name
    traces = ledger.select(sa.select(q.trace_id).where(where, *seen, q.trace_id != "").distinct().limit(MOST_REQUESTS))
    if traces:
        where |= _of_traces(sorted(row.trace_id for row in traces))
    return [where, *seen], name


def _of_traces(traces: Sequence[str]) -> sa.ColumnElement[bool]:
    q = t.requests.c
    # the second half in the words of the index, which is of requests with a trace alone
    return q.trace_id.in_(traces) & (q.trace_id != sa.literal_column("''"))


def _order(asked: str) -> tuple[sa.ColumnElement[Any], ...]:
    """The request that was asked for, then the earliest."""
    q = t.requests.c
    return q.request_id != asked, q.ended_wall_ns, q.boot, q.process, q.sequence


def _found(ledger: Ledger, where: Sequence[sa.ColumnElement[bool]], asked: str) -> list[Any]:
    """Those that are shown, and one more if there are more."""
    q, b = t.requests.c, t.boots.c
    boot = (b.wall_ns, b.mono_ns, b.closed_ns, b.given_up_ns, b.costing)
    query = sa.select(t.requests, *boot).select_from(t.requests.join(t.boots, b.boot == q.boot)).where(*where)
    return ledger.select(query.order_by(*_order(asked)).limit(MOST_REQUESTS + 1))


def _after(row: Any, asked: str) -> sa.ColumnElement[bool]:
    """What comes after a request in that order."""
    last = (row.request_id != asked, row.ended_wall_ns, row.boot, row.process, row.sequence)
    return sa.tuple_(*_order(asked)) > sa.tuple_(*last)


def _rest(ledger: Ledger, where: Sequence[sa.ColumnElement[bool]], reach: Mapping[str, int]) -> Rest | None:
    """The sums of these requests; None where there is none any more. ``reach`` was read before: see `settled_until`."""
    q, b = t.requests.c, t.boots.c
    # SQLite's sums overflow above 64 bits, which two estimates of a probe can reach
    sums = [
        part
        for name in (*(f"{phase}_nano" for phase in c.PHASES), "estimate_nano")
        for part in (sa.func.sum(q[name] // BILLION), sa.func.sum(q[name] % BILLION))
    ]
    counts = (sa.func.count(), sa.func.count(q.estimate_nano), sa.func.max(q.ended_wall_ns).label("last_ns"))
    by_boot = sa.select(q.boot, *counts, *sums).where(*where).group_by(q.boot).subquery()
    # in the same statement: a boot that ends a moment later would make these sums final
    boot = (b.closed_ns, b.given_up_ns)
    rows = ledger.select(sa.select(by_boot, *boot).select_from(by_boot.join(t.boots, b.boot == by_boot.c.boot)))
    if not rows:
        return None
    first = 1 + len(counts)
    totals = [sum(int(row[place] or 0) for row in rows) for place in range(first, first + len(sums))]
    *costs, estimate = (whole * BILLION + part for whole, part in zip(totals[::2], totals[1::2], strict=True))
    count, estimated = (sum(int(row[place]) for row in rows) for place in (1, 2))
    return Rest(
        requests=count,
        ended_ns=max(int(row.last_ns) for row in rows),
        state=_state_of(_state(row, reach.get(row.boot, 0) >= row.last_ns) for row in rows),
        phases=tuple(PhaseCost(phase, nano, ()) for phase, nano in zip(c.PHASES, costs, strict=True) if nano),
        cost_nano=sum(costs),
        estimate_nano=estimate if estimated == count else None,
    )


def _requests(rows: Sequence[Any], read: _Read, loaded: Mapping[tuple[str, int], WindowsOf]) -> Iterator[TracedRequest]:
    for row in rows:
        usage, steps = read.get((row.boot, row.process, row.sequence), (None, ()))
        windows = None if usage is None else loaded[usage.key.boot, usage.engine_index]
        methods, error = {}, None
        if usage is not None and windows is not None:
            methods = windows.methods_of(usage, (row.tenant, row.project, row.model, row.tier))
            error = windows.error_of(usage)
        costs = {phase: int(getattr(row, f"{phase}_nano")) for phase in c.PHASES}
        state = _state(row, usage is not None and windows is not None and windows.settle(usage))
        yield TracedRequest(
            request_id=row.request_id,
            trace_id=row.trace_id,
            span_id=row.span_id,
            parent_span_id=row.parent_span_id,
            engine=row.engine,
            model=row.model,
            tenant=row.tenant,
            project=row.project,
            tier=row.tier,
            outcome=row.outcome,
            status=row.status,
            arrived_ns=None if usage is None else Anchor(row.wall_ns, row.mono_ns).to_wall(usage.arrived_ns),
            ended_ns=row.ended_wall_ns,
            steps=steps,
            prompt_tokens=None if row.prompt_computed is None else row.prompt_computed + (row.prompt_cached or 0),
            cached_tokens=row.prompt_cached,
            image_tokens=row.image_tokens,
            output_tokens=row.output_tokens,
            state=state,
            phases=tuple(PhaseCost(phase, nano, methods.get(phase, ())) for phase, nano in costs.items() if nano),
            cost_nano=sum(costs.values()),
            fit_error=error,
            estimate_nano=row.estimate_nano,
            energy_mj=row.energy_mj,
            saved_nano=row.saved_nano,
            settles_ns=row.ended_wall_ns + _patience_ns(row.costing) if state == "in progress" else None,
        )


def _usages(ledger: Ledger, rows: Sequence[Any]) -> _Read:
    """The records of these requests that are still in the inbox, without their sequences; and the steps of these."""
    r = t.records.c
    key = sa.tuple_(r.boot, r.process, r.sequence)
    found = {}
    for begin in range(0, len(rows), READ_TOGETHER):
        some = {(row.boot, row.process, row.sequence): row for row in rows[begin : begin + READ_TOGETHER]}
        query = sa.select(r.boot, r.process, r.sequence, r.line).where(key.in_(some))
        for boot, process, sequence, line in ledger.select(query):
            record = decode_line(bytes(line))
            if isinstance(record, Usage):
                row = some[boot, process, sequence]
                steps = tuple(_steps(record, Anchor(row.wall_ns, row.mono_ns)))
                found[boot, process, sequence] = replace(record, sequences=()), steps
    return found


def _state(row: Any, reached: bool) -> State:
    """Of what a boot did, whose windows reach up to its end or do not yet.

    One that has ended may still wait for samples of its devices, and its last windows with it.
    """
    if row.closed_ns is not None or reached:
        return "settled"
    return "in progress" if row.given_up_ns is None else "given up"


def _patience_ns(costing: str) -> int:
    """How long the last window of a request takes to settle: it closes, waits for what overlaps it or for its fit, and
    then for samples of its devices.
    """
    options = kept_options(costing, Options())
    return options.window_ns + max(options.grace_ns, options.warm_up_ns) + options.grace_ns


def _steps(usage: Usage, anchor: Anchor) -> Iterator[Step]:
    parts: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for each in usage.sequences:
        first = each.last_ns if each.first_ns is None else each.first_ns
        parts[QUEUE].append((each.scheduled_ns - each.queued_ns, each.scheduled_ns))
        parts[PREFILL].append((each.scheduled_ns, first))
        if each.last_ns > first:
            parts[DECODE].append((first, each.last_ns))
    first_ns, last_ns = usage.first_ns, usage.last_ns
    if not usage.sequences and usage.outcome != c.REJECTED:
        parts[WAIT].append((usage.arrived_ns, usage.ended_ns if first_ns is None else first_ns))
    if first_ns is not None and last_ns is not None and last_ns > first_ns:
        parts[STREAM].append((first_ns, last_ns))
    for name, times in parts.items():
        start, end = min(start for start, _ in times), max(end for _, end in times)
        yield Step(name, anchor.to_wall(start), anchor.to_wall(end), len(times))
