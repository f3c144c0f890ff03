"""Engines that are discovered while ``farthing serve`` runs: scraped, costed, gone, back, and paid for as ever."""

import asyncio
import itertools
import json
import time
from decimal import Decimal
from functools import partial

import pytest
import sqlalchemy as sa
from tests.service.books import content, raw_records
from tests.service.running import served, wait_until
from tests.service.test_scraped_engine import counters, scraped_start

from farthing.collectors.engines.boots import BootRecords
from farthing.collectors.engines.catalogue import Reading, load_catalogue
from farthing.collectors.wire import decode_raw
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.errors import LedgerError
from farthing.ledger import tables as t
from farthing.ledger.discovered import discovered_engines
from farthing.ledger.repository import Ledger
from farthing.replay.live import LiveReplay, ReplayOptions
from farthing.replay.recording import load_recording
from farthing.service.accountant import Accountant
from farthing.service.discovery import DiscoveredEngines
from farthing.service.known_engines import KnownEngines, with_discovered
from farthing.service.pricing import price_book
from farthing.service.scraped_records import last_counters, next_sequence, raw_record
from farthing.service.scraping import Scraping
from farthing.service.server import Service
from farthing.settings import EngineSettings, Settings


@pytest.fixture
def ledger(tmp_path):
    """A fresh ledger."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def recording():
    """An H100 under load for minutes."""
    return load_recording("h100-llama8b-vllm0.26")


@pytest.fixture
def engine_address(recording):
    """Where a replayed engine answers, as HOST:PORT; its recording begins with the test, and it has an end."""
    replay = LiveReplay(recording, ReplayOptions("llama", "http://unused", None, speed=2.0, lead_seconds=30.0))
    with served(replay.app) as url:
        yield url.removeprefix("http://")


def settings_of(folder, **more):
    return Settings.model_validate(
        {
            "discovery": {"files": [f"{folder}/engines.d/*.yaml"], "refresh_seconds": 1},
            "costing": {"scrape_seconds": 0.2},
            "prices": [
                {"gpu": "H100-SXM", "usd_per_hour": 4, "from": "2026-01-01"},
                {"gpu": "H100-SXM", "usd_per_hour": 2, "from": "2026-01-01", "name": "reserved"},
            ],
            **more,
        }
    )


def say(folder, *engines):
    """Write the file of targets: (name, address, farthing's labels)."""
    (folder / "engines.d").mkdir(exist_ok=True)
    groups = [
        {"targets": [address], "labels": {"instance": name, **{f"farthing_{key}": str(of) for key, of in own.items()}}}
        for name, address, own in engines
    ]
    (folder / "engines.d/engines.yaml").write_text(json.dumps(groups))


def windows(ledger, engine):
    w, b = t.windows.c, t.boots.c
    query = sa.select(w.start_ns, w.end_ns, w.bill_nano).join(t.boots, b.boot == w.boot).where(b.engine == engine)
    return ledger.select(query.order_by(w.start_ns))


def test_an_engine_appears_goes_and_comes_back_without_a_restart(ledger, tmp_path, engine_address):
    """Its cost is kept while it is gone, nothing of it is scraped then, and it goes on where it was."""
    paid = {"gpu": "H100-SXM", "gpu_count": 2, "price": "reserved"}
    say(tmp_path)
    service = Service(settings_of(tmp_path), ledger)
    with served(service.app):
        assert service.snapshot().engines == ()
        say(tmp_path, ("llama", engine_address, paid))
        wait_until(lambda: len(windows(ledger, "llama")) >= 5, 60, "its scrapes in the books")
        (view,) = service.snapshot().engines
        assert (view.engine.name, view.gauges.scrape_up, view.residual_nano) == ("llama", True, 0)
        say(tmp_path)
        wait_until(lambda: not service.snapshot().engines[0].gauges.scrape_up, 30, "the end of its scraping")
        before = len(windows(ledger, "llama"))
        time.sleep(0.6)
        assert len(windows(ledger, "llama")) - before <= 1
        say(tmp_path, ("llama", engine_address, paid))
        wait_until(lambda: len(windows(ledger, "llama")) >= before + 5, 60, "more scrapes in the books")
        (view,) = service.snapshot().engines
        assert view.residual_nano == 0
    found = windows(ledger, "llama")
    assert all(one.end_ns == two.start_ns for one, two in itertools.pairwise(found))
    hours = (found[-1].end_ns - found[0].start_ns) / 3_600 / SECOND
    assert sum(one.bill_nano for one in found) == pytest.approx(2 * 2 * hours * 1e9, abs=2)


def test_costs_do_not_change_when_the_file_is_gone_after_a_restart(ledger, tmp_path, engine_address):
    """What an engine is paid by is in the ledger, for the service and for commands."""
    say(tmp_path, ("llama", engine_address, {"gpu": "H100-SXM", "gpu_fraction": "0.5", "price": "reserved"}))
    settings = settings_of(tmp_path)
    service = Service(settings, ledger)
    with served(service.app):
        wait_until(lambda: len(windows(ledger, "llama")) >= 5, 60, "its scrapes in the books")
    (tmp_path / "engines.d/engines.yaml").unlink()
    known = with_discovered(settings, ledger)
    assert [(one.name, one.price) for one in known.engines] == [("llama", "reserved")]
    again = Accountant(ledger, known, price_book(known), clock_ns=time.time_ns)
    again.advance()
    before = content(ledger)
    tariff = price_book(known).tariff("H100-SXM", 1, Decimal("0.5"), engine="llama")
    assert ledger.select(sa.select(t.boots.c.price_version).distinct()) == [(tariff.version,)]
    service = Service(settings, ledger)
    with served(service.app):
        wait_until(lambda: service.snapshot().taken_ns > 0 and service._ready, 60, "the books")
        time.sleep(0.5)
        (view,) = service.snapshot().engines
        assert (view.residual_nano, view.gauges.scrape_up) == (0, None)
    assert content(ledger) == before


def scrapes(first, last):
    start = [scraped_start(1_795_000_000)] if first == 0 else []
    lines = [*start, *(counters(n, 1_795_000_000 + 2 * n, 100 * n) for n in range(max(1, first), last))]
    return [decode_raw(json.dumps(line).encode()) for line in lines]


def engine(**more):
    return EngineSettings.model_validate({"name": "h100", "url": "http://gpu-1:8000", **more})


def keeper(ledger, settings):
    return Accountant(ledger, settings, price_book(settings), clock_ns=lambda: 1_795_500_000 * SECOND)


def test_a_price_that_changes_while_an_engine_runs_applies_to_what_is_not_booked(ledger, tmp_path):
    """And a restart at any time afterwards finds the same books."""
    settings = settings_of(tmp_path)
    known = KnownEngines(settings, ledger, lambda: 1)
    known.observe([engine(gpu="H100-SXM")])
    books = keeper(ledger, known.settings)
    ledger.add(scrapes(0, 11))
    books.advance()
    known.observe([engine(gpu="H100-SXM", price="reserved")])
    books.know(known.settings, price_book(known.settings))
    ledger.add(scrapes(11, 21))
    books.advance()
    found = windows(ledger, "h100")
    nano = [4 * 2 * 10**9 / 3_600] * 10 + [2 * 2 * 10**9 / 3_600] * 10
    assert [one.bill_nano for one in found] == pytest.approx(nano, abs=1)
    (view,) = books.snapshot().engines
    assert view.residual_nano == 0
    before = content(ledger)
    again = keeper(ledger, with_discovered(settings, ledger))
    again.advance()
    assert content(ledger) == before


def test_an_engine_without_a_price_is_costed_as_soon_as_one_is_discovered(ledger, tmp_path):
    """From its first record on: none of them is lost meanwhile."""
    settings = settings_of(tmp_path)
    known = KnownEngines(settings, ledger, lambda: 1)
    books = keeper(ledger, known.settings)
    start = json.loads(bytes(scrapes(0, 1)[0].line)) | {"gpu": "FPGA-9"}
    ledger.add([decode_raw(json.dumps(start).encode()), *scrapes(1, 6)])
    books.advance()
    assert windows(ledger, "h100") == []
    assert [check.name for view in books.snapshot().engines for check in view.checks if not check.ok] == [
        c.CHECK_PRICED
    ]
    known.observe([engine(gpu="H100-SXM")])
    books.know(known.settings, price_book(known.settings))
    books.advance()
    (view,) = books.snapshot().engines
    assert [check.name for check in view.checks if not check.ok] == []
    assert view.bill_nano == pytest.approx(4 * 10 * 10**9 / 3_600, abs=1)


def test_gpus_of_a_capacity_stay_an_engines_own_and_more_than_there_are_is_refused(ledger, tmp_path, caplog):
    """It is said once, the other engines go on, and a commitment is never billed twice."""
    node = {"name": "node", "gpu": "H100-SXM", "gpus": 2, "from": "2026-01-01", "usd_per_hour": 8}
    settings = settings_of(tmp_path, capacity=[node])
    known = KnownEngines(settings, ledger, lambda: 1)
    one, two = (engine(name=name, url=f"http://{name}:1", capacity="node") for name in ("one", "two"))
    known.observe([one, two])
    for _ in range(3):
        known.observe([two, engine(name="three", url="http://three:1", capacity="node"), engine(capacity="nodes")])
    assert [entry.name for entry in known.settings.engines] == ["one", "two"]
    assert [entry.name for entry in known.present] == ["two"]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "engine three is not taken as it was discovered",
        "engine h100 is not taken as it was discovered",
    ]
    # one that is known keeps its GPUs and may still move
    known.observe([engine(name="two", url="http://moved:1", capacity="node", gpu_count=5)])
    assert [(entry.url.host, entry.gpu_count) for entry in known.present] == [("moved", 1)]
    # a capacity that is sold takes nobody's books along
    assert KnownEngines(settings_of(tmp_path), ledger, lambda: 1).settings.engines == ()


