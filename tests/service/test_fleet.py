"""The service reads fleets beside what it scrapes: nothing twice, nothing lost when the ledger is away."""

import asyncio
import logging

import httpx
import pytest
from tests.collectors.fleet.stored import VLLM, Replica, recorded, stored
from tests.service.books import accountant, journal_sums, total

from farthing.collectors.fleet.api import PrometheusApi
from farthing.collectors.fleet.reader import FleetReader
from farthing.collectors.fleet.targets import Target
from farthing.domain.clock import SECOND
from farthing.domain.errors import LedgerError
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service.fleet import FleetReading
from farthing.settings import EngineSettings, Settings

BEGIN = recorded()[0].true_ns


@pytest.fixture
def ledger(tmp_path):
    """A fresh ledger."""
    opened = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.close()


def settings_for(**entry):
    fleet = {"name": "f", "url": "http://prometheus:9090", "interval_seconds": 4, **entry}
    return Settings.model_validate({"fleet": [fleet]})


class World:
    """A fleet reading whose API answers from a recording, and whose engines may be read by others."""

    def __init__(self, ledger, settings, engines=("e",), scraped=(), labels=None):
        self.now_ns = BEGIN
        self.away = False
        self.probes: set[str] = set()
        self.engines = engines
        self.labels = labels or {}
        self.settings = settings
        self.woken = 0
        self.ledger = ledger
        self.scraped = tuple(EngineSettings.model_validate(entry) for entry in scraped)
        self.make()

    def make(self):
        """A service that starts now."""
        self.reading = FleetReading(
            self.settings,
            self.ledger,
            self._wake,
            probed=lambda engine: engine in self.probes,
            scraped=lambda: self.scraped,
            hostname="host",
        )
        entry = self.settings.fleet[0]
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.reader = FleetReader(
            entry,
            PrometheusApi(str(entry.url), self.client),
            VLLM,
            clock_ns=lambda: self.now_ns - BEGIN,
            resume=self.reading._last,
            claim=lambda target: self.reading._is_for(entry.name, target),
            name_of=self.reading.name_of,
        )

    def _wake(self):
        self.woken += 1

    def _answer(self, request):
        if self.away:
            return httpx.Response(403)
        series = []
        for engine in self.engines:
            series += stored([Replica()], self.now_ns, instance=engine, labels=self.labels.get(engine))
        if request.content.startswith(b"query=count"):
            return httpx.Response(200, json={"status": "success", "data": {"resultType": "vector", "result": []}})
        result = [
            {"metric": dict(one.labels), "values": [[at / SECOND, repr(value)] for at, value in one.points.items()]}
            for one in series
        ]
        return httpx.Response(200, json={"status": "success", "data": {"resultType": "matrix", "result": result}})

    def poll(self, times=1):
        """Poll some times, four seconds apart."""

        async def run():
            for _ in range(times):
                await self.reading._poll("f", self.reader)
                self.now_ns += 4 * SECOND

        asyncio.run(run())

    def names(self):
        """The engines that are shown."""
        return set(self.reading.gauges())


def test_what_a_fleet_tells_is_costed_like_what_is_scraped(ledger):
    """By the settings' GPU, to the same bill from the first scrape to the last; a restart goes on."""
    world = World(ledger, settings_for(gpus=[{"gpu": "H100-SXM"}]))
    world.poll(20)
    world.make()
    world.poll(20)
    books = accountant(ledger, world.settings)
    books.advance()
    (view,) = books.snapshot().engines
    assert view.engine.name == "e"
    assert view.residual_nano == 0
    assert [check for check in view.checks if not check.ok] == []
    seconds = (recorded()[77].true_ns - BEGIN) / SECOND
    assert total(ledger, t.boots.c.bill_nano) == pytest.approx(seconds * 930_000, rel=0.03)
    assert sum(journal_sums(ledger, "debit").values()) == total(ledger, t.boots.c.bill_nano)
    assert world.woken >= 30


def test_an_engine_of_an_unknown_gpu_is_unpriced_until_the_settings_tell_it(ledger):
    """Also when its boot is in the inbox already: its cost is then computed from its start."""
    world = World(ledger, settings_for())
    world.poll(20)
    books = accountant(ledger, world.settings)
    books.advance()
    assert total(ledger, t.boots.c.bill_nano) in {None, 0}
    assert [check.name for view in books.snapshot().engines for check in view.checks if not check.ok]
    books = accountant(ledger, settings_for(gpus=[{"engine": "e", "gpu": "H100-SXM", "gpu_count": 2}]))
    books.advance()
    (boot,) = ledger.boots()
    assert (boot.gpu, boot.gpu_count) == ("H100-SXM", 2)
    assert boot.bill_nano > 30 * 2 * 930_000


