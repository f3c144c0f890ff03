"""Spend at three times the usual is found within its hour; ordinary weeks raise no alarm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.books.seasons import YEAR_START, series

from farthing.books.anomalies import AnomalySettings, detect
from farthing.domain.money import NANO

ORDINARY = ("daily and weekly", "trend", "weekdays only", "autocorrelated")
"""Kinds of series on which nothing odd happens."""
MONDAY = YEAR_START + 4 * 24


def tenant(kind, seed, hours):
    """Start, expected and spent nano-dollars of a tenant at 20 dollars an hour."""
    rng = np.random.default_rng([seed, 1])
    start = YEAR_START + int(rng.integers(0, 300 * 24))
    return (start, *series(kind, rng, start, hours, mean=20.0))


def steady(hours, spread=0.1, seed=4):
    """A dollar or so in each hour of every day."""
    rng = np.random.default_rng(seed)
    return [int(value) for value in NANO * 10 * rng.lognormal(0, spread, hours)]


def found_rate(kind, days, seeds):
    """Part of single hours at three times the expected that an open anomaly tells as soon as they are complete."""
    found = []
    for seed in range(seeds):
        hours = int(days * 24) + seed % 24
        start, expected, spent = tenant(kind, seed, hours + 1)
        if expected[-1]:
            told = detect([*spent[:-1], 3 * expected[-1]], start_hour=start)
            found.append(bool(told) and told[-1].kind == "spike" and told[-1].end_hour is None)
    assert len(found) > seeds / 5
    return sum(found) / len(found)


# ---- what is found, and what is not ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORDINARY)
def test_an_hour_at_three_times_the_expected_is_found_when_it_is_complete(kind):
    """With four weeks of history, at any hour of any day: 19 of 20 at least."""
    assert found_rate(kind, 28, 40) >= 0.95


@pytest.mark.parametrize(("days", "part"), [(14, 0.9), (3, 0.8)])
def test_two_weeks_are_enough_for_most_and_three_days_to_begin_with(days, part):
    """Coarser: a first weekend is not told from working days."""
    assert found_rate("daily and weekly", days, 48) >= part


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_weeks_raise_less_than_one_alarm_a_month(kind):
    """Sixty days of each of 12 tenants, their first weeks included; a dollar is enough to alarm."""
    alarms = 0
    for seed in range(12):
        start, _, spent = tenant(kind, seed, 60 * 24)
        alarms += len(detect(spent, start_hour=start))
    assert alarms / (12 * (60 - 3) / 30) < 1.0


def test_a_series_of_weekly_jobs_learns_them():
    """A job each Wednesday at 02:00 at six times the usual alarms at first, and no more after a few weeks."""
    spent = steady(70 * 24)
    jobs = [i for i in range(len(spent)) if i % 168 == 2 * 24 + 2]
    for i in jobs:
        spent[i] *= 6
    told = [anomaly.start_hour - MONDAY for anomaly in detect(spent, start_hour=MONDAY)]
    assert jobs[1] in told
    assert not set(told) & set(jobs[5:])


# ---- what an anomaly says ----------------------------------------------------------------------------


def test_a_spike_has_its_hours_its_dollars_and_an_end():
    """Five hours at four times the usual, to the hour and to the nano-dollar."""
    spent = steady(20 * 24)
    for i in range(400, 405):
        spent[i] *= 4
    (anomaly,) = detect(spent, start_hour=MONDAY)
    assert anomaly.kind == "spike"
    assert (anomaly.start_hour, anomaly.end_hour) == (MONDAY + 400, MONDAY + 405)
    assert anomaly.observed_nano == sum(spent[400:405])
    assert anomaly.impact_nano == anomaly.observed_nano - anomaly.expected_nano
    assert anomaly.expected_nano == pytest.approx(5 * 10 * NANO, rel=0.1)
    assert anomaly.low_nano < anomaly.expected_nano < anomaly.high_nano < anomaly.observed_nano


def test_hours_with_an_ordinary_one_between_are_one_anomaly():
    """And with two, they are two."""
    spent = steady(20 * 24)
    for i in (400, 402, 405, 406):
        spent[i] *= 4
    told = detect(spent, start_hour=MONDAY)
    assert [(a.start_hour, a.end_hour) for a in told] == [(MONDAY + 400, MONDAY + 403), (MONDAY + 405, MONDAY + 407)]
    assert told[0].observed_nano == spent[400] + spent[402]


def test_a_drop_is_told_as_what_was_not_spent():
    """An outage of six hours: the impact is negative."""
    spent = steady(20 * 24)
    spent[400:406] = [0] * 6
    (anomaly,) = detect(spent, start_hour=MONDAY)
    assert (anomaly.kind, anomaly.observed_nano) == ("drop", 0)
    assert anomaly.impact_nano == pytest.approx(-60 * NANO, rel=0.1)


@pytest.mark.parametrize("factor", [8.0, 3.0, 0.3, 0.1])
def test_what_lasts_a_day_is_a_level_shift_and_then_usual(factor):
    """Told once, with a day's dollars; a spike on the new level is still found."""
    spent = [int(value * (factor if i >= 480 else 1)) for i, value in enumerate(steady(40 * 24))]
    spent[800] *= 4
    shift, spike = detect(spent, start_hour=MONDAY)
    assert (shift.kind, shift.start_hour, shift.end_hour) == ("level_shift", MONDAY + 480, MONDAY + 504)
    assert (spike.kind, spike.start_hour) == ("spike", MONDAY + 800)
    assert spike.expected_nano == pytest.approx(factor * 10 * NANO, rel=0.2)