def test_the_ledger_keeps_what_was_discovered_last_in_the_order_of_discovery(ledger, tmp_path):
    """And farthing.yaml's own engine of a name wins, whatever was discovered of it before."""
    moments = iter(range(1, 9))
    known = KnownEngines(settings_of(tmp_path), ledger, lambda: next(moments))
    known.observe([engine(name="b", gpu="L4")])
    known.observe([engine(name="a"), engine(name="b", gpu="L40S", gpu_uuids=["GPU-1-x"], pod="llm/b-*")])
    assert list(discovered_engines(ledger)) == ["b", "a"]
    own = engine(name="b", url="http://own:1")
    again = KnownEngines(settings_of(tmp_path, engines=[own.model_dump()]), ledger, lambda: 1)
    assert [(entry.name, entry.url.host) for entry in again.settings.engines] == [("b", "own"), ("a", "gpu-1")]
    assert [entry.name for entry in again.present] == ["b"]
    read = KnownEngines(settings_of(tmp_path), ledger, lambda: 1).settings.engines
    assert read == (engine(name="b", gpu="L40S", gpu_uuids=["GPU-1-x"], pod="llm/b-*"), engine(name="a"))


class FullDisk:
    """Stands before a ledger's ``add`` and refuses for a while."""

    def __init__(self, add):
        self._add = add
        self.full = False
        self.refused = 0

    def add(self, records):
        if self.full:
            self.refused += 1
            raise LedgerError("no space left on device; free some")
        return self._add(records)


