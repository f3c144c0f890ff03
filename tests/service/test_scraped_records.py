"""What the inbox keeps of scraped engines is found again, on either database."""

import pytest

from farthing.domain.clock import Anchor
from farthing.domain.records import Counters, RecordKey, Started
from farthing.ledger.repository import Ledger
from farthing.service.scraped_records import last_counters, raw_record


@pytest.fixture
def ledger(ledger_url):
    """A fresh ledger."""
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


def started(boot, engine):
    return raw_record(Started(RecordKey(boot, 0, 0), 1, Anchor(0, 0), engine, "vllm", "", "m", "", 1))


def counters(boot, sequence, value):
    return raw_record(
        Counters(RecordKey(boot, 0, sequence), 5 + sequence, {"generation_tokens_total": value}, {"g": 0.5})
    )


def boot_of(ledger, engine):
    found = last_counters(ledger, engine)
    return found and found.key.boot


def test_the_counters_that_arrived_last_are_of_the_latest_boot(ledger):
    """Whatever the names of boots are; under the engine's own name of the boot, with gauges."""
    ledger.add([started("e/m/9", "e"), counters("e/m/9", 1, 10), counters("e/m/9", 2, 20)])
    ledger.add([started("e/m/10", "e"), counters("e/m/10", 1, 3)])
    ledger.add([started("e/m/10#1", "e"), counters("e/m/10#1", 1, 1), counters("e/m/10#1", 2, 2)])
    found = last_counters(ledger, "e")
    assert found == Counters(RecordKey("e/m/10#1", 0, 2), 7, {"generation_tokens_total": 2}, {"g": 0.5})


def test_engines_whose_names_begin_alike_are_not_mixed_up(ledger):
    """A name ends where the boot's slash is, and its signs are not patterns."""
    for engine in ("e-1", "e-10", "e-1.5", "e_1", "e-1:8000", "E-1"):
        ledger.add([started(f"{engine}/m/1", engine), counters(f"{engine}/m/1", 1, len(engine))])
    assert boot_of(ledger, "e-1") == "e-1/m/1"
    assert boot_of(ledger, "e_1") == "e_1/m/1"
    assert boot_of(ledger, "E-1") == "E-1/m/1"
    assert last_counters(ledger, "e") is None


def test_an_engine_that_has_only_started_has_no_counters(ledger):
    """Its start alone says nothing to go on with."""
    ledger.add([started("e/m/1", "e")])
    assert last_counters(ledger, "e") is None
