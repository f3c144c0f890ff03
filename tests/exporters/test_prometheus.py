"""The snapshot as Prometheus metrics: exact dollars, absent unknowns, counters that never decrease."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.exporters.snapshots import TRACE, empty_snapshot, engine_view, histogram_view, snapshot

from farthing.domain import conventions as names
from farthing.domain.clock import SECOND
from farthing.domain.energy import EnergyView
from farthing.domain.errors import LedgerError
from farthing.domain.metric_reference import METRICS
from farthing.domain.metric_reference_gpu import DEVICE_METRICS
from farthing.domain.model import Check, EngineGauges, Fit, Snapshot, TenantView
from farthing.domain.money import NANO
from farthing.exporters.prometheus import TOP_TIERS, SnapshotCollector, exposition
from farthing.exporters.prometheus_seats import Seats

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def registry_of(source: Callable[[], Snapshot], top_tenants: int = 50) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(source, Seats(top_tenants)))
    return registry


def scrape(registry: CollectorRegistry) -> Samples:
    """Sample (name, labels as a sorted tuple) -> value."""
    body, _ = exposition(registry, "")
    samples: Samples = {}
    for family in parse_text(body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"{key} appears twice"
            samples[key] = sample.value
    return samples


def series(samples: Samples, name: str, **labels: str) -> Samples:
    return {key: value for key, value in samples.items() if key[0] == name and labels.items() <= dict(key[1]).items()}


def one(samples: Samples, name: str, **labels: str) -> float:
    (value,) = series(samples, name, **labels).values()
    return value


def parse_openmetrics(body: bytes) -> list[Metric]:
    return list(openmetrics.text_string_to_metric_families(body.decode()))


def tenant(name: str, nano: int, aborted: int = 0) -> TenantView:
    return TenantView(name, "m", "chat", {"decode": nano}, aborted, {"output": nano // 1000}, {"finished": 1})


def test_every_metric_of_the_reference_has_a_series_of_its_labels():
    """No metric is documented without being exported, and none with other labels or another type."""
    late = {("decode", "modelled"): 1_000}
    pictured = replace(
        snapshot(),
        engines=tuple(replace(view, late_nano=late) for view in snapshot().engines),
        histograms=tuple(
            histogram_view(metric=metric)
            for metric in (names.METRIC_TTFT, names.METRIC_TPOT, names.METRIC_E2E, names.METRIC_QUEUE)
        ),
    )
    exported = {}
    for family in registry_of(lambda: pictured).collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exported[family.name + suffix] = (family.type, labels)
    elsewhere = {*DEVICE_METRICS}
    assert exported == {entry.name: (entry.type, set(entry.labels)) for entry in METRICS if entry not in elsewhere}


@given(st.integers(min_value=0, max_value=10**18))
def test_dollars_are_the_nearest_float_of_the_exact_amount(nano):
    """An integer of nano-dollars is divided once and rounded once."""
    pictured = replace(snapshot(), engines=(replace(engine_view(), bill_nano=nano),))
    value = one(scrape(registry_of(lambda: pictured)), names.METRIC_BILL, engine="llama-8b")
    assert value == nano / NANO
    # two roundings of half a unit in 2**53 each stay under half a nano-dollar up to here: $2.2 million
    assert nano > 2**51 or round(value * NANO) == nano


def test_the_lines_of_an_engine_add_up_to_its_bill():
    """What Prometheus holds keeps the promise: cost by account plus work in progress is the bill."""
    samples = scrape(registry_of(snapshot))
    lines = [*series(samples, names.METRIC_COST).values(), *series(samples, names.METRIC_WIP).values()]
    assert sum(round(value * NANO) for value in lines) == engine_view().bill_nano
    assert one(samples, names.METRIC_RESIDUAL) == 0
    assert one(samples, names.METRIC_COST, account="charged", phase="vision", method="modelled") == 24.1000003
    assert one(samples, names.METRIC_UNATTRIBUTED, reason="lost_record") == 0.6


def test_what_is_unknown_is_an_absent_series():
    """None never becomes 0: no price, no fit, no scrape, no energy counter, no tokens of a kind."""
    blank = replace(
        engine_view(),
        price_nano_per_hour=None,
        energy_millijoules=None,
        fit=None,
        gauges=EngineGauges(),
        watermark_lag_ns=None,
        unit_cost_nano_per_million={"prefill": None, "decode": 7_000_000_000},
    )
    samples = scrape(registry_of(lambda: replace(snapshot(), engines=(blank,))))
    for name in (
        names.METRIC_PRICE,
        names.METRIC_SPEND_RATE,
        names.METRIC_ENERGY,
        names.METRIC_FIT_ERROR,
        names.METRIC_SCRAPE_UP,
        names.METRIC_WATERMARK_LAG,
    ):
        assert not series(samples, name), name
    assert list(series(samples, names.METRIC_UNIT_COST).values()) == [7.0]


def test_the_lag_of_a_watermark_grows_while_the_snapshot_is_not_renewed():
    """The books that a scrape shows are as far behind as the moment of the scrape says, not that of the snapshot."""
    pictured = snapshot()
    now_ns = pictured.taken_ns
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: pictured, clock_ns=lambda: now_ns))
    seen = []
    for age in (0, 104, -60):
        now_ns = pictured.taken_ns + age * SECOND
        seen.append(one(scrape(registry), names.METRIC_WATERMARK_LAG, engine="llama-8b"))
    # a clock that was set back makes nothing younger than it was
    assert seen == [7, 111, 7]


def test_a_lag_that_is_unknown_has_no_age_either():
    """An engine without a watermark has no lag, however old the snapshot is."""
    blank = replace(snapshot(), engines=(replace(engine_view(), watermark_lag_ns=None),))
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: blank, clock_ns=lambda: blank.taken_ns + 104 * SECOND))
    assert not series(scrape(registry), names.METRIC_WATERMARK_LAG)


def test_a_fit_that_has_not_predicted_yet_has_no_error():
    """A fit without a past exports no error instead of a perfect one."""
    fresh = replace(engine_view(), fit=Fit("f0", "estimated", {}, {}, walk_forward_wape=None, windows=1))
    assert not series(scrape(registry_of(lambda: replace(snapshot(), engines=(fresh,)))), names.METRIC_FIT_ERROR)


def test_units_are_base_units():
    """Nanoseconds become seconds, millijoules joules, and the GPU's price is one GPU's."""
    pair = replace(engine_view(), engine=replace(engine_view().engine, gpu_count=2))
    samples = scrape(registry_of(lambda: replace(snapshot(), engines=(pair,))))
    assert one(samples, names.METRIC_BUSY) == 400.0
    assert one(samples, names.METRIC_ENERGY) == 210_050.0
    assert one(samples, names.METRIC_WATERMARK_LAG) == 7.0
    assert one(samples, names.METRIC_PRICE, gpu="NVIDIA H100 80GB HBM3") == 1.245
    assert one(samples, names.METRIC_SPEND_RATE) == 2.49


def test_a_price_without_a_known_gpu_count_is_absent():
    """No GPU is known before an engine's first record, and nothing is divided by it."""
    blank = replace(engine_view(), engine=replace(engine_view().engine, gpu_count=0))
    samples = scrape(registry_of(lambda: replace(snapshot(), engines=(blank,))))
    assert not series(samples, names.METRIC_PRICE)
    assert one(samples, names.METRIC_SPEND_RATE) == 2.49


