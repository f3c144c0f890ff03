"""What reports, the page and a start read does not grow with requests: no large table is touched, whatever its size.

Proxies that sum their request log for every page and report get slower with each request until they time out. Here
the statements are watched, and the rows that come back counted: no clock is asked.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, raw_records, total

from farthing.exporters.web.payload import snapshot_payload
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.measures import drivers, measure
from farthing.service.reports import GROUPS, report
from farthing.service.scope import Scope
from farthing.service.spend import spend_by
from farthing.service.spend_watch import SpendWatch
from farthing.service.totals import Totals
from farthing.settings import Settings

LARGE = ("requests", "journal", "records", "windows")
"""Tables that grow with requests, records and windows."""
LAST_RECORD = "SELECT max(records.id) AS max_1 \nFROM records"
GROWTH = 100
NOW_NS = 1_795_500_000_000_000_000
SINCE = datetime(2020, 1, 1, tzinfo=UTC)
BUDGET = Settings.model_validate({"budgets": [{"tenant": "acme", "monthly_usd": 1}, {"monthly_usd": 1}]})


@dataclass
class Watched:
    """Statements of a block, and how many rows came back."""

    statements: list[str] = field(default_factory=list)
    rows: int = 0


def large_tables(statement: str) -> set[str]:
    """The large tables that a statement names."""
    return {name for name in LARGE if re.search(rf"\b(FROM|JOIN) {name}\b", statement)}


@contextmanager
def watched(ledger: Ledger) -> Iterator[Watched]:
    """Everything that the ledger's database is asked within the block."""
    seen = Watched()

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.statements.append(statement)

    select = ledger.select

    def counted(query: Any) -> list[Any]:
        rows = select(query)
        seen.rows += len(rows)
        return rows

    sa.event.listen(ledger.engine, "before_cursor_execute", listen)
    ledger.select = counted  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        ledger.select = select  # type: ignore[method-assign]
        sa.event.remove(ledger.engine, "before_cursor_execute", listen)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Iterator[Ledger]:
    """A recorded H100 in the books."""
    opened = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('size')}/ledger.db")
    opened.add(raw_records(load_recording("h100-llama8b-vllm0.26")))
    accountant(opened).advance()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def grown(ledger, tmp_path_factory) -> Iterator[Ledger]:
    """The same hourly sums over a hundred times the requests and journal lines, and many more records."""
    path = tmp_path_factory.mktemp("grown") / "ledger.db"
    with closing(sqlite3.connect(ledger.engine.url.database)) as connection:
        connection.execute("VACUUM INTO ?", [str(path)])
    opened = Ledger.open(f"sqlite:///{path}")
    with opened.engine.begin() as changing:
        for table, rows in ((t.requests, -1), (t.journal, -1), (t.records, 200), (t.windows, -1)):
            count = sa.select(sa.func.count()).select_from(table)
            before = changing.execute(count).scalar_one()
            _multiply(changing, table.name, rows)
            after = changing.execute(count).scalar_one()
            assert after == before + (GROWTH - 1) * (before if rows < 0 else rows)
    yield opened
    opened.close()


def _multiply(connection: sa.Connection, table: str, rows: int) -> None:
    """Append copies of some rows (-1: of all), each under keys of its own."""
    numbers = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 99)"
    new = {
        "id": "NULL",
        "sequence": "o.sequence + n.n * 1000000",
        "start_ns": "o.start_ns + n.n * 1000000000000",
    }
    columns = [str(row[1]) for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
    shown = ", ".join(new.get(column, f"o.{column}") for column in columns)
    connection.exec_driver_sql(
        f"INSERT INTO {table} {numbers} SELECT {shown} FROM (SELECT * FROM {table} LIMIT {rows}) o, n"  # noqa: S608 - names of our own
    )


def started(ledger: Ledger) -> None:
    """A service that begins, up to its first page."""
    snapshot_payload(accountant(ledger, BUDGET).snapshot())


def shown(ledger: Ledger) -> None:
    """What the service reads for the page and the metrics once a minute."""
    SpendWatch(ledger, BUDGET, lambda: NOW_NS).update()


def key_figures(ledger: Ledger) -> None:
    """Unit costs, shares and variances of everything."""
    measure(ledger, Scope())
    drivers(ledger, Scope())


READERS: dict[str, Callable[[Ledger], object]] = {
    "totals": Totals.load,
    "start": started,
    "watch": shown,
    "kpis": key_figures,
    **{f"report by {by}": partial(report, since=SINCE, by=by, currency="USD") for by in GROUPS},
    "report of a tenant": partial(report, since=SINCE, by="day", currency="USD", filters={"tenant": "acme"}),
    **{f"spend by {by}": partial(spend_by, by=by, now_ns=NOW_NS) for by in ("tenant", "project", "model", "engine")},
}


@pytest.mark.parametrize("name", READERS)
def test_no_large_table_is_touched(ledger, name):
    """Not for a report, not for the page, not at a start; the last record's number alone is looked up by its key."""
    with watched(ledger) as seen:
        READERS[name](ledger)
    assert seen.statements
    asked = {text: tables for text in seen.statements if (tables := large_tables(text))}
    assert set(asked) <= ({LAST_RECORD} if name == "start" else set())
    with ledger.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {LAST_RECORD}")]
    assert plan == ["SEARCH records"]


@pytest.mark.parametrize("name", READERS)
def test_as_many_rows_are_read_whatever_the_number_of_requests(ledger, grown, name):
    """A hundred times the requests, the same statements and the same rows."""
    found = []
    for one in (ledger, grown):
        with watched(one) as seen:
            READERS[name](one)
        found.append(([text for text in seen.statements if "INSERT" not in text], seen.rows))
    assert found[0] == found[1]
    assert found[0][1] > 0


def test_reports_of_a_grown_ledger_are_those_of_its_sums(ledger, grown):
    """What is added to large tables alone is in no report: nothing of them is read."""
    for by in GROUPS:
        assert report(ledger, SINCE, by, "USD") == report(grown, SINCE, by, "USD")


def test_the_sums_that_are_read_instead_are_those_of_the_large_tables(ledger):
    """Hourly sums of cost, requests and windows are kept with every posting: nothing is missing from them."""
    sums = {}
    for summed, large in (
        (t.cost_hours.c.nano, t.journal.c.nano),
        (t.boot_lines.c.nano, t.journal.c.nano),
        (t.window_hours.c.bill_nano, t.windows.c.bill_nano),
        (t.usage_hours.c.output_tokens, t.requests.c.output_tokens),
    ):
        sums[str(summed)] = (total(ledger, summed), total(ledger, large))
    assert all(kept == counted > 0 for kept, counted in sums.values()), sums


@pytest.mark.parametrize("by", [by for by in GROUPS if by not in {"hour", "day", "month"}])
def test_sums_of_cost_are_read_from_an_index_alone_without_sorting(ledger, by):
    """In SQLite, which groups by sorting: that took nine tenths of the time of a month's report."""
    with watched(ledger) as seen:
        report(ledger, SINCE, by, "USD")
    (statement,) = (text for text in seen.statements if "sum(cost_hours.nano)" in text)
    with ledger.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", (0,))]
    assert plan == ["SCAN cost_hours USING COVERING INDEX ix_cost_hours_sums"]
