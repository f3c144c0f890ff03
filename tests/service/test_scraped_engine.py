"""An engine without the probe: costed from its counters, estimated, once, and never twice after a restart."""

import itertools
import time

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, content, journal_sums, raw_of, raw_records, total
from tests.service.running import served, wait_until

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.live import LiveReplay, ReplayOptions
from farthing.replay.recording import load_recording
from farthing.service.accountant import Accountant
from farthing.service.server import Service, price_book
from farthing.settings import Settings
from farthing_probe import wire

PRICE = 3_348_000_000


@pytest.fixture
def ledger(tmp_path):
    """A fresh ledger."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    yield ledger
    ledger.close()


def settings_for(url, **changes):
    engine = {"name": "llama", "url": url, "gpu": "H100-SXM", **changes}
    return Settings.model_validate({"engines": [engine], "costing": {"scrape_seconds": 0.2}})


def windows_of(ledger):
    w = t.windows.c
    return ledger.select(sa.select(w.boot, w.start_ns, w.end_ns, w.bill_nano).order_by(w.start_ns))


def test_a_scraped_engine_is_costed_as_estimated_and_survives_a_restart(ledger):
    """The recorded exposition, live: every nanosecond is billed once, whatever was restarted in between."""
    recording = load_recording("h100-llama8b-vllm0.26")
    replay = LiveReplay(recording, ReplayOptions("llama", "http://unused", None, speed=15.0, lead_seconds=30.0))
    with served(replay.app) as engine_url:
        settings = settings_for(engine_url)
        for number in range(1, 4):
            service = Service(settings, ledger)
            with served(service.app):
                wait_until(lambda n=number: len(windows_of(ledger)) >= 12 * n, 20, "scrapes in the books")
                (view,) = service.snapshot().engines
                assert view.gauges.scrape_up
                assert view.residual_nano == 0
            time.sleep(0.5)
    windows = windows_of(ledger)
    assert all(before.end_ns == after.start_ns for before, after in itertools.pairwise(windows))
    begin, end = windows[0].start_ns, windows[-1].end_ns
    tariff = price_book(settings).tariff("H100-SXM", 1)
    assert sum(window.bill_nano for window in windows) == tariff.bill(begin, end)
    assert total(ledger, t.boots.c.bill_nano) == tariff.bill(begin, end)
    assert sum(journal_sums(ledger, "debit").values()) == tariff.bill(begin, end)
    assert {method for (method,) in journal_sums(ledger, "method")} == {c.ESTIMATED}
    charged = {
        key[1:]: nano for key, nano in journal_sums(ledger, "debit", "tenant", "phase").items() if key[0] == "charged"
    }
    assert {tenant for tenant, _ in charged} == {c.UNKNOWN}
    assert charged[c.UNKNOWN, c.PREFILL] > 0
    assert charged[c.UNKNOWN, c.DECODE] > 0
    assert total(ledger, t.windows.c.engine_output) > 1_000
    # the last service may have stopped between a scrape and its costing
    accountant(ledger, settings).advance()
    again = accountant(ledger, settings)
    before = content(ledger)
    again.advance()
    assert content(ledger) == before
    assert {check.name for check in again.snapshot().engines[0].checks if not check.ok} == set()


def test_an_engine_whose_probe_reports_is_scraped_for_its_gauges_alone(ledger):
    """Whatever the settings say of a probe: one engine on the page, one bill, and no scrape in the inbox any more."""
    recording = load_recording("h100-llama8b-vllm0.26")
    replay = LiveReplay(recording, ReplayOptions("llama", "http://unused", None, speed=15.0, lead_seconds=30.0))
    now = time.time_ns()
    probe = raw_records(recording, engine="llama", wall_start_ns=now - 20 * SECOND)
    scraped = sa.select(sa.func.count()).where(t.records.c.boot.startswith(c.SCRAPED_BOOT))
    with served(replay.app) as engine_url:
        service = Service(settings_for(engine_url), ledger)
        with served(service.app):
            wait_until(lambda: len(windows_of(ledger)) >= 3, 60, "scrapes in the books")
            ledger.add(probe[:400])
            wait_until(lambda: service.snapshot().engines[0].engine.kind == "vllm", 60, "the engine")
            wait_until(lambda: "b" in {row.boot for row in windows_of(ledger)}, 60, "the probe's windows in the books")
            ((before,),) = ledger.select(scraped)
            failures = service.snapshot().engines[0].gauges.scrape_failures
            time.sleep(1.0)
            (view,) = service.snapshot().engines
            assert ledger.select(scraped) == [(before,)]
            assert view.gauges.scrape_up
            assert view.gauges.scrape_failures == failures
            assert view.residual_nano == 0
            assert {check.name for check in view.checks if not check.ok} == set()


@pytest.mark.parametrize(
    ("reported", "url"),
    [("gpu-1:8000", "http://gpu-1:8000"), ("box:8000", "http://localhost:8000"), ("h100", "http://x")],
)
def test_a_probe_that_calls_itself_by_its_address_means_the_configured_engine(ledger, reported, url):
    """Two names for one engine would be two bills for one GPU."""
    recording = load_recording("h100-llama8b-vllm0.26")
    begin = recording.start_ns // SECOND
    settings = Settings.model_validate({"engines": [{"name": "h100", "url": url, "gpu": "H100-SXM"}]})
    scrapes = raw_of([scraped_start(begin - 20), *(counters(n, begin - 20 + 2 * n, 100 * n) for n in range(1, 120))])
    ledger.add(scrapes[:10])
    ledger.add(raw_records(recording, engine=reported)[:1_000])
    ledger.add(scrapes[10:])
    keeper = Accountant(ledger, settings, price_book(settings), clock_ns=time.time_ns, hostname="box")
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert view.engine.name == "h100"
    assert view.residual_nano == 0
    assert set(keeper.unit_prices.of({"b"})) == {reported}
    # settings that change later rename nobody who is in the books
    renamed = Accountant(ledger, Settings(), price_book(settings), clock_ns=time.time_ns, hostname="elsewhere")
    renamed.advance()
    assert [view.engine.name for view in renamed.snapshot().engines] == ["h100"]


def test_time_that_the_scraper_billed_is_not_billed_again_when_the_probe_begins_before_it_spoke(ledger):
    """An engine loads its model for minutes, scraped and down, before its probe can say when that began."""
    recording = load_recording("h100-llama8b-vllm0.26")
    begin = recording.start_ns // SECOND
    settings = Settings()
    # scraped until 61 s after the moment from which the probe reports
    scrapes = raw_of([scraped_start(begin - 20), *(counters(n, begin - 19 + 2 * n, 100 * n) for n in range(1, 41))])
    probe = raw_records(recording)
    ledger.add(scrapes)
    ledger.add(probe[:1_500])
    for part in ([], [], probe[1_500:]):
        ledger.add(part)
        keeper = accountant(ledger)
        keeper.advance()
        (view,) = keeper.snapshot().engines
        assert view.residual_nano == 0
    tariff = price_book(settings).tariff("H100-SXM", 1)
    assert view.bill_nano == tariff.bill((begin - 20) * SECOND, recording.end_ns)
    bills = dict(ledger.select(sa.select(t.boots.c.boot, t.boots.c.bill_nano)))
    assert bills["scrape:h100/m/1"] == tariff.bill((begin - 20) * SECOND, (begin + 61) * SECOND)
    assert sum(journal_sums(ledger, "debit").values()) == view.bill_nano
    # what was billed already has no price in it
    assert keeper.unit_prices.of({"b"})["h100"][c.DECODE] > 0


def counters(seq, at_s, tokens, boot="scrape:h100/m/1"):
    values = {c.SIGNAL_COMPUTED: tokens, c.SIGNAL_GENERATION: tokens}
    return wire.counters(boot, 0, seq, at_ns=at_s * SECOND, values=values, gauges={c.SIGNAL_RUNNING: 1.0})


def scraped_start(at_s, boot="scrape:h100/m/1"):
    return wire.started(
        boot, 0, 0, at_ns=at_s * SECOND, wall_ns=at_s * SECOND, engine="h100", engine_kind="vllm", version="",
        model="m", gpu="H100-SXM", gpu_count=1,
    )  # fmt: skip


@pytest.mark.parametrize("scraped_first", [True, False])
def test_an_engine_whose_probe_reports_is_not_billed_for_its_scrapes_too(ledger, scraped_first):
    """Nor after a restart, when the probe's boot is long closed and only the scrapes are read again."""
    recording = load_recording("h100-llama8b-vllm0.26")
    begin = recording.start_ns // SECOND
    scrapes = raw_of([scraped_start(begin - 20), *(counters(n, begin - 20 + 2 * n, 100 * n) for n in range(1, 120))])
    probe = raw_records(recording)
    early = 10 if scraped_first else 0
    keeper = accountant(ledger)
    ledger.add(scrapes[:early])
    keeper.advance()
    costed_before = sum(journal_sums(ledger, "debit").values())
    assert (costed_before > 0) == scraped_first
    ledger.add(probe[:1_000])
    ledger.add(scrapes[early:60])
    keeper.advance()
    ledger.add(probe[1_000:])
    ledger.add(scrapes[60:90])
    keeper.advance()
    expected = content(ledger)
    for _ in range(2):
        restarted = accountant(ledger)
        restarted.advance()
        ledger.add(scrapes[90:])
        restarted.advance()
        assert content(ledger) == expected
    probed = journal_sums(ledger, "boot")["b",]
    assert sum(journal_sums(ledger, "debit").values()) == probed + costed_before
    (view,) = restarted.snapshot().engines
    assert view.residual_nano == 0