def test_a_check_is_one_only_if_all_of_its_name_agree():
    """Two checks of one name are one series, red if either is."""
    checks = (Check("books", True, ""), Check("books", False, ""), Check("tokens", True, ""))
    samples = scrape(registry_of(lambda: replace(snapshot(), engines=(replace(engine_view(), checks=checks),))))
    assert one(samples, names.METRIC_CHECK, check="books") == 0
    assert one(samples, names.METRIC_CHECK, check="tokens") == 1


def test_aborted_dollars_are_a_phase_of_their_tenant():
    """A tenant's cost summed over phases includes what it aborted."""
    samples = scrape(registry_of(snapshot))
    assert one(samples, names.METRIC_TENANT_COST, tenant="globex", phase="aborted") == 3.1
    assert one(samples, names.METRIC_TENANT_COST, tenant="globex", phase="vision", tier="documents") == 15.1000003
    assert one(samples, names.METRIC_TENANT_REQUESTS, tenant="globex", outcome="aborted") == 300


def test_tenants_beyond_the_largest_keep_their_dollars_in_other():
    """The costliest K have names, the rest one name, and the sum is the whole."""
    tenants = tuple(tenant(f"t{i}", i * 1_000_000_007, aborted=3) for i in range(1, 10))
    samples = scrape(registry_of(lambda: replace(snapshot(), tenants=tenants), top_tenants=3))
    shown = {dict(labels)["tenant"] for _, labels in series(samples, names.METRIC_TENANT_COST)}
    assert shown == {"t9", "t8", "t7", "other"}
    total = sum(round(value * NANO) for value in series(samples, names.METRIC_TENANT_COST).values())
    assert total == sum(sum(view.cost_nano.values()) + view.aborted_nano for view in tenants)
    assert sum(series(samples, names.METRIC_TENANT_REQUESTS).values()) == 9
    assert sum(series(samples, names.METRIC_TENANT_TOKENS).values()) == sum(view.tokens["output"] for view in tenants)