def test_scrapes_wait_for_a_ledger_that_cannot_be_written_and_none_is_lost(
    ledger, tmp_path, engine_address, caplog, monkeypatch
):
    """The other engines go on, it is said once, and the counters of that time are there afterwards."""
    entry = engine(url=f"http://{engine_address}")
    away = engine(name="away", url="http://127.0.0.1:1")
    engines = (entry, away)
    disk = FullDisk(ledger.add)
    monkeypatch.setattr(ledger, "add", disk.add)
    scraping = Scraping(settings_of(tmp_path, engines=[]), ledger, lambda: None, lambda _: False, lambda: engines)

    async def run():
        task = asyncio.create_task(scraping.run())
        await _until(lambda: _sequences(ledger)[-1:] >= [3])
        disk.full = True
        await _until(lambda: disk.refused >= 4)
        disk.full = False
        before = len(_sequences(ledger))
        await _until(lambda: len(_sequences(ledger)) >= before + 6)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    sequences = _sequences(ledger)
    assert sequences == list(range(len(sequences)))
    told = [record.message for record in caplog.records if "wait for the ledger" in record.message]
    assert told == ["engine h100: its counters wait for the ledger: no space left on device; free some"]


def _sequences(ledger):
    return sorted(row.sequence for row in ledger.select(sa.select(t.records.c.sequence)))


async def _until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


def test_an_engine_whose_probe_calls_itself_by_its_address_is_not_scraped_into_a_second_bill(ledger, tmp_path):
    """It spoke before it was discovered, and is booked by its address until its next boot."""
    discovered = DiscoveredEngines(settings_of(tmp_path), ledger, lambda: None)
    say(tmp_path, ("llama", "gpu-1:8000", {}), ("other", "gpu-2:8000", {}))

    async def look():
        task = asyncio.create_task(discovered.run())
        await discovered.first_round()
        task.cancel()

    asyncio.run(look())
    known = discovered.take()
    assert known is not None
    assert discovered.take() is known
    discovered.taken(known)
    assert discovered.take() is None
    assert [one.name for one in discovered.present()] == ["llama", "other"]
    assert discovered.is_called("llama", {"gpu-1:8000"})
    assert not discovered.is_called("other", {"gpu-1:8000"})
    assert not discovered.is_called("llama", set())


