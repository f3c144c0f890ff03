"""Closing a month of recorded work: what is closed stays as it is, and what comes late is the next month's."""

from collections import Counter

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, journal_sums
from tests.service.closings import (
    SETTINGS,
    close,
    documents,
    identity,
    late_and_on_time,
    moved,
)

from farthing.books.periods import bounds
from farthing.books.policy import Policy
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, SECOND
from farthing.domain.errors import PeriodError
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.closing import close_period, draft_period, list_periods
from farthing.service.pricing import price_book
from farthing.settings import CapacitySettings, EngineSettings, Settings


@pytest.fixture(scope="module")
def recording():
    """Four minutes of an 8B model on one H100."""
    return load_recording("h100-llama8b-vllm0.26")


@pytest.fixture
def ledger(ledger_url):
    """An empty ledger, in each database."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def _books(ledger, settings=SETTINGS):
    books = accountant(ledger, settings)
    books.advance()
    return books


def test_a_month_closes_with_a_statement_for_each_tenant_that_foots_to_the_bill(ledger, recording):
    """The engine runs over midnight: what is not settled then is work in progress, on both sides once."""
    raw = moved(recording, "2026-11", 120)
    ledger.add(raw)
    _books(ledger)
    november, december = close(ledger, "2026-11"), close(ledger, "2026-12")
    identity(november)
    identity(december)
    assert [one.number for one in november.statements] == [f"2026-11-{n:04d}" for n in range(5)]
    assert {one.recipient.tenant for one in november.statements} == {"", "acme", "globex", "initech", "umbrella"}
    assert december.document.facts.opening_wip_nano == november.document.facts.closing_wip_nano > 0
    assert december.document.facts.closing_wip_nano == 0
    bills = november.document.facts.bill_nano + december.document.facts.bill_nano
    assert [(bills,)] == ledger.select(sa.select(t.boots.c.bill_nano))
    # 253.18 s at $3.348 an hour
    assert bills == pytest.approx(235_458_181, abs=1)
    assert november.document.facts.bill_nano == 120 * 3_348_000_000 // 3_600


def test_late_records_leave_a_closed_month_byte_for_byte_and_are_the_next_ones_adjustment(new_ledger_url, recording):
    """In whatever order they come."""
    raw = moved(recording, "2026-11", 200)
    late, on_time = late_and_on_time(raw[: len(raw) // 2], 60, seed=5)
    keys = {record.key for record in late}
    rest = [record for record in raw if record.key not in keys]
    cut = len(rest) - 150
    assert {record.key for record in on_time} <= {record.key for record in rest[:cut]}
    adjusted = []
    for order in range(3):
        ledger = Ledger.open(new_ledger_url(str(order)))
        ledger.add(rest[:cut])
        books = _books(ledger)
        november = close(ledger, "2026-11")
        before = documents(ledger)
        # in order, backwards, and dealt out
        ordered = {0: late, 1: late[::-1], 2: late[::2] + late[1::2]}[order]
        for one in range(0, len(ordered), 7):
            ledger.add(ordered[one : one + 7])
            books.advance()
        ledger.add(rest[cut:])
        books.advance()
        december = close(ledger, "2026-12")
        identity(november)
        identity(december)
        after = documents(ledger)
        assert {name: after[name] for name in before} == before
        lines = [line for one in december.statements for line in one.lines if line.section == "adjustment"]
        assert {line.service_period for line in lines} == {"2026-11"}
        moved_in: Counter[str] = Counter()
        for line in lines:
            moved_in[line.tenant] += line.amount_nano or 0
        assert all(moved_in[tenant] > 0 for tenant in ("acme", "globex", "initech", "umbrella"))
        # what was unattributed in November went to those who did the work
        assert moved_in[""] == -sum(nano for tenant, nano in moved_in.items() if tenant) + _late_windows(december)
        adjusted.append(moved_in[""])
        ledger.close()
    # each late record is rounded down when it comes
    assert max(adjusted) - min(adjusted) < 100


def _late_windows(closed):
    """What windows of an earlier month cost that settled after it was closed."""
    facts = closed.document.facts
    return sum(cost.nano for cost in facts.costs if cost.service_period < facts.period)


def test_what_is_closed_cannot_be_changed_in_the_database(ledger, recording):
    """Not by anybody who has the file, short of taking the triggers away."""
    ledger.add(moved(recording, "2026-11", 300))
    _books(ledger)
    close(ledger, "2026-11")
    for table in ("closings", "statements", "statement_lines", "journal"):
        changed = sa.table(table, sa.column("period"), sa.column("amount_nano"))
        change = {"amount_nano": 0} if table == "statement_lines" else {"period": "x"}
        for statement in (sa.delete(changed), sa.update(changed).values(change)):
            with pytest.raises(sa.exc.DBAPIError, match="append-only"), ledger.engine.begin() as connection:
                connection.execute(statement)


def test_a_period_is_closed_once_in_order_when_it_is_over_and_signed(ledger, recording):
    """Each refusal says what to do."""
    ledger.add(moved(recording, "2026-11", 120))
    _books(ledger)
    _, end = bounds("2026-11")
    prices, policy = price_book(SETTINGS), Policy.default()

    def attempt(period, signed_by="Ada Byron", now_ns=end + 40 * 24 * HOUR):
        close_period(ledger, period, SETTINGS, prices, policy, signed_by, now_ns=now_ns)

    for arguments, problem in (
        (("2026-13",), "give a month as YYYY-MM"),
        (("2026-12",), "2026-11 is still open; close it before"),
        (("2026-11", " "), "somebody has to sign it off"),
        (("2026-11", "Ada", end - SECOND), "is not over before 2026-12-01 00:00 UTC"),
    ):
        with pytest.raises(PeriodError, match=problem):
            attempt(*arguments)
    assert documents(ledger) == {}
    attempt("2026-11")
    for period, problem in (
        ("2026-11", "is closed already"),
        ("2026-10", "lies before 2026-11"),
        ("2027-02", "2026-12 is still open; close it before"),
    ):
        with pytest.raises(PeriodError, match=problem):
            attempt(period, now_ns=end + 400 * 24 * HOUR)
    states = {state.period: state.closed_ns is not None for state in list_periods(ledger)}
    assert states == {"2026-11": True, "2026-12": False}


def test_a_draft_shows_an_unfinished_month_and_writes_nothing(ledger, recording):
    """Whoever looks before closing changes nothing."""
    raw = moved(recording, "2026-11", 600)
    ledger.add(raw[: len(raw) // 2])
    books = _books(ledger)
    _, end = bounds("2026-11")
    policy = Policy.default()
    drafted = draft_period(ledger, "2026-11", SETTINGS, price_book(SETTINGS), policy, now_ns=end - 300 * SECOND)
    identity(drafted)
    assert drafted.document.facts.closing_wip_nano > 0
    assert drafted.document.facts.bill_nano == books.snapshot().engines[0].bill_nano
    assert documents(ledger) == {}
    j = sum(journal_sums(ledger, "debit").values())
    assert j == drafted.document.facts.bill_nano - drafted.document.facts.closing_wip_nano


def test_what_is_bought_and_not_used_is_named_and_the_rest_is_down(ledger, recording):
    """A node of four GPUs, one of them with an engine that ran for four minutes: all of it is somewhere."""
    settings = Settings(
        costing=SETTINGS.costing,
        engines=(EngineSettings(name="h100", url="http://127.0.0.1:8000", probe=True, capacity="node"),),
        capacity=(
            CapacitySettings.model_validate(
                {
                    "name": "node",
                    "gpu": "H100-SXM",
                    "gpus": 4,
                    "kind": "reserved",
                    "usd_per_hour": "10.0",
                    "host_share": "0.1",
                    "from": "2026-11-01",
                    "to": "2026-12-01",
                }
            ),
        ),
    )
    ledger.add(moved(recording, "2026-11", 3_600))
    _books(ledger, settings)
    closed = close(ledger, "2026-11", settings)
    identity(closed)
    sums: Counter[tuple[str, str]] = Counter()
    for cost in closed.document.facts.costs:
        sums[cost.account, cost.reason] += cost.nano
    bill = closed.document.facts.bill_nano
    assert bill == 30 * 24 * 10 * 10**9
    assert sums[c.SHARED, "node:host"] == bill // 10
    assert sums[c.UNUSED_COMMITMENT, "unassigned"] == bill * 9 // 10 * 3 // 4
    slot = bill * 9 // 10 // 4
    ran = sum(nano for (account, reason), nano in sums.items() if account in c.ACCOUNTS and reason != c.REASON_NO_BOOT)
    assert sums[c.DOWN, c.REASON_NO_BOOT] == slot - ran
    assert ran == pytest.approx(slot * 253.180839 / (30 * 24 * 3_600), rel=1e-6)


def test_a_boot_that_becomes_known_after_the_close_takes_its_time_back_out_of_down(ledger, recording):
    """Its cost and the reversal are both adjustments, of the month in which it ran."""
    settings = Settings(
        costing=SETTINGS.costing,
        engines=(EngineSettings(name="h100", url="http://127.0.0.1:8000", probe=True, capacity="node"),),
        capacity=(
            CapacitySettings.model_validate(
                {"name": "node", "gpu": "H100-SXM", "gpus": 1, "kind": "on_demand", "usd_per_hour": "3.6",
                 "from": "2026-11-01"}
            ),
        ),
    )  # fmt: skip
    ledger.add(moved(recording, "2026-11", 7_200))
    books = _books(ledger, settings)
    november = close(ledger, "2026-11", settings)
    whole = 30 * 24 * 3_600 * 10**6
    assert november.document.facts.bill_nano == whole
    ledger.add(moved(recording, "2026-11", 3_600, boot="late"))
    books.advance()
    december = close(ledger, "2026-12", settings)
    identity(december)
    earlier = [cost for cost in december.document.facts.costs if cost.service_period == "2026-11"]
    assert sum(cost.nano for cost in earlier if cost.account == c.DOWN and cost.reason == c.REASON_NO_BOOT) < 0
    assert sum(cost.nano for cost in earlier) == 0
    assert sum(cost.nano for cost in earlier if cost.account == c.CHARGED) > 0


def test_entries_go_from_settled_to_closed_to_adjusted_and_cite_their_versions(ledger, recording):
    """Every line names the fit, the price and the policy that it was made with."""
    raw = moved(recording, "2026-11", 200)
    late, _ = late_and_on_time(raw[: len(raw) // 2], 20, seed=1)
    keys = {record.key for record in late}
    rest = [record for record in raw if record.key not in keys]
    ledger.add(rest[:-100])
    books = _books(ledger)
    close(ledger, "2026-11")
    ledger.add([*late, *rest[-100:]])
    books.advance()
    j = t.journal.c
    states = {tuple(row) for row in ledger.select(sa.select(j.period, j.state).distinct())}
    assert states == {("2026-11", c.SETTLED), ("2026-12", c.SETTLED), ("2026-12", c.ADJUSTED)}
    assert ledger.select(sa.select(sa.func.count()).where(j.price_version == "")) == [(0,)]
    known = {row[0] for row in ledger.select(sa.select(t.versions.c.version))}
    assert {row[0] for row in ledger.select(sa.select(j.price_version).distinct())} <= known
    phases = sa.select(sa.func.count()).where(j.phase != "", j.fit_version == "")
    assert ledger.select(phases) == [(0,)]