def test_tiers_beyond_the_largest_share_series_and_keep_their_dollars_in_them():
    """A tier is a header that clients choose: those of one tenant are bounded, and the sum is the whole."""
    spent = {f"t{number}": 1_000_000_007 + number for number in range(500)}
    views = tuple(replace(tenant("acme", nano), tier=tier) for tier, nano in spent.items())
    energy = EnergyView(tenants_mj={("acme", "m", tier): 7_000 for tier in spent})
    samples = scrape(registry_of(lambda: replace(snapshot(), tenants=views, energy=energy)))
    costs = series(samples, names.METRIC_TENANT_COST)
    shown = {dict(labels)["tier"] for _, labels in costs}
    assert shown == {*sorted(spent, key=lambda tier: spent[tier])[-TOP_TIERS:], "other"}
    assert sum(round(value * NANO) for value in costs.values()) == sum(spent.values())
    joules = series(samples, names.METRIC_TENANT_ENERGY)
    assert {dict(labels)["tier"] for _, labels in joules} == shown
    assert sum(joules.values()) == 7 * len(spent)


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 10**12)), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_no_series_decreases_when_a_new_tenant_overtakes(growths, top):
    """Whoever arrives, and however much they spend, every tenant counter only grows."""
    spent: dict[str, int] = {}
    current = snapshot()
    registry = registry_of(lambda: current, top_tenants=top)
    before: Samples = {}
    for growth in growths:
        for name, nano in growth.items():
            spent[name] = spent.get(name, 0) + nano
        current = replace(snapshot(), tenants=tuple(tenant(name, nano) for name, nano in spent.items()))
        after = {key: value for key, value in scrape(registry).items() if key[0].startswith("farthing_tenant_")}
        assert all(after.get(key, -1) >= value for key, value in before.items())
        costs = series(after, names.METRIC_TENANT_COST)
        assert sum(round(value * NANO) for value in costs.values()) == sum(spent.values())
        before = after


class Process:
    """One that begins with the seats that are in a store, and keeps its own there."""

    def __init__(self, source: Callable[[], Snapshot], tenants: set[str], tiers: set[str], most: int = 1) -> None:
        self.registry = CollectorRegistry()
        seats = (
            Seats(most, always=(names.UNKNOWN, "documents"), held=store, keep=store.update)
            for store in (tenants, tiers)
        )
        self.registry.register(SnapshotCollector(source, *seats))

    def counters(self) -> Samples:
        return {key: value for key, value in scrape(self.registry).items() if key[0].startswith("farthing_tenant_")}


OUTCOMES = st.sampled_from([names.FINISHED, names.REJECTED])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["x", "y", "z", "documents"]), OUTCOMES)),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 3),
)
def test_no_series_decreases_over_restarts_whoever_came_and_however_they_were_answered(steps, most):
    """Prometheus takes a counter that fell for one that began anew, and counts all that is left of it once more."""
    requests: dict[tuple[str, str], dict[str, int]] = {}
    tenants: set[str] = set()
    tiers: set[str] = set()
    before: Samples = {}

    def shown() -> Snapshot:
        views = []
        for (name, tier), counts in requests.items():
            ran = counts.get(names.FINISHED, 0)
            nano = {"decode": ran * 10**9} if ran else {}
            views.append(TenantView(name, "m", tier, nano, 0, {"output": ran}, dict(counts)))
        return replace(empty_snapshot(), tenants=tuple(views))

    process = Process(shown, tenants, tiers, most)
    for arrivals, is_restarted in steps:
        for name, tier, outcome in arrivals:
            counts = requests.setdefault((name, tier), {})
            counts[outcome] = counts.get(outcome, 0) + 1
        if is_restarted:
            process = Process(shown, tenants, tiers, most)
        after = process.counters()
        assert all(after.get(key, -1) >= value for key, value in before.items())
        ran = sum(counts.get(names.FINISHED, 0) for counts in requests.values())
        assert sum(series(after, names.METRIC_TENANT_COST).values()) == ran
        assert {dict(labels)["tier"] for _, labels in after} <= {*tiers, names.OTHER}
        assert len(tenants) <= most
        assert len(tiers - {"documents"}) <= most
        before = after