def test_a_mistake_of_ours_about_one_engine_does_not_end_the_scraping_of_others(
    ledger, tmp_path, engine_address, caplog
):
    """It is in the log with its traceback."""
    broken, entry = engine(name="broken"), engine(url=f"http://{engine_address}")
    engines = (broken, entry)

    def probed(name):
        if name == "broken":
            raise RuntimeError("a mistake")
        return False

    scraping = Scraping(settings_of(tmp_path), ledger, lambda: None, probed, lambda: engines)

    async def run():
        task = asyncio.create_task(scraping.run())
        await _until(lambda: len(_sequences(ledger)) >= 3 and "broken cannot be scraped" in caplog.text)
        before = len(_sequences(ledger))
        await _until(lambda: len(_sequences(ledger)) >= before + 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_an_engine_with_a_probe_is_read_again_at_its_new_price_and_what_is_booked_stays(ledger, tmp_path, recording):
    """Its windows, requests and latencies are there once, before and after a restart."""
    settings = settings_of(tmp_path, costing={"grace_seconds": 5})
    lines = raw_records(recording, engine="h100")
    half, end = 3 * len(lines) // 8, 6 * len(lines) // 8
    known = KnownEngines(settings, ledger, lambda: 1)
    books = keeper(ledger, known.settings)
    ledger.add(lines[:half])
    books.advance()
    booked = windows(ledger, "h100")
    counted = books.snapshot().requests
    assert booked
    assert counted
    known.observe([engine(gpu="H100-SXM", price="reserved")])
    books.know(known.settings, price_book(known.settings))
    books.advance()
    assert windows(ledger, "h100")[: len(booked)] == booked
    assert books.snapshot().requests == counted
    ledger.add(lines[half:end])
    books.advance()
    (view,) = books.snapshot().engines
    assert view.residual_nano == 0
    assert [check.name for check in view.checks if not check.ok] == []
    found = windows(ledger, "h100")
    assert len(found) > len(booked) + 5
    nano = [(4 if one in booked else 2) * (one.end_ns - one.start_ns) / 3_600 for one in found]
    assert [one.bill_nano for one in found] == pytest.approx(nano, abs=1)
    before = content(ledger)
    again = keeper(ledger, with_discovered(settings, ledger))
    again.advance()
    assert content(ledger) == before


def test_a_name_that_comes_back_to_a_process_loses_none_of_its_records(ledger, tmp_path):
    """An entry that is moved to another engine and back, both running on: each of the three stays is in the books."""
    catalogue, now, counted = load_catalogue(), 1_795_000_000 * SECOND, {1: 0, 2: 0}
    for process, polls in ((1, 6), (2, 4), (1, 5)):
        made = BootRecords(
            "h100",
            catalogue,
            gpu="H100-SXM",
            resume=last_counters(ledger, "h100"),
            next_sequence=partial(next_sequence, ledger),
        )
        for _ in range(polls):
            counted[process] += 100
            values = {c.SIGNAL_COMPUTED: counted[process], c.SIGNAL_GENERATION: counted[process]}
            reading = Reading(values, {c.SIGNAL_RUNNING: 1.0}, "m", process * SECOND, {}, ())
            outcome = made.taken(made.boot_of(reading, now, "here"), reading, now)
            ledger.add([raw_record(record) for record in outcome.records])
            now += 2 * SECOND
    books = keeper(ledger, settings_of(tmp_path))
    books.advance()
    found = windows(ledger, "h100")
    assert all(one.end_ns == two.start_ns for one, two in itertools.pairwise(found))
    assert (found[0].start_ns, found[-1].end_ns) == (1_795_000_000 * SECOND, now - 2 * SECOND)
    w = t.windows.c
    told = ledger.select(sa.select(w.end_ns).where(w.busy_ns > 0).order_by(w.end_ns))
    # of each stay all intervals but the one before its first scrape
    assert len(told) == 5 + 3 + 4
    before = content(ledger)
    keeper(ledger, settings_of(tmp_path)).advance()
    assert content(ledger) == before
