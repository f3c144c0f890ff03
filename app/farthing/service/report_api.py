"""Reports, traces and issued statements over HTTP, limited to what the principal of a request may see.

Reports read the ledger on worker threads. Whatever a request asks, it is answered with a report or with one line that
says what is wrong with it; nothing in an answer depends on names that the principal may not see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, get_args

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from farthing.domain.access import Scope as Access
from farthing.domain.errors import FarthingError, LedgerError, PeriodError, TraceError
from farthing.exporters.report import Output, render
from farthing.exporters.statement import MEDIA_TYPES, render_statement
from farthing.exporters.web.viewer import own_tenants, principal_of
from farthing.ledger.repository import Ledger
from farthing.service.issued import is_issued_to, issued_statement, issued_statements
from farthing.service.reports import GROUPS, report
from farthing.service.scope import FILTERS, parse_moment, shortened
from farthing.service.trace_view import trace_document, trace_view

__all__ = ["REPORT_PATH", "STATEMENTS_PATH", "TRACE_PATH", "report_routes"]

REPORT_PATH: Final = "/api/v1/report"
STATEMENTS_PATH: Final = "/api/v1/statements"
TRACE_PATH: Final = "/api/v1/trace"

OUTPUTS: Final[tuple[Output, ...]] = get_args(Output)
OWN_FORMS: Final = ("csv",)
"""What a tenant's token gets a statement as: its lines. The other forms name engines, their starts and whole pools."""
REPORT_PARAMETERS: Final = ("since", "until", "by", *FILTERS, "output")
STATEMENTS_PARAMETERS: Final = ("period", "tenant")
AT_ONCE: Final = 2
"""Reports that are made at the same time."""
MOST_OPEN: Final = 32
"""Reports that are made or waited for; another one is to come back later."""
MOST_CHARACTERS: Final = 512
"""Of a parameter; the ledger holds no longer name."""

_MEDIA: Final[Mapping[str, str]] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "table": "text/plain; charset=utf-8",
}
_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # a statement is a page with a style sheet of its own, which its own policy allows by its hash
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox",
}