def test_a_tier_that_is_named_has_series_of_its_own_beside_all_the_others():
    """What is promised something must be seen, however many names clients thought up before."""
    views = [replace(tenant("acme", 9_000_000), tier=f"x{number}") for number in range(5)]
    tiers: set[str] = set()
    process = Process(lambda: replace(snapshot(), tenants=tuple(views)), set(), tiers)
    process.counters()
    views += [replace(tenant("acme", 7_000), tier="documents"), replace(tenant("acme", 5_000), tier=names.UNKNOWN)]
    costs = series(process.counters(), names.METRIC_TENANT_COST, tenant="acme", phase="decode")
    assert {dict(labels)["tier"] for _, labels in costs} == {"x0", "documents", names.UNKNOWN, names.OTHER}
    assert tiers == {"x0", "documents", names.UNKNOWN}


def test_names_that_were_only_refused_take_no_seat_and_no_series():
    """Twenty requests with twenty names, each answered 404, must not hide those who pay."""
    refused = [
        replace(tenant(f"x{number}", 0), cost_nano={}, tier=f"x{number}", requests={names.REJECTED: 1})
        for number in range(30)
    ]
    tenants: set[str] = set()
    views = refused
    process = Process(lambda: replace(snapshot(), tenants=tuple(views)), tenants, set())
    assert not series(process.counters(), names.METRIC_TENANT_REQUESTS)
    views = [*refused, tenant("acme", 5_000)]
    assert one(process.counters(), names.METRIC_TENANT_COST, tenant="acme", phase="decode") == 5_000 / NANO
    assert tenants == {"acme"}


def test_a_seat_that_cannot_be_kept_is_not_given():
    """One that is forgotten with the process would be another's after it."""

    def keep(values: object) -> None:
        raise LedgerError("ledger: disk full")

    seats = Seats(2, keep=keep)
    with pytest.raises(LedgerError):
        seats.give({"acme": 5})
    assert seats.held == ()


def test_a_scrape_with_nothing_new_does_not_wait_for_the_seats_of_another():
    """Keeping a seat waits for the ledger, half a minute at worst; what a scrape shows has seats by then."""
    shown: list[frozenset[str]] = []

    def keep(values: object) -> None:
        scraper = threading.Thread(target=lambda: shown.append(seats.give({"acme": 5})), daemon=True)
        scraper.start()
        scraper.join(5.0)

    seats = Seats(2, held=["acme"], keep=keep)
    assert seats.give({"acme": 5, "beta": 7}) == {"acme", "beta"}
    assert shown == [{"acme"}], "in time, and without the seat that is not kept yet"


def test_a_tenant_that_calls_itself_other_joins_the_pool():
    """The name of the pool takes no seat and causes no duplicate series."""
    tenants = (tenant("other", 9_000), tenant("a", 2_000), tenant("b", 1_000))
    samples = scrape(registry_of(lambda: replace(snapshot(), tenants=tenants), top_tenants=1))
    assert one(samples, names.METRIC_TENANT_COST, tenant="other", phase="decode") == 10_000 / NANO
    assert one(samples, names.METRIC_TENANT_COST, tenant="a", phase="decode") == 2_000 / NANO


def test_hostile_tenant_names_stay_one_label_value():
    """Quotes, backslashes and newlines in a header cannot forge a series."""
    evil = 'x"} 1\nfarthing_bill_usd_total{engine="\\'
    samples = scrape(registry_of(lambda: replace(snapshot(), tenants=(tenant(evil, 1_000),))))
    assert one(samples, names.METRIC_TENANT_COST, tenant=evil, phase="decode") == 1e-6
    assert len(series(samples, names.METRIC_BILL)) == 1


