"""Spend as Prometheus metrics: tenants in their seats, budgets by their scope, and nothing that is not known."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exporters.snapshots import snapshot, spend_view
from tests.exporters.test_prometheus import one, registry_of, scrape, series

from farthing.domain import conventions as names
from farthing.domain.metric_reference import METRICS
from farthing.domain.money import NANO
from farthing.domain.spend import TenantSpend

SPEND = [
    names.METRIC_SPEND_TODAY,
    names.METRIC_SPEND_MONTH,
    names.METRIC_BILL_TODAY,
    names.METRIC_BILL_MONTH,
    names.METRIC_SPEND_FORECAST,
    names.METRIC_ANOMALY,
    names.METRIC_BUDGET,
    names.METRIC_BUDGET_SPENT,
    names.METRIC_BUDGET_RATIO,
    names.METRIC_BUDGET_EVENT,
    names.METRIC_UNPRICED,
    names.METRIC_CAPACITY,
    names.METRIC_KPI_UNIT_COST,
    names.METRIC_KPI_SHARE,
]


def pictured(**changes):
    """Samples of the made-up spend with some changes."""
    spend = replace(spend_view(), **changes)
    return scrape(registry_of(lambda: replace(snapshot(), spend=spend)))


@pytest.mark.parametrize("name", SPEND)
def test_before_spend_was_computed_no_metric_of_it_exists(name):
    """An absent series, never 0."""
    assert name in {metric.name for metric in METRICS}
    assert series(scrape(registry_of(lambda: replace(snapshot(), spend=None))), name) == {}
    assert series(pictured(), name)


def test_a_budget_has_the_labels_of_whom_it_is_for():
    """That of the whole bill has none, and one that is overspent is above 1."""
    samples = pictured()
    assert one(samples, names.METRIC_BUDGET_RATIO, tenant="acme-search") == 0.5
    assert one(samples, names.METRIC_BUDGET_RATIO, tenant="", project="", model="") == 2
    assert one(samples, names.METRIC_BUDGET, tenant="", project="", model="") == 1
    assert (
        one(samples, names.METRIC_BUDGET_EVENT, tenant="acme-search", threshold="0.5") == spend_view().taken_ns / NANO
    )


def test_the_forecast_has_three_bounds_or_none():
    """Expected, low and high of the 80 % interval."""
    bounds = {dict(key[1])["bound"]: value for key, value in series(pictured(), names.METRIC_SPEND_FORECAST).items()}
    assert bounds == {"low": 350, "expected": 400, "high": 470}
    assert series(pictured(forecast=None), names.METRIC_SPEND_FORECAST) == {}


def test_only_anomalies_that_go_on_have_an_impact_now():
    """By tenant; one that is over is history."""
    spend = spend_view()
    assert one(pictured(), names.METRIC_ANOMALY) == 6
    over = tuple(replace(anomaly, end_ns=anomaly.start_ns + 1) for anomaly in spend.anomalies)
    assert series(pictured(anomalies=over), names.METRIC_ANOMALY) == {}


def test_an_engine_without_a_price_is_a_series():
    """So that an alert can name it and its model."""
    assert one(pictured(), names.METRIC_UNPRICED, engine="lab-1", model="qwen") == 1


@given(st.lists(st.integers(min_value=0, max_value=10**15), min_size=1, max_size=12))
def test_other_keeps_every_dollar_of_tenants_without_a_seat(amounts):
    """The sum over the series is the sum over the tenants, however few seats there are."""
    tenants = tuple(TenantSpend(f"t{number}", 0, nano) for number, nano in enumerate(amounts))
    spend = replace(spend_view(), tenants=tenants)
    samples = scrape(registry_of(lambda: replace(snapshot(), spend=spend), top_tenants=2))
    assert set(series(samples, names.METRIC_SPEND_MONTH)) == {(names.METRIC_SPEND_MONTH, (("tenant", "other"),))}
    assert one(samples, names.METRIC_SPEND_MONTH, tenant="other") == sum(amounts) / NANO
