"""Spend by hour of service: days and months, the forecast, anomalies; unknown and unpriced are never 0."""

import math
import time

import httpx
import pytest
from tests.service.hours import MONTH_NS, NOW_NS, book, ns
from tests.service.running import served, wait_until

from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.domain.money import NANO
from farthing.exporters.report import render
from farthing.ledger.engine_notes import Unpriced, note_unpriced, unpriced_engines
from farthing.ledger.repository import Ledger
from farthing.service.hourly_spend import BORNE, Calendar, HourlySpend, settled_through
from farthing.service.server import Service
from farthing.service.spend import EVERYTHING, WHO, expected, spend_by
from farthing.service.spend_tables import anomaly_table, days_table, months_table, spend_table
from farthing.service.spend_watch import SpendWatch
from farthing.settings import Settings

NOW = NOW_NS // HOUR
TODAY, YESTERDAY = ns(2026, 11, 26) // HOUR, ns(2026, 11, 25) // HOUR
OCTOBER = ns(2026, 10, 5) // HOUR
LAB = Unpriced("lab", "qwen", "RTX 4090", 1, NOW_NS - HOUR, "no price for GPU 'RTX 4090'")


@pytest.fixture
def ledger(ledger_url):
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


def season(ledger, days=20, tenants=("acme",), until=NOW):
    """A day's wave for some days, and idle time that never changes."""
    for hour in range(until - 24 * days, until):
        for number, tenant in enumerate(tenants):
            nano = round((2 + math.sin(hour / 24 * 2 * math.pi)) * NANO) * (number + 1)
            book(ledger, hour, tenant=tenant, project="p", nano=nano)
        book(ledger, hour, account=c.IDLE, nano=NANO)


def test_the_calendar_is_utc_and_turns_at_month_ends():
    """January's last month is December's; February has its own length."""
    january = Calendar.at(ns(2027, 1, 31, 23, 59))
    assert january.last_month == ns(2026, 12, 1) // HOUR
    assert january.history == ns(2026, 11, 1) // HOUR
    assert january.next_month - january.month == 31 * 24
    assert Calendar.at(ns(2027, 3, 1)).last_month == ns(2027, 2, 1) // HOUR
    assert Calendar.at(NOW_NS).month_name == "2026-11"


def test_days_and_months_hold_what_was_served_in_them(ledger):
    """By the hour of service, whatever period it was posted in; the hour that runs counts as far as it is settled."""
    amounts = {
        NOW: 1,
        TODAY: 2,
        TODAY - 1: 4,
        YESTERDAY: 8,
        MONTH_NS // HOUR: 16,
        MONTH_NS // HOUR - 1: 32,
        OCTOBER: 64,
    }
    for hour, nano in amounts.items():
        book(ledger, hour, tenant="acme", nano=nano)
    found = spend_by(ledger, "tenant", NOW_NS)
    (line,) = found.lines
    assert (line.today_nano, line.yesterday_nano, line.month_nano, line.last_month_nano) == (3, 12, 31, 96)
    assert {month: sums["acme",] for month, sums in found.months.items()} == {"2026-10": 96, "2026-11": 31}
    assert found.days["2026-11-25"]["acme",] == 12
    assert sum(sums[EVERYTHING] for sums in found.days.values()) == 127


def test_everything_is_the_bill_and_each_bears_charged_and_aborted_work(ledger):
    """Idle time is nobody's; what no engine has is booked with the month and in no forecast."""
    book(ledger, TODAY, tenant="acme", nano=5)
    book(ledger, TODAY, tenant="acme", nano=2, account=c.ABORTED)
    book(ledger, TODAY, nano=3, account=c.IDLE)
    book(ledger, TODAY, nano=100, account=c.UNALLOCATED)
    assert spend_by(ledger, "tenant", NOW_NS).lines[0].month_nano == 7
    assert spend_by(ledger, "tenant", NOW_NS).everything.month_nano == 10
    assert spend_by(ledger, "engine", NOW_NS).lines[0].month_nano == 10
    view = SpendWatch(ledger, Settings(), lambda: NOW_NS).update()
    assert (view.month_nano, view.tenants[0].month_nano) == (10, 7)
    assert view.capacity_nano == {(c.UNALLOCATED, ""): 100}


