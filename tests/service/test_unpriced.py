"""What the ledger remembers of engines beside their books: who has no price, and whose probe has reported."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from tests.service.books import ENGINE, accountant, raw_of, raw_records

from farthing.domain import conventions as c
from farthing.exporters.report import render
from farthing.ledger import tables as t
from farthing.ledger.engine_notes import note_probed, probed_since, unpriced_engines
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.replay.wire_records import wire_records
from farthing.service.reports import GROUPS, report
from farthing.settings import Settings

RECORDING = "h100-llama8b-vllm0.26"
GPU = "NVIDIA GeForce RTX 4090"
SINCE = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(ledger_url):
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def unknown_gpu():
    """A recorded engine on a GPU that no price knows."""
    records = [item.record for item in wire_records(load_recording(RECORDING), boot="b", engine=ENGINE)]
    return raw_of([{**record, "gpu": GPU} if record["kind"] == "started" else record for record in records[:400]])


def priced():
    return Settings.model_validate({"prices": [{"gpu": GPU, "usd_per_hour": "0.69", "from": "2026-01-01"}]})


def test_an_engine_on_an_unknown_gpu_is_unpriced_in_reports_of_its_ledger_alone(ledger, unknown_gpu):
    """Nothing of it is booked; the name, the model and the reason are there for whoever asks the ledger."""
    ledger.add(unknown_gpu)
    accountant(ledger).advance()
    (noted,) = unpriced_engines(ledger)
    assert (noted.engine, noted.gpu) == (ENGINE, GPU)
    assert "RTX 4090" in noted.reason
    for by in GROUPS:
        table = report(ledger, SINCE, by, "USD")
        assert c.UNPRICED in render(table, "csv")
        assert not any(isinstance(cell, int) and cell for row in table.rows for cell in row)


def test_once_there_is_a_price_the_note_goes_and_what_was_kept_is_costed(ledger, unknown_gpu):
    """A restart with a price reads the records again."""
    ledger.add(unknown_gpu)
    accountant(ledger).advance()
    accountant(ledger, priced()).advance()
    assert unpriced_engines(ledger) == ()
    assert c.UNPRICED not in render(report(ledger, SINCE, "engine", "USD"), "json")


def test_since_when_stays_as_it_was_first_noted(ledger, unknown_gpu):
    """A service that starts again and again does not move it."""
    ledger.add(unknown_gpu)
    accountant(ledger).advance()
    before = unpriced_engines(ledger)
    accountant(ledger).advance()
    assert unpriced_engines(ledger) == before


def test_an_engine_stays_probed_when_its_records_are_pruned(ledger):
    """Else its counters would be costed as well, and it would be billed twice."""
    ledger.add(raw_records(load_recording(RECORDING))[:400])
    accountant(ledger).advance()
    first = probed_since(ledger)
    assert set(first) == {ENGINE}
    with ledger.engine.begin() as connection:
        connection.execute(sa.delete(t.records))
    assert probed_since(ledger) == first
    assert accountant(ledger).probed(ENGINE)


def test_the_first_report_of_a_probe_is_the_one_that_counts(ledger):
    """Later ones change nothing."""
    note_probed(ledger, "e", 7)
    note_probed(ledger, "e", 9)
    assert probed_since(ledger) == {"e": 7}


def test_books_that_were_written_without_the_note_are_looked_up_once(ledger):
    """As those of a replay are; afterwards the inbox is not asked."""
    ledger.add(raw_records(load_recording(RECORDING))[:400])
    accountant(ledger).advance()
    with ledger.engine.begin() as connection:
        connection.execute(sa.delete(t.probed_engines))
    assert probed_since(ledger) == {ENGINE: 1}
    with ledger.engine.begin() as connection:
        connection.execute(sa.delete(t.records))
    assert probed_since(ledger) == {ENGINE: 1}
