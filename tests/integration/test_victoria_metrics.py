"""VictoriaMetrics takes what a real Prometheus writes to it: the same values, and the same books from both."""

import asyncio
import itertools
import math
import time

import httpx
import pytest
import sqlalchemy as sa
from tests.alerts.live_prometheus import Prometheus
from tests.alerts.real_parts import wait_for
from tests.integration.remote_written import CLUSTER, ENGINE, GPU, REPLICA, remote_written
from tests.service.books import accountant, journal_sums, total

from farthing.collectors.engines.catalogue import load_catalogue
from farthing.collectors.fleet.api import PrometheusApi
from farthing.collectors.fleet.reader import FleetReader
from farthing.domain import conventions as c
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service.scraped_records import raw_record
from farthing.settings import Settings

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

OURS = '{__name__=~"(llm|gpu):.+|farthing_.+"}'
LASTS_SECONDS = 48
RATE_SECONDS = 30
EVALUATIONS = 12
WITHIN = 0.05
DIGITS = 2e-12
"""VictoriaMetrics keeps decimal numbers: of a value with 15 digits or more the last ones differ."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everything has run for a while; the moment up to which both have everything comes with it."""
    with remote_written(tmp_path_factory.mktemp("remote-written")) as running:
        time.sleep(max(0.0, running.began + LASTS_SECONDS - time.time()))
        at = math.floor(time.time())
        wait_for(lambda: running.complete_until(at), 60, "every scrape and rule of that time to be stored")

        def arrived():
            return stored_samples(running, at).keys() == exported_samples(running, at).keys()

        # a queue carries them over, later where the machine is busy
        wait_for(arrived, 60, "remote writing to catch up")
        yield running, at


def by_series(metric):
    """What tells a series apart in the Prometheus itself, which does not show its external labels."""
    return frozenset((name, value) for name, value in metric.items() if name not in {"cluster", "replica"})


def stored_samples(running, at):
    """Values by series and time in milliseconds, as the Prometheus has them."""
    found = {
        (by_series(series["metric"]), round(moment * 1000)): float(text)
        for series in running.stored(OURS, at, LASTS_SECONDS)
        for moment, text in series["values"]
    }
    return {key: value for key, value in found.items() if key[1] > (at - LASTS_SECONDS) * 1000}


def exported_samples(running, at):
    """The same, as VictoriaMetrics has them."""
    return {
        (by_series(series["metric"]), moment): value
        for series in running.exported(OURS, at - LASTS_SECONDS, at)
        for moment, value in zip(series["timestamps"], series["values"], strict=True)
        # without a value: a marker of staleness, which Prometheus does not show
        if value is not None and moment > (at - LASTS_SECONDS) * 1000
    }


def test_every_value_of_every_series_is_the_same_in_both(world):
    """Of what rules recorded and Farthing exposes, sample by sample, at the times at which they were taken."""
    running, at = world
    exported = running.exported(OURS, at - LASTS_SECONDS, at)
    assert {(one["metric"]["cluster"], one["metric"]["replica"]) for one in exported} == {(CLUSTER, REPLICA)}
    stored, written = stored_samples(running, at), exported_samples(running, at)
    # not asserted by ==, as pytest would compare ten thousand of them for minutes
    assert sorted(map(repr, stored.keys() ^ written.keys()))[:5] == []
    differing = {
        key: (value, written[key])
        for key, value in stored.items()
        if not math.isclose(value, written[key], rel_tol=DIGITS)
    }
    assert differing == {}
    names = {dict(series)["__name__"] for series, _ in stored}
    assert len(stored) > 10_000
    for kind, least in (("llm:", 50), ("gpu:", 12), ("farthing_", 60)):
        assert len([name for name in names if name.startswith(kind)]) >= least


def test_a_query_at_one_moment_gives_the_same_in_both(world):
    """Every series that is there now, with neither more nor fewer of them."""
    running, at = world
    victoria = Prometheus(running.victoria_metrics)
    moment = {"time": str(at - 5)}
    one = running.prometheus.get("query", query=OURS, **moment)["result"]
    other = victoria.get("query", query=OURS, nocache="1", **moment)["result"]
    values, others = ({by_series(s["metric"]): float(s["value"][1]) for s in found} for found in (one, other))
    assert values.keys() == others.keys()
    assert [key for key, value in values.items() if not math.isclose(value, others[key], rel_tol=DIGITS)] == []


