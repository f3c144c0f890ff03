"""Forecasts hold what they promise on seasons whose future is known, and say so when they know little."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.books.seasons import KINDS, YEAR_START, case, last_week, run_rate, season

from farthing.books.forecast import forecast, forecast_month, hours_to_month_end
from farthing.domain.money import NANO

SEEDS = 80
MONDAY = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp()) // 3600


def hour(year, month, day, of_day=0):
    """Hours since the epoch."""
    return int(datetime(year, month, day, of_day, tzinfo=UTC).timestamp()) // 3600


@pytest.fixture(scope="module")
def back_tests():
    """Kind -> (inside the interval, error of the forecast, of last week's hours, of the run rate), as rows."""
    found = {}
    for kind in KINDS:
        rows = []
        for it in (case(kind, seed) for seed in range(SEEDS)):
            if not any(it.history) or not it.outcome_nano:
                continue  # a month that ends on a weekend of a tenant who rests then has no relative error
            told = forecast(it.history, start_hour=it.start_hour, horizon=it.horizon)
            guesses = (told.expected_nano, last_week(it), run_rate(it))
            errors = [abs(guess - it.outcome_nano) / it.outcome_nano for guess in guesses]
            rows.append([told.low_nano <= it.outcome_nano <= told.high_nano, *errors])
        found[kind] = np.array(rows, dtype=float)
    return found


def flat(days, start=MONDAY, *, weekend=0.5, spread=0.1, seed=1):
    """Days of a quiet tenant who spends a dollar in an hour of a working day."""
    rng = np.random.default_rng(seed)
    at = start + np.arange(days * 24)
    factor = np.where((at // 24 + 3) % 7 >= 5, weekend, 1.0)
    return [int(value) for value in factor * rng.lognormal(-(spread**2) / 2, spread, days * 24) * NANO]


# ---- the back-test -----------------------------------------------------------------------------------


def test_the_interval_of_the_months_rest_holds_what_it_promises(back_tests):
    """80 of 100, from 1 to 90 days of history, all kinds of series together."""
    rows = np.concatenate(list(back_tests.values()))
    assert len(rows) > 0.95 * SEEDS * len(KINDS)
    assert 0.75 <= rows[:, 0].mean() <= 0.90


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_series_is_left_without_its_interval(back_tests, kind):
    """Steps and bursts that nobody can foresee are the worst."""
    assert back_tests[kind][:, 0].mean() >= 0.65


def test_the_forecast_errs_less_than_naive_ones(back_tests):
    """The median error of all, beside that of the same hours of last week and of the month's rate so far."""
    _, told, week, rate = np.median(np.concatenate(list(back_tests.values())), axis=0)
    assert told / week < 0.9
    assert told / rate < 0.75


@pytest.mark.parametrize("kind", ["trend", "steps", "weekdays only"])
def test_the_forecast_errs_less_than_naive_ones_where_there_is_something_to_learn(back_tests, kind):
    """Bursts and wandering levels nobody foresees, and what never changes comes again anyhow."""
    _, told, week, rate = np.median(back_tests[kind], axis=0)
    assert told < min(week, rate)


def test_a_long_history_narrows_the_interval():
    """Three days, three weeks and three months of one tenant, whose weekends differ."""
    history = flat(90)
    widths = []
    for days in (3, 21, 90):
        told = forecast(history[-days * 24 :], start_hour=MONDAY + (90 - days) * 24, horizon=240)
        widths.append((told.high_nano - told.low_nano) / told.expected_nano)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0.25
    assert widths[-1] < 0.5 * widths[0]


# ---- seasons and levels ------------------------------------------------------------------------------


def test_hours_of_the_day_and_days_of_the_week_come_again():
    """Parts of days, at any hour, within 3 % of what a series without noise then spends."""
    spend = [int(value * NANO) for value in season(np.random.default_rng(3), YEAR_START, 28 * 24 + 200)]
    for now in range(28 * 24, 28 * 24 + 24, 5):
        for horizon in (6, 20, 60, 170):
            told = forecast(spend[:now], start_hour=YEAR_START, horizon=horizon)
            assert told.expected_nano == pytest.approx(sum(spend[now : now + horizon]), rel=0.03)


def test_a_trend_goes_on():
    """A tenant who grows by 1 % of the start a day for 60 days has not stopped; the mean of the past is far below."""
    history = [int(value * (1 + 0.01 * i / 24)) for i, value in enumerate(flat(60))]
    told = forecast(history, start_hour=MONDAY, horizon=21 * 24)
    actual = sum(int(v * (1 + 0.01 * (60 + i / 24))) for i, v in enumerate(flat(21, MONDAY + 60 * 24, seed=2)))
    assert told.expected_nano == pytest.approx(actual, rel=0.06)


def test_a_level_shift_is_believed_after_three_days_and_told():
    """Half the traffic left; weeks of the old level do not hold the forecast back."""
    history = flat(40)
    shifted = history[: 37 * 24] + [value // 2 for value in history[37 * 24 :]]
    before = forecast(history, start_hour=MONDAY, horizon=168)
    after = forecast(shifted, start_hour=MONDAY, horizon=168)
    assert after.expected_nano == pytest.approx(before.expected_nano / 2, rel=0.15)
    assert after.method.endswith("after a level shift")
    assert not before.method.endswith("after a level shift")


def test_one_odd_day_is_not_a_new_level():
    """A backfill of yesterday at four times the usual spend moves next week by less than a tenth."""
    history = flat(40)
    odd = history[: 39 * 24] + [4 * value for value in history[39 * 24 :]]
    before = forecast(history, start_hour=MONDAY, horizon=168).expected_nano
    assert forecast(odd, start_hour=MONDAY, horizon=168).expected_nano == pytest.approx(before, rel=0.1)


# ---- what is missing ---------------------------------------------------------------------------------


def test_an_unknown_hour_is_not_an_hour_without_spend():
    """A fifth of the hours are gone; the forecast stays, and would fall by a fifth if they were zeros."""
    history = flat(28)
    lost = np.random.default_rng(5).random(len(history)) < 0.2
    whole = forecast(history, start_hour=MONDAY, horizon=168)
    holes = forecast(
        [None if gone else v for v, gone in zip(history, lost, strict=True)], start_hour=MONDAY, horizon=168
    )
    zeros = forecast([0 if gone else v for v, gone in zip(history, lost, strict=True)], start_hour=MONDAY, horizon=168)
    assert holes.expected_nano == pytest.approx(whole.expected_nano, rel=0.03)
    assert zeros.expected_nano == pytest.approx(0.8 * whole.expected_nano, rel=0.06)
    assert holes.history_hours == len(history) - int(lost.sum())


def test_a_series_that_has_just_begun_says_so_and_is_unsure():
    """Five known hours: a forecast, at least a factor of two wide."""
    told = forecast([NANO] * 5, start_hour=MONDAY, horizon=480)
    assert "just begun" in told.method
    assert told.high_nano > 2 * told.low_nano
    assert told.low_nano < told.expected_nano < told.high_nano
    assert told.history_hours == 5


def test_a_weekend_not_seen_yet_may_be_anything_from_closed_to_busy():
    """Five working days say nothing of the two that follow; three weeks do."""
    first = forecast(flat(5), start_hour=MONDAY, horizon=48)
    fourth = forecast(flat(26), start_hour=MONDAY, horizon=48)
    assert first.low_nano < 0.1 * first.high_nano
    assert fourth.low_nano > 0.7 * fourth.high_nano


def test_odd_days_that_a_series_has_shown_are_expected_again():
    """One day in ten at ten times the usual: a month's mean is not that of its quiet days."""
    rng = np.random.default_rng(8)
    history = [
        value * (10 if odd else 1) for value, odd in zip(flat(80), np.repeat(rng.random(80) < 0.1, 24), strict=True)
    ]
    told = forecast(history, start_hour=MONDAY, horizon=720)
    assert told.expected_nano == pytest.approx(sum(history) / 80 * 30, rel=0.25)
    assert told.high_nano > 1.1 * sum(history) / 80 * 30


def test_a_tenant_who_spends_nothing_is_forecast_to_spend_nothing():
    """Known zeros are knowledge, and the method says what it rests on."""
    told = forecast([0] * 200, start_hour=MONDAY, horizon=100)
    assert (told.low_nano, told.expected_nano, told.high_nano) == (0, 0, 0)
    assert told.method == "nothing was spent so far"


@pytest.mark.parametrize(
    ("history", "horizon", "told"),
    [
        ([], 5, "none of the 0 hours"),
        ([None, None], 5, "none of the 2 hours"),
        ([1], -1, "horizon of -1 hours"),
        ([1, -4], 5, "spend of -4 nano-dollars"),
    ],
)
def test_what_cannot_be_forecast_is_refused(history, horizon, told):
    """Never a 0 for lack of knowledge."""
    with pytest.raises(ValueError, match=told):
        forecast(history, start_hour=MONDAY, horizon=horizon)


amounts = st.lists(st.one_of(st.none(), st.integers(0, 10**14)), min_size=1, max_size=400)


@settings(max_examples=60, deadline=None)
@given(amounts.filter(any), st.integers(400_000, 600_000), st.integers(0, 1000))
def test_any_history_gives_an_ordered_interval_and_the_same_again(history, start, horizon):
    """Whatever is missing, whatever the sizes."""
    told = forecast(history, start_hour=start, horizon=horizon)
    assert 0 <= told.low_nano <= told.expected_nano <= told.high_nano
    assert told == forecast(history, start_hour=start, horizon=horizon)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(2, 10**6))
def test_the_currency_does_not_matter(days, factor):
    """A thousand times the spend gives a thousand times the forecast."""
    history = flat(days)
    one = forecast(history, start_hour=MONDAY, horizon=300)
    many = forecast([value * factor for value in history], start_hour=MONDAY, horizon=300)
    assert many.expected_nano == pytest.approx(one.expected_nano * factor, rel=1e-6)
    assert many.low_nano == pytest.approx(one.low_nano * factor, rel=1e-6)


# ---- months ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "hours"),
    [
        ((2026, 11, 1), 720),
        ((2026, 11, 30, 23), 1),
        ((2026, 12, 31, 12), 12),
        ((2028, 2, 1), 29 * 24),
        ((2027, 2, 28), 24),
    ],
)
def test_hours_to_the_end_of_a_month(moment, hours):
    """Leap years and the turn of the year included."""
    assert hours_to_month_end(hour(*moment)) == hours


def test_the_month_is_what_was_spent_and_what_is_to_come():
    """To the nano-dollar for the past; days of the month before inform, and do not count."""
    start = hour(2026, 10, 5)
    history = flat(40, start)
    spent = sum(history[hour(2026, 11, 1) - start :])
    month = forecast_month(history, start_hour=start)
    assert month.spent_nano == spent
    assert month.rest == forecast(history, start_hour=start, horizon=hours_to_month_end(start + 40 * 24))
    assert month.expected_nano == spent + month.rest.expected_nano
    assert month.low_nano == spent + month.rest.low_nano
    assert month.high_nano == spent + month.rest.high_nano
    assert (month.unknown_hours, month.filled_nano) == (0, 0)


def test_hours_of_the_month_that_nobody_knows_are_estimated_apart():
    """A night without records costs what such nights cost, beside what is known to be spent."""
    start = hour(2026, 10, 5)
    history = flat(40, start)
    gone = slice(-60, -50)
    holed = [*history[:-60], *[None] * 10, *history[-50:]]
    month, whole = forecast_month(holed, start_hour=start), forecast_month(history, start_hour=start)
    assert month.unknown_hours == 10
    assert month.spent_nano == whole.spent_nano - sum(history[gone])
    assert month.filled_nano == pytest.approx(sum(history[gone]), rel=0.15)
    assert month.expected_nano == month.spent_nano + month.filled_nano + month.rest.expected_nano


def test_a_day_that_nobody_knows_takes_the_level_of_its_neighbours():
    """None is not 0 for a whole day either."""
    start = hour(2026, 11, 2)
    history = flat(14, start, weekend=1.0)
    month = forecast_month([*history[:120], *[None] * 48, *history[168:]], start_hour=start)
    assert month.filled_nano == pytest.approx(48 * NANO, rel=0.1)


def test_a_history_that_ends_with_a_month_foretells_the_next():
    """At the first hour of a month nothing of it is spent."""
    start = hour(2026, 10, 1)
    month = forecast_month(flat(31, start), start_hour=start)
    assert month.spent_nano == 0
    assert month.rest.horizon == 720
