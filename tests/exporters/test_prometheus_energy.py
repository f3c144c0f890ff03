"""Energy as metrics: joules by line and tenant, per token, in money and in carbon; what is unknown is absent."""

from __future__ import annotations

from dataclasses import replace

from tests.exporters.snapshots import energy_view, snapshot
from tests.exporters.test_prometheus import one, registry_of, scrape, series

from farthing.domain import conventions as names
from farthing.domain.energy import EnergyView


def test_joules_are_by_account_phase_and_method_without_what_may_be_taken_back():
    """Late records move energy out of unattributed, and a counter must not fall."""
    samples = scrape(registry_of(snapshot))
    assert one(samples, names.METRIC_PHASE_ENERGY, account="charged", phase="decode", method="modelled") == 90_040.0
    assert one(samples, names.METRIC_PHASE_ENERGY, account="idle", phase="", method="metered") == 30_000.0
    assert len(series(samples, names.METRIC_PHASE_ENERGY)) == 4


def test_tenants_without_a_seat_share_other_which_keeps_their_joules():
    """As of their dollars."""
    whole = series(scrape(registry_of(snapshot)), names.METRIC_TENANT_ENERGY)
    few = series(scrape(registry_of(snapshot, top_tenants=1)), names.METRIC_TENANT_ENERGY)
    assert sum(whole.values()) == sum(few.values()) == 170_050.0
    assert len(whole) == len(few) == 2


def test_joules_per_token_money_and_carbon_are_told_where_they_are_known():
    """Without a tariff or a grid intensity there is no series, and never 0."""
    samples = scrape(registry_of(snapshot))
    assert one(samples, names.METRIC_ENERGY_PER_TOKEN, engine="llama-8b", phase="decode") == 0.75
    assert one(samples, names.METRIC_CARBON, engine="llama-8b") == 25.0
    assert one(samples, names.METRIC_ENERGY_COST, engine="llama-8b") == 0.0052
    engine = replace(energy_view().engines["llama-8b"], carbon_grams=None, cost_nano=None, joules_per_token={})
    blank = replace(snapshot(), energy=EnergyView({"llama-8b": engine}))
    samples = scrape(registry_of(lambda: blank))
    for name in (names.METRIC_ENERGY_PER_TOKEN, names.METRIC_CARBON, names.METRIC_ENERGY_COST):
        assert series(samples, name) == {}
