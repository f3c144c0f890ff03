"""An engine that a fleet has and discovery finds, under two names: whoever reads it, it is billed once."""

import asyncio
import itertools
from functools import partial

import httpx
import pytest
import sqlalchemy as sa
from tests.collectors.fleet.stored import RECORDING, VLLM, recorded
from tests.service.books import accountant, content
from tests.service.test_fleet import BEGIN, World, settings_for

from farthing.collectors.engines.scrape import EngineScraper
from farthing.domain.clock import SECOND
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.known_engines import KnownEngines
from farthing.service.scraped_records import last_counters, next_sequence, raw_record
from farthing.settings import EngineSettings

LLAMA = EngineSettings.model_validate({"name": "llama-8b", "url": "http://gpu-1:8000", "gpu": "H100-SXM"})


@pytest.fixture
def ledger(tmp_path):
    """A fresh ledger."""
    opened = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.close()


def scraped_directly(ledger, world, polls):
    """What the scraper of a discovered engine puts into the inbox meanwhile, every four seconds."""
    bodies = {
        one.true_ns: scrape.body
        for one, scrape in zip(recorded(), (one for one in load_recording(RECORDING).scrapes if one.body), strict=True)
    }

    def answer(request):
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": "1"})
        return httpx.Response(200, text=bodies[max(at for at in bodies if at <= world.now_ns)])

    async def run():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            scraper = EngineScraper(
                LLAMA.name,
                str(LLAMA.url),
                VLLM,
                client,
                lambda: world.now_ns,
                gpu=LLAMA.gpu,
                resume=last_counters(ledger, LLAMA.name),
                next_sequence=partial(next_sequence, ledger),
            )
            for _ in range(polls):
                ledger.add([raw_record(record) for record in (await scraper.scrape()).records])
                world.now_ns += 4 * SECOND

    asyncio.run(run())


def test_an_engine_that_discovery_loses_for_a_while_is_billed_once_however_a_fleet_calls_it(ledger):
    """Docker that is away for minutes takes its engines along; the fleet has them meanwhile, by cluster and address."""
    settings = settings_for(cluster_label="cluster", gpus=[{"gpu": "H100-SXM"}])
    known = KnownEngines(settings, ledger, lambda: 1)
    known.observe([LLAMA])
    world = World(ledger, known.settings, engines=("gpu-1:8000",), labels={"gpu-1:8000": {"cluster": "eu"}}, scraped=[])
    scraped_directly(ledger, world, 10)
    world.poll(10)
    scraped_directly(ledger, world, 10)
    books = accountant(ledger, known.settings)
    books.advance()
    w = t.windows.c
    found = ledger.select(sa.select(w.start_ns, w.end_ns).order_by(w.start_ns))
    assert found[0].start_ns == BEGIN
    assert all(one.end_ns == two.start_ns for one, two in itertools.pairwise(found))
    assert [(view.engine.name, view.residual_nano) for view in books.snapshot().engines] == [("llama-8b", 0)]
    before = content(ledger)
    accountant(ledger, known.settings).advance()
    assert content(ledger) == before
