"""Two services on one ledger, which nobody should run: each amount is in the books once all the same."""

import threading

import pytest
from tests.service.books import accountant, content, journal_sums, raw_records

from farthing.domain.errors import LedgerError
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording

CHUNK = 150


@pytest.fixture(scope="module")
def raw():
    """The 8B recording's records as intake stores them."""
    return raw_records(load_recording("h100-llama8b-vllm0.26"))


def test_two_services_that_cost_the_same_records_post_each_window_once(raw, new_ledger_url):
    """The journal, the hourly sums, the requests and the bill are those of one service alone."""
    alone = Ledger.open(new_ledger_url("alone"))
    alone.add(raw)
    accountant(alone).advance()
    url = new_ledger_url("both")
    arrived = threading.Event()
    failures = []

    def serve():
        ledger = Ledger.open(url)
        books = accountant(ledger)
        while True:
            last = arrived.is_set()
            try:
                books.advance()
            except LedgerError as error:
                # the other one was quicker with the same row: what was costed is posted by the next call
                failures.append(error)
                continue
            if last:
                break
        ledger.close()

    feeding = Ledger.open(url)
    services = [threading.Thread(target=serve) for _ in range(2)]
    for service in services:
        service.start()
    for start in range(0, len(raw), CHUNK):
        assert feeding.add(raw[start : start + CHUNK]) == len(raw[start : start + CHUNK])
    arrived.set()
    for service in services:
        service.join(120)
        assert not service.is_alive()
    assert content(feeding) == content(alone)
    sums = journal_sums(feeding, "boot", "engine_index", "start_ns")
    assert sums == journal_sums(alone, "boot", "engine_index", "start_ns")
    assert len(failures) < len(raw)
    feeding.close()
    alone.close()
