"""Reports from hourly sums: every account, whole hours, and unpriced where no price applies."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service.hours import NOW_NS, book, ns

from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, utc
from farthing.domain.errors import ConfigError
from farthing.exporters.report import render
from farthing.ledger.engine_notes import Unpriced, note_unpriced
from farthing.ledger.repository import Ledger
from farthing.service.reports import GROUPS, report
from farthing.service.scope import hour_of, parse_moment

NOW = utc(NOW_NS)
HOUR_NOW = NOW_NS // HOUR
SINCE = NOW - timedelta(days=30)
LAB = Unpriced("lab", "qwen", "RTX 4090", 1, NOW_NS - 5 * HOUR, "no price for GPU 'RTX 4090'")


@pytest.fixture
def ledger(ledger_url):
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


def every_account(ledger):
    """Something in every account that a line may debit; returns the bill."""
    for number, account in enumerate(c.BOOK_ACCOUNTS):
        tenant = "acme" if account in {c.CHARGED, c.ABORTED} else ""
        book(ledger, HOUR_NOW - number, tenant=tenant, nano=10**number, account=account, requests=1 if tenant else 0)
    return sum(10**number for number in range(len(c.BOOK_ACCOUNTS)))


def last_money(table):
    return max(i for i, column in enumerate(table.columns) if column.kind == "money")


def footing(table):
    """The last amount of the line of totals."""
    assert table.total is not None
    return table.total[last_money(table)]


@pytest.mark.parametrize("by", GROUPS)
def test_every_account_is_in_every_report_and_all_foot_to_the_bill(ledger, by):
    """Draining, unallocated, unused commitments and what is shared like idle time."""
    bill = every_account(ledger)
    table = report(ledger, SINCE, by, "USD")
    last = last_money(table)
    assert sum(row[last] for row in table.rows) == footing(table) == bill
    shown = render(table, "table")
    if by in {"account", "phase", "tenant", "project", "tier"}:
        for account in set(c.BOOK_ACCOUNTS) - {c.CHARGED, c.ABORTED}:
            assert account in shown
    else:
        for account in (c.DRAINING, c.UNALLOCATED, c.UNUSED_COMMITMENT, c.SHARED):
            assert account.replace("_", " ").capitalize() in shown


def test_a_table_leaves_out_accounts_in_which_there_is_nothing_and_programs_do_not(ledger):
    """Asleep, draining and capacity; the others are always there."""
    book(ledger, HOUR_NOW, tenant="acme", nano=5)
    table = report(ledger, SINCE, "engine", "USD")
    assert "Unused commitment" not in render(table, "table")
    assert "Idle" in render(table, "table")
    assert "unused_commitment_usd" in render(table, "csv")


@pytest.mark.parametrize("by", GROUPS)
def test_an_engine_without_a_price_is_unpriced_in_every_report(ledger, by):
    """A row of its own with the word in place of an amount, and why; the total is that of the others."""
    book(ledger, HOUR_NOW, tenant="acme", nano=5)
    note_unpriced(ledger, LAB)
    table = report(ledger, SINCE, by, "USD")
    last = last_money(table)
    row = next(row for row in table.rows if c.UNPRICED in row)
    assert row[last] == c.UNPRICED
    assert row[0] == {"engine": "lab", "model": "qwen"}.get(by, "(unpriced: lab)")
    assert not any(isinstance(cell, int) for cell in row)
    assert footing(table) == 5
    assert any("RTX 4090" in note and "in no amount here" in note for note in table.notes)
    for output in ("table", "json", "csv"):
        assert c.UNPRICED in render(table, output)


def test_an_engine_that_has_a_price_elsewhere_or_later_is_not_in_the_way(ledger):
    """A report of another engine, another model or of the time before says nothing of it."""
    book(ledger, HOUR_NOW - 24, tenant="acme", nano=5)
    note_unpriced(ledger, LAB)
    others = [{"engine": "e"}, {"model": "llama"}]
    tables = [report(ledger, SINCE, "tenant", "USD", filters=filters) for filters in others]
    tables.append(report(ledger, SINCE, "tenant", "USD", until=NOW - timedelta(hours=10)))
    for table in tables:
        assert c.UNPRICED not in render(table, "json")
    assert c.UNPRICED in render(report(ledger, SINCE, "tenant", "USD", filters={"engine": "lab"}), "json")


def test_who_sees_some_tenants_gets_what_these_bore_and_no_other_account(ledger):
    """Not a row or a column of idle time, failures or others; whatever it is grouped by, and else asked for."""
    every_account(ledger)
    book(ledger, HOUR_NOW, tenant="globex", project="p", nano=7_000)
    book(ledger, HOUR_NOW, tenant="globex", nano=13, account=c.UNATTRIBUTED)
    book(ledger, HOUR_NOW, tenant="initech", nano=11)
    note_unpriced(ledger, LAB)
    own = frozenset({"globex"})
    for by in GROUPS:
        if by == "engine":
            continue
        table = report(ledger, SINCE, by, "USD", tenants=own | {"initech"})
        assert footing(table) == 7_011
        shown = render(table, "json").lower()
        assert not [account for account in set(c.BOOK_ACCOUNTS) - {c.CHARGED, c.ABORTED} if account in shown]
        assert not {"acme", "lab", "qwen", "rtx"} & set(re.findall(r"\w+", shown))
        assert footing(report(ledger, SINCE, by, "USD", tenants=own, filters={"tenant": "initech"})) == 0
        assert footing(report(ledger, SINCE, by, "USD", tenants=frozenset())) == 0


def test_engines_are_nobodys_rows(ledger):
    """A report of them, or of one of them, is for who sees everything."""
    own = frozenset({"globex"})
    with pytest.raises(ConfigError, match="engines are shared"):
        report(ledger, SINCE, "engine", "USD", tenants=own)
    with pytest.raises(ConfigError, match="engines are shared"):
        report(ledger, SINCE, "tenant", "USD", tenants=own, filters={"engine": "e"})


@pytest.mark.parametrize("by", GROUPS)
def test_a_report_of_one_tenant_is_what_that_tenant_bears(ledger, by):
    """Whatever it groups by."""
    every_account(ledger)
    book(ledger, HOUR_NOW, tenant="globex", project="p", nano=7_000)
    table = report(ledger, SINCE, by, "USD", filters={"tenant": "globex"})
    assert footing(table) == 7_000
    assert "Only tenant globex: the total is theirs, not the whole bill." in table.notes


def test_projects_of_the_same_name_are_told_apart_by_their_tenant(ledger):
    """A project belongs to a tenant; work that named none has a dash for a name."""
    book(ledger, HOUR_NOW, tenant="acme", project="chat", nano=3, requests=2)
    book(ledger, HOUR_NOW, tenant="globex", project="chat", nano=2)
    book(ledger, HOUR_NOW, tenant="globex", nano=1)
    table = report(ledger, SINCE, "project", "USD")
    assert [row[:3] for row in table.rows] == [("chat", "acme", 2), ("chat", "globex", 0), (None, "globex", 0)]


def test_times_are_rounded_down_to_the_hour_and_the_title_says_so(ledger):
    """From the hour that since lies in, to before the hour that until lies in."""
    for hour in range(HOUR_NOW - 3, HOUR_NOW + 1):
        book(ledger, hour, tenant="acme", nano=1)
    table = report(ledger, NOW - timedelta(hours=2), "hour", "USD", until=NOW)
    assert [row[0] for row in table.rows] == ["2026-11-26 08:00", "2026-11-26 09:00"]
    assert table.title == "Cost by hour, 2026-11-26 08:00 to 2026-11-26 10:00 UTC"
    whole = report(ledger, datetime(1970, 1, 1, tzinfo=UTC), "month", "USD")
    assert whole.title == "Cost by month, 2026-11-26 07:00 to 2026-11-26 11:00 UTC"
    assert [row[0] for row in whole.rows] == ["2026-11"]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("2w", NOW - timedelta(weeks=2)),
        ("today", datetime(2026, 11, 26, tzinfo=UTC)),
        ("month", datetime(2026, 11, 1, tzinfo=UTC)),
        ("all", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2026-10-01T02:00:00+02:00", datetime(2026, 10, 1, tzinfo=UTC)),
        ("999999999999w", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_duration_a_name_or_a_date(text, moment):
    """All in UTC, and none before time began."""
    assert parse_moment(text, NOW) == moment


def test_a_moment_that_is_none_names_the_option(ledger):
    """One line."""
    with pytest.raises(ConfigError, match="--until 'soon': give a duration"):
        parse_moment("soon", NOW, "--until")


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 10**15)), min_size=1, max_size=20), st.integers(0, 100))
def test_reports_of_adjoining_spans_add_up_wherever_they_are_cut(tmp_path_factory, lines, cut):
    """No hour is in both, and none in neither."""
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('cut')}/ledger.db")
    start = ns(2026, 11, 1)
    for hour, nano in lines:
        book(ledger, start // HOUR + hour, tenant="acme", nano=nano)
    middle = utc(start + cut * HOUR + HOUR // 3)
    parts = (report(ledger, SINCE, "tenant", "USD", until=middle), report(ledger, middle, "tenant", "USD"))
    assert sum(footing(part) for part in parts) == sum(nano for _, nano in lines)
    assert hour_of(middle) == start // HOUR + cut
    ledger.close()