@pytest.mark.parametrize("by", ["tenant", "project", "model", "engine"])
def test_every_grouping_adds_up_to_the_same_month(ledger, by):
    """What is borne, or by engine the whole bill."""
    season(ledger, days=2, tenants=("acme", "globex"))
    found = spend_by(ledger, by, NOW_NS)
    idle = 48 * NANO
    wanted = found.everything.month_nano - (0 if by == "engine" else idle)
    assert sum(line.month_nano for line in found.lines) == wanted


def test_the_last_month_is_unknown_when_the_books_began_after_it(ledger):
    """Nobody knows what was spent before; the table shows a dash and not 0."""
    season(ledger, days=3)
    found = spend_by(ledger, "tenant", NOW_NS)
    assert found.lines[0].last_month_nano is None
    assert found.everything.last_month_nano is None
    assert SpendWatch(ledger, Settings(), lambda: NOW_NS).update().last_month_nano is None


def test_the_forecast_begins_with_what_is_spent_and_its_interval_holds_it(ledger):
    """A steady wave goes on to the month's end."""
    season(ledger)
    line = spend_by(ledger, "tenant", NOW_NS).lines[0]
    rest = Calendar.at(NOW_NS).next_month - NOW
    assert line.forecast is not None
    steady = line.month_nano + rest * 2 * NANO
    assert line.forecast.low_nano <= line.forecast.expected_nano <= line.forecast.high_nano
    assert line.forecast.low_nano > line.month_nano
    assert abs(line.forecast.expected_nano - steady) < steady // 10


def test_without_a_complete_hour_there_is_no_forecast(ledger):
    """None, and a dash in the table."""
    book(ledger, NOW, tenant="acme", nano=5)
    found = spend_by(ledger, "tenant", NOW_NS)
    assert found.lines[0].forecast is None
    assert found.everything.forecast is None
    assert "—" in render(spend_table(found, (), "USD"), "table")