def test_engines_that_are_scraped_or_probed_are_not_read(ledger):
    """By name, by address, and by what a probe without a name calls itself."""
    scraped = [{"name": "a", "url": "http://x:1"}, {"name": "other", "url": "http://vllm-7:8000"}]
    world = World(ledger, settings_for(), engines=("a", "vllm-7:8000", "b", "e"), scraped=scraped)
    world.probes = {"b"}
    world.poll(5)
    assert world.names() == {"e"}
    world.probes.add("e")
    world.poll()
    assert world.names() == set()


def test_a_name_that_two_clusters_have_says_nothing_by_itself(ledger):
    """The probe of one would silence the other's books; the full name does not."""
    world = World(ledger, settings_for(cluster_label="cluster"), engines=("x", "y"))
    target, other = Target("eu", "vllm-0"), Target("us", "vllm-0")
    world.probes = {"vllm-0"}
    assert not world.reading._is_for("f", target)
    assert world.reading._is_for("f", other)
    assert world.reading._is_for("f", target)
    world.probes.add("eu:vllm-0")
    assert not world.reading._is_for("f", target)


def test_an_engine_that_two_apis_have_is_read_from_one(ledger, caplog):
    """From the one that had it first; said once."""
    world = World(ledger, settings_for())
    assert world.reading._is_for("one", Target("", "e"))
    with caplog.at_level(logging.INFO):
        assert not any(world.reading._is_for("two", Target("", "e")) for _ in range(3))
    assert [record.message for record in caplog.records] == [
        "fleet two: engine e is read by fleet one; it is not read twice"
    ]


def test_while_the_ledger_is_away_nothing_is_read_and_nothing_lost(ledger, monkeypatch, caplog):
    """The records of the poll that found out are kept; counters go on by themselves."""
    world = World(ledger, settings_for(gpus=[{"gpu": "H100-SXM"}]))
    world.poll(5)
    add = Ledger.add

    def fails(*_):
        raise LedgerError("the disk is full")

    monkeypatch.setattr(Ledger, "add", fails)
    world.poll(3)
    monkeypatch.setattr(Ledger, "add", add)
    world.poll(5)
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "fleet f: the disk is full"
    ]
    books = accountant(ledger, world.settings)
    books.advance()
    (view,) = books.snapshot().engines
    assert [check for check in view.checks if not check.ok] == []
    assert view.residual_nano == 0


def test_an_api_that_cannot_be_asked_shows_its_engines_as_not_scraped(ledger, caplog):
    """Their state is not known any more; the log names the URL and the fix once, and says when it is over."""
    world = World(ledger, settings_for())
    world.poll(5)
    assert world.reading.gauges()["e"].scrape_up is True
    world.away = True
    with caplog.at_level(logging.INFO):
        world.poll(3)
        shown = world.reading.gauges()["e"]
        assert (shown.scrape_up, shown.running, shown.scrape_failures) == (False, None, 3)
        world.away = False
        world.poll(2)
    assert world.reading.gauges()["e"].scrape_up is True
    said = [record.message for record in caplog.records if "fleet f" in record.message]
    assert len(said) == 2
    assert "http://prometheus:9090/api/v1/query answered HTTP 403" in said[0]
    assert "check token_file" in said[0]
    assert said[1] == "fleet f answers again"


def test_an_engine_that_is_gone_is_not_shown_any_more(ledger):
    """Neither up nor down: a pod that was scaled away is no alarm."""
    world = World(ledger, settings_for(), engines=("e", "f"))
    world.poll(3)
    world.engines = ("e",)
    world.poll(25)
    assert world.names() == {"e"}


def test_a_mistake_of_ours_about_an_answer_shows_its_engines_as_not_scraped(ledger, monkeypatch, caplog):
    """As they were when they were read last they would look well for ever, and nobody be told."""
    world = World(ledger, settings_for())
    world.poll(5)

    async def fails():
        raise RuntimeError("a mistake")

    monkeypatch.setattr(world.reader, "poll", fails)
    world.poll()
    assert world.reading.gauges()["e"].scrape_up is False
    assert "fleet f cannot be read" in caplog.text