def test_rates_of_the_engines_own_counters_agree(world):
    """Prometheus extrapolates to its window's ends, VictoriaMetrics begins with the sample before the window: over 30
    scrapes, and on average of a dozen evaluations, that is less than 5 % of any counter that moves.
    """
    running, at = world
    victoria = Prometheus(running.victoria_metrics)
    names = {series["metric"]["__name__"] for series in running.stored('{__name__=~"vllm:.+"}', at, 5)}
    counters = sorted(name for name in names if name.endswith(("_total", "_sum", "_count")))
    span = {"start": str(at - EVALUATIONS), "end": str(at), "step": "1"}
    moved = {}
    for name in counters:
        query = f"sum by (instance) (rate({name}[{RATE_SECONDS}s]))"
        means = []
        for server, fresh in ((running.prometheus, {}), (victoria, {"nocache": "1"})):
            (series,) = server.get("query_range", query=query, **span, **fresh)["result"]
            assert len(series["values"]) == EVALUATIONS + 1
            means.append(sum(float(value) for _, value in series["values"]) / len(series["values"]))
        if any(means):
            moved[name] = abs(means[0] - means[1]) / max(means)
    assert {name: off for name, off in moved.items() if off > WITHIN} == {}
    assert len(moved) > 20


def outcomes_from(url, **settings):
    """All that is stored of the engine, as one poll of a fleet reader gives it."""
    entry = Settings.model_validate({"fleet": [{"name": "f", "url": url, "lookback_seconds": 300, **settings}]}).fleet[
        0
    ]

    async def poll():
        async with httpx.AsyncClient(trust_env=False) as client:
            reader = FleetReader(
                entry,
                PrometheusApi(url, client),
                load_catalogue(),
                clock_ns=time.monotonic_ns,
                resume=lambda _: None,
                claim=lambda _: True,
            )
            return await reader.poll()

    return asyncio.run(poll())


def books_of(folder, outcomes, until_ns):
    """What the books hold of the scrapes up to a moment."""
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    try:
        ledger.add([raw_record(one) for outcome in outcomes for one in outcome.records if outcome.at_ns <= until_ns])
        settings = Settings.model_validate({"fleet": [{"name": "f", "url": "http://x", "gpus": [{"gpu": GPU}]}]})
        accountant(ledger, settings).advance()
        w = t.windows.c
        windows = ledger.select(sa.select(w.start_ns, w.end_ns, w.bill_nano).order_by(w.start_ns))
        output = total(ledger, w.engine_output)
        return windows, journal_sums(ledger, "debit", "tenant", "phase", "method"), output
    finally:
        ledger.close()


def test_the_books_are_the_same_from_either(world, tmp_path):
    """Every scrape, at its own time, with the same counters: to the nano-dollar."""
    running, _ = world
    one = outcomes_from(running.prometheus.url)
    other = outcomes_from(running.victoria_metrics, replica_label="replica")
    until_ns = min(one[-1].at_ns, other[-1].at_ns)
    assert not any(outcome.error for outcome in (*one, *other))
    books = []
    for number, outcomes in enumerate((one, other)):
        (tmp_path / str(number)).mkdir()
        books.append(books_of(tmp_path / str(number), outcomes, until_ns))
    assert books[0] == books[1]
    windows, sums, output = books[0]
    assert len(windows) > 40
    assert all(before.end_ns == after.start_ns for before, after in itertools.pairwise(windows))
    assert sum(sums.values()) == sum(window.bill_nano for window in windows) > 0
    assert output > 1_000


def test_a_service_that_asks_the_prometheus_has_its_engine_in_the_books(world):
    """Estimated, balanced, with a price by settings; and a kill in between bills nothing twice."""
    running, _ = world
    (before,) = running.fleet.get("/api/v1/snapshot").json()["engines"]
    running.fleet.kill()
    running.fleet.start()
    running.fleet.wait_ready()

    def goes_on():
        (engine,) = running.fleet.get("/api/v1/snapshot").json()["engines"]
        return engine["bill_nano"] > before["bill_nano"]

    wait_for(goes_on, 20, "the books to go on")
    (engine,) = running.fleet.get("/api/v1/snapshot").json()["engines"]
    assert (engine["name"], engine["gpu"], engine["residual_nano"]) == (ENGINE, GPU, 0)
    assert [check["name"] for check in engine["checks"] if not check["ok"]] == []
    methods = {method for line in engine["lines"] for method in line["methods_nano"]}
    assert methods == {c.ESTIMATED}
    assert running.fleet.stop() == 0
    ledger = Ledger.open(f"sqlite:///{running.fleet.log.parent}/ledger.db")
    try:
        w = t.windows.c
        windows = ledger.select(sa.select(w.start_ns, w.end_ns, w.bill_nano).order_by(w.start_ns))
        assert len({row.boot for row in ledger.select(sa.select(t.boots.c.boot))}) == 1
    finally:
        ledger.close()
    assert all(one.end_ns == after.start_ns for one, after in itertools.pairwise(windows))
    assert sum(window.bill_nano for window in windows) >= engine["bill_nano"]