def test_openmetrics_carries_exemplars_and_parses():
    """A bucket's exemplar names the trace, in the format that allows exemplars."""
    body, content_type = exposition(registry_of(snapshot), OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    families = {family.name: family for family in parse_openmetrics(body)}
    exemplars = [sample.exemplar for sample in families[names.METRIC_TTFT].samples if sample.exemplar]
    assert [exemplar.labels for exemplar in exemplars] == [{"trace_id": TRACE}]
    assert exemplars[0].value == 0.2


def test_an_exemplar_that_is_too_long_is_left_out():
    """One oversized label set must not cost the whole exposition."""
    view = replace(histogram_view(), exemplars=(({"trace_id": "f" * 200}, 0.01, 1.0), *[None] * 6))
    body, _ = exposition(registry_of(lambda: replace(snapshot(), histograms=(view,))), OPENMETRICS)
    assert b" # {" not in body
    assert parse_openmetrics(body)


def test_text_is_the_default_and_has_no_exemplars():
    """A scraper that does not ask gets text 0.0.4, which has no place for exemplars."""
    for accept in ("", "*/*", "text/html", "application/openmetrics-text;version=latest"):
        body, content_type = exposition(registry_of(snapshot), accept)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert TRACE.encode() not in body


def test_histograms_are_cumulative_and_end_with_infinity():
    """Buckets, count and sum come through as the ledger holds them."""
    samples = scrape(registry_of(snapshot))
    buckets = series(samples, f"{names.METRIC_TTFT}_bucket", tier="interactive")
    assert [dict(labels)["le"] for _, labels in buckets] == ["0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "+Inf"]
    assert list(buckets.values()) == [200, 400, 1400, 1600, 1800, 2000, 2000]
    assert one(samples, f"{names.METRIC_TTFT}_count") == 2000
    assert one(samples, f"{names.METRIC_TTFT}_sum") == 650


def test_an_empty_ledger_still_says_who_it_is():
    """Before any engine reports, only the build is known."""
    assert scrape(registry_of(empty_snapshot)) == {
        (names.METRIC_BUILD, (("currency", "USD"), ("version", "0.1.0"))): 1.0
    }


def test_help_names_the_ledgers_currency():
    """Names say usd; where the ledger's currency differs, the help text says so."""
    body, _ = exposition(registry_of(lambda: replace(snapshot(), currency="EUR")), "")
    helps = dict(line.removeprefix("# HELP ").split(" ", 1) for line in body.decode().splitlines() if "# HELP" in line)
    assert helps[names.METRIC_BILL].endswith(" Unit: EUR.")
    assert helps[names.METRIC_UNIT_COST].endswith(" Unit: EUR per million tokens.")
    assert helps[names.METRIC_BUSY].endswith(" Unit: seconds.")


@pytest.mark.real
def test_promtool_finds_nothing_to_lint():
    """Prometheus' own linter is clean on the text exposition."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is not installed")
        pytest.skip("promtool is not installed")
    body, _ = exposition(registry_of(snapshot), "")
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_late_record_moves_dollars_without_any_counter_decreasing():
    """What leaves unattributed stays in its counter, and is counted once more as late."""
    labels = {"engine": "e", "account": "unattributed", "phase": "decode", "method": "modelled"}

    def pictured(charged, unattributed, late):
        accounts = {("charged", "decode", "modelled"): charged, ("unattributed", "decode", "modelled"): unattributed}
        view = replace(
            engine_view(),
            engine=replace(engine_view().engine, name="e"),
            accounts_nano=accounts,
            unattributed_nano={"lost_record": unattributed},
            late_nano=late,
        )
        return scrape(registry_of(lambda: replace(snapshot(), engines=(view,))))

    before = pictured(100 * NANO, 10 * NANO, {})
    after = pictured(107 * NANO, 3 * NANO, {("decode", "modelled"): 7 * NANO})
    assert one(before, names.METRIC_COST, **labels) == one(after, names.METRIC_COST, **labels) == 10
    lost = {"engine": "e", "reason": "lost_record"}
    assert one(before, names.METRIC_UNATTRIBUTED, **lost) == one(after, names.METRIC_UNATTRIBUTED, **lost) == 10
    assert one(after, names.METRIC_LATE, engine="e", phase="decode", method="modelled") == 7