def test_an_anomaly_that_goes_on_is_open():
    """From its first hour to its last so far."""
    spent = steady(20 * 24)
    for hours in (1, 2, 5):
        (anomaly,) = detect([*spent, *[50 * NANO] * hours], start_hour=MONDAY)
        assert (anomaly.start_hour, anomaly.end_hour) == (MONDAY + 480, None)
        assert anomaly.observed_nano == 50 * NANO * hours


def test_cents_do_not_alarm():
    """A tenant at ten cents an hour: 30 cents more is nothing, unless one asks for it."""
    spent = [value // 100 for value in steady(20 * 24)]
    spent[400] *= 4
    assert detect(spent, start_hour=MONDAY) == []
    (anomaly,) = detect(spent, start_hour=MONDAY, settings=AnomalySettings(minimum_impact_nano=NANO // 10))
    assert anomaly.start_hour == MONDAY + 400


def test_small_hours_add_up_to_an_anomaly():
    """Thirty cents an hour are told once they are a dollar."""
    spent = [value // 100 for value in steady(20 * 24)]
    told = [bool(detect([*spent, *[4 * NANO // 10] * hours], start_hour=MONDAY)) for hours in range(1, 6)]
    assert told == [False, False, False, True, True]


# ---- what is missing ---------------------------------------------------------------------------------


def test_unknown_hours_are_neither_drops_nor_ends():
    """None is not 0: an outage of the collector is no outage of the tenant."""
    spent = steady(20 * 24)
    holes = [*spent[:400], *[None] * 30, *spent[430:]]
    assert detect(holes, start_hour=MONDAY) == []
    odd = [*spent[:400], 50 * NANO, None, None, 50 * NANO, *spent[404:]]
    (anomaly,) = detect(odd, start_hour=MONDAY)
    assert (anomaly.start_hour, anomaly.end_hour) == (MONDAY + 400, MONDAY + 404)
    assert anomaly.observed_nano == 100 * NANO


def test_nothing_is_judged_before_three_days():
    """There is nothing to judge it by."""
    assert detect([10 * NANO] * 72 + [90 * NANO], start_hour=MONDAY) != []
    assert detect([10 * NANO] * 71 + [90 * NANO], start_hour=MONDAY) == []


def test_a_first_weekend_without_spend_is_not_missed():
    """Nobody has seen yet whether this tenant works on Saturdays."""
    spent = [value if i % 168 < 120 else 0 for i, value in enumerate(steady(9 * 24))]
    assert detect(spent[: 7 * 24], start_hour=MONDAY) == []


def test_a_tenant_who_never_spent_is_odd_when_he_begins():
    """From nothing to a hundred dollars."""
    (anomaly,) = detect([0] * 400 + [100 * NANO], start_hour=MONDAY)
    assert (anomaly.kind, anomaly.expected_nano, anomaly.impact_nano) == ("spike", 0, 100 * NANO)


def test_negative_spend_is_refused():
    """Credits are not spend."""
    with pytest.raises(ValueError, match="spend of -3 nano-dollars"):
        detect([1, -3], start_hour=MONDAY)


# ---- the same again, and step by step ----------------------------------------------------------------


def test_a_longer_history_takes_nothing_back():
    """What is told after each hour stays told: anomalies are found by the past alone."""
    start, expected, spent = tenant("daily and weekly", 3, 20 * 24)
    for begin, hours in ((200, 3), (300, 40), (420, 1)):
        for i in range(begin, begin + hours):
            spent[i] = 4 * expected[i]
    whole = detect(spent, start_hour=start)
    assert len(whole) >= 3
    for now in range(150, len(spent), 7):
        for early in detect(spent[:now], start_hour=start):
            later = next(a for a in whole if a.start_hour == early.start_hour)
            if early.end_hour is None:
                assert later.observed_nano >= early.observed_nano
                assert later.expected_nano >= early.expected_nano
            else:
                assert later == early


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.just(0), st.integers(0, 10**13)), max_size=400),
    st.integers(400_000, 600_000),
)
def test_any_history_gives_anomalies_in_order_that_add_up(history, start):
    """Whatever is missing, whatever the sizes; runs never overlap and every sum is of known hours."""
    told = detect(history, start_hour=start, settings=AnomalySettings(minimum_impact_nano=0))
    last = start
    for anomaly in told:
        end = start + len(history) if anomaly.end_hour is None else anomaly.end_hour
        assert last <= anomaly.start_hour < end <= start + len(history)
        hours = [value or 0 for value in history[anomaly.start_hour - start : end - start]]
        assert 0 <= anomaly.observed_nano <= sum(hours)
        assert 0 <= anomaly.low_nano <= anomaly.expected_nano <= anomaly.high_nano
        assert anomaly.impact_nano == anomaly.observed_nano - anomaly.expected_nano
        last = end
    assert told == detect(history, start_hour=start, settings=AnomalySettings(minimum_impact_nano=0))
