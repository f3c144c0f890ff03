"""Budgets: exact thresholds, an event once for each, whoever sees it first, and never a request refused."""

import logging
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.service.hours import MONTH_NS, NOW_NS, book

from farthing.books.budgets import budget, events_due, spent_of
from farthing.domain.clock import HOUR
from farthing.domain.errors import ConfigError, LedgerError
from farthing.domain.money import NANO
from farthing.ledger import tables as t
from farthing.ledger.budget_events import budget_events, write_budget_events
from farthing.ledger.repository import Ledger
from farthing.service.spend_watch import SpendWatch
from farthing.settings import Settings, parse_settings

ACME = {("acme", "search", "llama"): 60, ("acme", "chat", "llama"): 30, ("globex", "", "qwen"): 10}


@pytest.fixture
def ledger(ledger_url):
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


def settings(*budgets):
    return Settings.model_validate({"budgets": budgets})


@pytest.mark.parametrize(
    ("scope", "spent"),
    [
        (("acme", None, None), 90),
        (("acme", "chat", None), 30),
        ((None, None, "llama"), 90),
        ((None, "search", "llama"), 60),
        (("globex", None, "llama"), 0),
        ((None, None, None), 140),
    ],
)
def test_a_budget_counts_what_all_of_its_names_bear(scope, spent):
    """Any combination; without a name it is the whole bill, idle time and all."""
    (state,) = spent_of([budget(scope[0], scope[1], scope[2], Decimal(1))], ACME, 140)
    assert state.spent_nano == spent
    assert state.left_nano == NANO - spent


@given(st.integers(min_value=1, max_value=10**15), st.integers(min_value=0, max_value=2 * 10**15))
def test_a_threshold_is_passed_exactly_where_it_lies(monthly, spent):
    """Integers against integers: no share is divided, so none is missed by a rounding."""
    one = budget("a", None, None, Decimal(monthly).scaleb(-9), [Decimal("0.333333"), Decimal(1)])
    assert (333_333 in one.passed(spent)) == (Decimal(spent) >= Decimal(monthly) * Decimal("0.333333"))
    assert (1_000_000 in one.passed(spent)) == (spent >= monthly)


def test_thresholds_finer_than_a_millionth_are_refused():
    """They could not be kept exactly."""
    with pytest.raises(ConfigError, match="six decimals"):
        budget("a", None, None, Decimal(1), [Decimal("0.3333333")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budgets:\n- tenant: a\n", "f.yaml:2: budgets.0.monthly_usd: "),
        ("budgets:\n- monthly_usd: 0\n", "f.yaml:2: budgets.0.monthly_usd: "),
        (
            "budgets:\n- monthly_usd: 1\n  thresholds: [-1]\n",
            "f.yaml:3: budgets.0.thresholds: threshold -1 is not a share",
        ),
        ("budgets:\n- monthly_usd: 1\n  thresholds: []\n", "f.yaml:3: budgets.0.thresholds: "),
        ("budgets:\n- tenant: a\n  monthly_usd: 1\n- tenant: a\n  monthly_usd: 2\n", "two budgets of 'tenant=a'"),
    ],
)
def test_a_wrong_budget_is_one_line_that_names_it(text, message):
    """With file, line and key."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "f.yaml")
    assert message in str(caught.value)


def test_an_event_is_written_once_for_each_budget_month_and_threshold(ledger):
    """A second look at the same month finds it there; the next month begins anew, and so does a raised budget."""
    states = spent_of([budget("acme", None, None, Decimal(100).scaleb(-9))], ACME, 140)
    due = events_due(states, "2026-11", 5)
    assert [event.threshold for event in due] == [Decimal("0.5"), Decimal("0.8")]
    assert write_budget_events(ledger, due) == list(due)
    assert write_budget_events(ledger, events_due(states, "2026-11", 6)) == []
    assert budget_events(ledger, "2026-11") == due
    later = events_due(states, "2026-12", 7)
    assert write_budget_events(ledger, later) == list(later)
    raised = spent_of([budget("acme", None, None, Decimal(110).scaleb(-9))], ACME, 140)
    assert len(write_budget_events(ledger, events_due(raised, "2026-11", 8))) == 2


def test_two_processes_that_see_the_same_threshold_write_it_once(ledger, ledger_url):
    """The database decides; exactly one of them is told that it was first."""
    states = spent_of([budget("acme", None, None, Decimal(100).scaleb(-9))], ACME, 140)
    others = [Ledger.open(ledger_url) for _ in range(4)]
    with ThreadPoolExecutor(len(others)) as threads:
        written = list(threads.map(lambda one: write_budget_events(one, events_due(states, "2026-11", 9)), others))
    for other in others:
        other.close()
    assert sum(len(events) for events in written) == 2
    assert len(budget_events(ledger, "2026-11")) == 2


@pytest.mark.parametrize("statement", [sa.update(t.budget_events).values(spent_nano=1), sa.delete(t.budget_events)])
def test_events_cannot_be_changed_or_deleted(ledger, statement):
    """Triggers of the database refuse it."""
    states = spent_of([budget("acme", None, None, Decimal(100).scaleb(-9))], ACME, 140)
    write_budget_events(ledger, events_due(states, "2026-11", 5))
    with (
        pytest.raises(LedgerError, match="the budget events is append-only"),
        ledger._transaction(write=True) as changing,
    ):
        changing.execute(statement)


def test_the_watch_tells_each_threshold_once_in_its_log_and_in_what_is_shown(ledger, caplog):
    """Whatever is settled counts, in the month of service; a restarted service tells nothing twice."""
    book(ledger, MONTH_NS // HOUR, tenant="acme", nano=60 * NANO)
    chosen = settings({"tenant": "acme", "monthly_usd": 100}, {"tenant": "globex", "monthly_usd": 1})
    with caplog.at_level(logging.WARNING):
        watch = SpendWatch(ledger, chosen, lambda: NOW_NS)
        first = watch.update()
        book(ledger, NOW_NS // HOUR - 1, tenant="acme", nano=25 * NANO)
        second = watch.update()
        third = SpendWatch(ledger, chosen, lambda: NOW_NS + 1).update()
    assert [[share for share, _ in view.budgets[0].events] for view in (first, second, third)] == [
        ["0.5"],
        ["0.5", "0.8"],
        ["0.5", "0.8"],
    ]
    assert [view.budgets[0].spent_nano for view in (first, second)] == [60 * NANO, 85 * NANO]
    assert third.budgets[1].events == ()
    told = [record.getMessage() for record in caplog.records if record.name.endswith("spend_watch")]
    assert told == [
        "budget tenant=acme: USD 60.00 of 100.00 are spent in 2026-11, past its threshold of 0.5",
        "budget tenant=acme: USD 85.00 of 100.00 are spent in 2026-11, past its threshold of 0.8",
    ]


def test_spend_of_the_month_before_counts_against_no_budget_of_this_one(ledger):
    """Not even its last hour."""
    book(ledger, MONTH_NS // HOUR - 1, tenant="acme", nano=500 * NANO)
    view = SpendWatch(ledger, settings({"tenant": "acme", "monthly_usd": 100}), lambda: NOW_NS).update()
    assert (view.budgets[0].spent_nano, view.budgets[0].events) == (0, ())