def test_in_the_first_hours_of_a_month_the_new_month_is_forecast():
    """Hours of the old month that are not complete yet are unknown; they do not keep its forecast on."""
    start, history = OCTOBER, [NANO] * (MONTH_NS // HOUR - OCTOBER - 2)
    forecast = expected(start, history, Calendar.at(MONTH_NS + HOUR // 2))
    assert forecast is not None
    assert 600 * NANO < forecast.expected_nano < 900 * NANO


def test_a_spike_is_told_with_its_dollars_and_by_whom(ledger):
    """Of the tenant that had it, as soon as its hour is complete."""
    season(ledger, tenants=("acme", "globex"))
    book(ledger, NOW - 1, tenant="globex", project="p", nano=50 * NANO)
    found = spend_by(ledger, "tenant", NOW_NS)
    spikes = {line.key: line.anomalies for line in found.lines}
    assert spikes["acme",] == ()
    (spike,) = spikes["globex",]
    assert (spike.kind, spike.start_hour, spike.end_hour) == ("spike", NOW - 1, None)
    assert 45 * NANO < spike.impact_nano < 55 * NANO
    assert "globex" in render(anomaly_table(found, "USD"), "table")
    view = SpendWatch(ledger, Settings(), lambda: NOW_NS).update()
    assert ("globex", spike.impact_nano) in {(one.tenant, one.impact_nano) for one in view.anomalies}


def test_an_hour_is_complete_when_every_running_engine_has_settled_it(ledger):
    """An engine that has been silent for long is not waited for."""
    season(ledger, days=1)
    assert settled_through(ledger, NOW_NS) == NOW
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO boots (boot, engine, kind, model, gpu, gpu_count, price_version, "
            "wall_ns, mono_ns, started_ns) VALUES ('b', 'e', 'vllm', 'm', 'g', 1, 'p', 0, 0, 0)"
        )
    assert settled_through(ledger, NOW_NS) == NOW - 1
    assert settled_through(ledger, NOW_NS + 24 * HOUR) == NOW + 24


def test_a_service_that_began_on_empty_books_shows_spend_as_soon_as_something_settles(ledger):
    """Its first minute on a first day: unknown while nothing is booked, and not for hours after."""
    watch = SpendWatch(ledger, Settings(), lambda: NOW_NS)
    assert watch.update().today_nano is None
    book(ledger, NOW, tenant="acme", nano=7)
    view = watch.update()
    assert (view.today_nano, view.month_nano) == (7, 7)
    assert view.shares["allocated"] == 1
    assert view.last_month_nano is None


def test_what_is_read_again_is_what_was_read_at_first(ledger):
    """Refreshing every hour or reading all at once gives the same sums, late hours included."""
    spend = HourlySpend(ledger, WHO, BORNE)
    for hour in range(NOW - 30, NOW, 3):
        book(ledger, hour, tenant="acme", nano=hour)
        book(ledger, hour - 20, tenant="globex", nano=1)
        spend.refresh(NOW - 60, hour)
    spend.refresh(NOW - 60, NOW)
    anew = HourlySpend(ledger, WHO, BORNE)
    anew.refresh(NOW - 60, NOW)
    assert list(spend.hours()) == list(anew.hours())
    assert anew.sums(NOW - 60, NOW)["globex", "", "llama"] == 10


@pytest.mark.parametrize("by", ["tenant", "project", "model", "engine"])
def test_an_engine_without_a_price_is_unpriced_in_every_grouping(ledger, by):
    """A row of its own with the word in it, and a note of why; beside what is priced."""
    season(ledger, days=1)
    note_unpriced(ledger, LAB)
    found = spend_by(ledger, by, NOW_NS)
    table = spend_table(found, unpriced_engines(ledger), "USD")
    row = next(row for row in table.rows if c.UNPRICED in row)
    assert row[0] == {"engine": "lab", "model": "qwen"}.get(by, "(unpriced: lab)")
    assert 0 not in row
    assert any("RTX 4090" in note for note in table.notes)
    assert table.total is not None
    assert c.UNPRICED not in table.total


def test_a_ledger_in_which_nothing_has_a_price_shows_no_zero_dollars(ledger):
    """The whole bill is unpriced, and the watch shows no amount."""
    note_unpriced(ledger, LAB)
    found = spend_by(ledger, "tenant", NOW_NS)
    table = spend_table(found, unpriced_engines(ledger), "USD")
    assert table.total is not None
    assert c.UNPRICED in table.total
    assert not any(isinstance(cell, int) for row in (*table.rows, table.total) for cell in row)
    view = SpendWatch(ledger, Settings(), lambda: NOW_NS).update()
    assert {view.today_nano, view.yesterday_nano, view.month_nano, view.last_month_nano, view.forecast} == {None}
    assert [one.engine for one in view.unpriced] == ["lab"]
    assert view.unit_costs_nano == view.shares == {}


def test_series_are_long_so_that_programs_read_them_whatever_names_there_are(ledger):
    """A row for each time and name, everything first."""
    season(ledger, days=2, tenants=("acme", "globex"))
    found = spend_by(ledger, "tenant", NOW_NS)
    days, months = days_table(found, "USD"), months_table(found, "USD")
    assert [row[:2] for row in months.rows] == [("2026-11", "everything"), ("2026-11", "globex"), ("2026-11", "acme")]
    assert [row[1] for row in days.rows[:3]] == ["everything", "globex", "acme"]
    assert (
        sum(row[2] for row in days.rows if row[1] == "everything" and isinstance(row[2], int))
        == found.everything.month_nano
    )


def test_the_watch_shows_what_the_command_prints(ledger):
    """One way to compute it: figures, forecast and tenants are equal."""
    season(ledger, days=10, tenants=("acme", "globex"))
    view = SpendWatch(ledger, Settings(), lambda: NOW_NS).update()
    found = spend_by(ledger, "tenant", NOW_NS)
    assert (view.today_nano, view.month_nano) == (found.everything.today_nano, found.everything.month_nano)
    assert view.forecast == found.everything.forecast
    assert {one.tenant: one.month_nano for one in view.tenants} == {
        line.key[0]: line.month_nano for line in found.lines
    }


def test_the_service_shows_spend_on_its_page_and_as_metrics(ledger):
    """Computed beside costing, soon after the start; the page, the API and the metrics have the same figures."""
    book(ledger, time.time_ns() // HOUR, tenant="acme", nano=5 * NANO)
    budgets = [{"tenant": "acme", "monthly_usd": 4}]
    with served(Service(Settings.model_validate({"budgets": budgets}), ledger).app) as url:

        def shown():
            return httpx.get(f"{url}/api/v1/snapshot", trust_env=False).json()["spend"]

        wait_until(lambda: shown() is not None, 20, "the first reading of spend")
        spend = shown()
        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
    assert spend["today_nano"] == spend["month_nano"] == 5 * NANO
    assert [event["threshold"] for event in spend["budgets"][0]["events"]] == ["0.5", "0.8", "1"]
    assert f"{c.METRIC_BILL_MONTH} 5.0\n" in metrics
    assert f'{c.METRIC_BUDGET_RATIO}{{model="",project="",tenant="acme"}} 1.25\n' in metrics