class _RefusedError(Exception):
    """A request that is not answered, with the status and one line."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


def report_routes(ledger: Ledger, currency: str, clock: Callable[[], datetime]) -> list[Route]:
    """Routes of ``/api/v1/report``, ``/api/v1/statements``, ``/api/v1/statements/NUMBER.FORM`` and
    ``/api/v1/trace/ID``; ``clock`` is UTC.
    """
    desk = _Desk()

    async def cost(request: Request) -> Response:
        return await desk.answer(lambda: _report(request, ledger, currency, clock()))

    async def listed(request: Request) -> Response:
        return await desk.answer(lambda: _statements(request, ledger, currency))

    async def statement(request: Request) -> Response:
        return await desk.answer(lambda: _statement(request, ledger))

    async def trace(request: Request) -> Response:
        return await desk.answer(lambda: _trace(request, ledger, currency))

    return [
        Route(REPORT_PATH, cost, name="report"),
        Route(STATEMENTS_PATH, listed, name="statements"),
        Route(f"{STATEMENTS_PATH}/{{number}}.{{form}}", statement, name="statement"),
        # an id is its sender's own, and may have slashes
        Route(f"{TRACE_PATH}/{{id:path}}", trace, name="trace"),
    ]


class _Desk:
    """Answers on threads of its own: however many reports are asked for, and however long they take, all that other
    requests need the shared threads for goes on.
    """

    def __init__(self) -> None:
        self._threads = CapacityLimiter(AT_ONCE)
        self._open = 0

    async def answer(self, answer: Callable[[], Response]) -> Response:
        if self._open >= MOST_OPEN:
            return _answered(_busy)
        self._open += 1
        try:
            return await to_thread.run_sync(_answered, answer, limiter=self._threads)
        finally:
            self._open -= 1


def _busy() -> Response:
    problem = f"{MOST_OPEN} reports are being made already; try again in a few seconds"
    return JSONResponse({"error": problem}, 429, {"Retry-After": "5"})


def _answered(answer: Callable[[], Response]) -> Response:
    try:
        response = answer()
    except _RefusedError as refused:
        response = JSONResponse({"error": str(refused)}, refused.status)
    except LedgerError as error:
        # the ledger's words may hold an address or a row
        problem = "the ledger refuses these parameters" if error.of_row else "the ledger does not answer; try again"
        response = JSONResponse({"error": problem}, 400 if error.of_row else 503)
    except FarthingError as error:
        response = JSONResponse({"error": str(error)}, 400)
    response.headers.update(_HEADERS)
    return response


def _report(request: Request, ledger: Ledger, currency: str, now: datetime) -> Response:
    asked = _parameters(request.query_params, REPORT_PARAMETERS)
    group = next((group for group in GROUPS if group == asked.get("by", "tenant")), None)
    if group is None:
        raise _RefusedError(400, f"by {shortened(asked['by'])} is not one of {', '.join(GROUPS)}")
    output = next((output for output in OUTPUTS if output == asked.get("output", "json")), None)
    if output is None:
        raise _RefusedError(400, f"output {shortened(asked['output'])} is not one of {', '.join(OUTPUTS)}")
    tenants = own_tenants(principal_of(request))
    filters = {name: asked[name] for name in FILTERS if name in asked}
    _own(filters.get("tenant"), tenants)
    since, until = asked.get("since", "24h"), asked.get("until")
    start = parse_moment(since, now, "since")
    end = None if until is None else parse_moment(until, now, "until")
    if end is not None and end <= start:
        raise _RefusedError(
            400, f"until {shortened(until or '')} is not after since {shortened(since)}; give a later moment"
        )
    table = report(ledger, start, group, currency, until=end, filters=filters, tenants=tenants)
    headers = {"Content-Disposition": f'inline; filename="cost-by-{group}.csv"'} if output == "csv" else None
    return Response(render(table, output), headers=headers, media_type=_MEDIA[output])


def _statements(request: Request, ledger: Ledger, currency: str) -> Response:
    asked = _parameters(request.query_params, STATEMENTS_PARAMETERS)
    tenants = own_tenants(principal_of(request))
    _own(asked.get("tenant"), tenants)
    found = [
        one
        for one in issued_statements(ledger, asked.get("period"), asked.get("tenant"))
        if tenants is None or one.tenant in tenants
    ]
    rows = [
        {
            "number": one.number,
            "period": one.period,
            "tenant": one.tenant or None,
            "total_nano": one.total_nano,
            "sha256": one.sha256,
            "disputed": one.disputed,
            "forms": list(_forms(tenants)),
        }
        for one in found
    ]
    return JSONResponse({"currency": currency, "statements": rows})


def _statement(request: Request, ledger: Ledger) -> Response:
    _parameters(request.query_params, ())
    number, form = request.path_params["number"], request.path_params["form"]
    tenants = own_tenants(principal_of(request))
    if "\0" in number or len(number) > MOST_CHARACTERS:
        raise _no_statement(number)
    # of somebody else's nothing is said, not even that it is there, nor by how long its document takes to read
    if tenants is not None and not is_issued_to(ledger, number, tenants):
        raise _no_statement(number)
    try:
        found = issued_statement(ledger, number)
    except PeriodError as error:
        raise (_RefusedError(404, str(error)) if tenants is None else _no_statement(number)) from error
    if tenants is not None and found.recipient.tenant not in tenants:
        raise _no_statement(number)
    forms = _forms(tenants)
    if form not in forms:
        raise _RefusedError(404, f"a statement is not given as {shortened(form)}; ask for {', '.join(forms)}")
    name = f'inline; filename="{found.number}.{form}"'
    return Response(render_statement(found, form), headers={"Content-Disposition": name}, media_type=MEDIA_TYPES[form])


def _trace(request: Request, ledger: Ledger, currency: str) -> Response:
    _parameters(request.query_params, ())
    name = request.path_params["id"]
    if "\0" in name or len(name) > MOST_CHARACTERS:
        raise _RefusedError(404, f"no request or trace {shortened(name)} in the ledger: it is too long, or holds a NUL")
    try:
        view = trace_view(ledger, name, currency, own_tenants(principal_of(request)))
    except TraceError as error:
        # the same for what is another tenant's
        raise _RefusedError(404, str(error)) from error
    return Response(msgspec.json.encode(trace_document(view)), media_type="application/json")


def _no_statement(number: str) -> _RefusedError:
    return _RefusedError(
        404, f"there is no statement {shortened(number)}; {STATEMENTS_PATH} lists those that you may see"
    )


def _forms(tenants: frozenset[str] | None) -> tuple[str, ...]:
    return tuple(MEDIA_TYPES) if tenants is None else OWN_FORMS


def _own(tenant: str | None, tenants: frozenset[str] | None) -> None:
    """Refuse a tenant that the asker may not see in the words for one that is not there."""
    if tenant is not None and tenants is not None and tenant not in tenants:
        seen = ", ".join(sorted(tenants)) or "no tenant"
        raise _RefusedError(403, f"this token sees the rows of {seen} alone; {Access.READ_ALL} opens those of others")


def _parameters(query: QueryParams, known: tuple[str, ...]) -> dict[str, str]:
    asked: dict[str, str] = {}
    for name, value in query.multi_items():
        if name not in known:
            given = f"give {', '.join(known)}" if known else "it takes none"
            raise _RefusedError(400, f"there is no parameter {shortened(name)}; {given}")
        if name in asked:
            raise _RefusedError(400, f"{name} is given twice; give it once")
        if "\0" in value or len(value) > MOST_CHARACTERS:
            raise _RefusedError(400, f"{name} {shortened(value)} names nothing: it is too long, or holds a NUL")
        asked[name] = value
    return asked
