"""Engines are billed at the price or capacity that farthing.yaml gives them, and their books add up to it."""

import itertools

import pytest
from tests.replay.conftest import TEXT
from tests.service.books import ENGINE, accountant, journal_sums, raw_records, total

from farthing.domain.clock import HOUR
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.server import price_book
from farthing.settings import parse_settings

RECORDING = load_recording(TEXT)
NODE = """
capacity:
- {name: node, gpu: H100-SXM, gpus: 3, from: 2026-01-01, usd_per_hour: 10.000000001, host_share: 0.1}
engines:
- {name: other, url: "http://127.0.0.1:1", capacity: node, probe: true}
- {name: h100, url: "http://127.0.0.1:2", capacity: node, probe: true}
"""
NAMED = """
prices:
- {gpu: H100-SXM, usd_per_hour: 5, from: 2026-01-01}
- {gpu: H100-SXM, usd_per_hour: 2, from: 2026-01-01, name: ours, currency: EUR}
exchange:
- {currency: EUR, rate: 1.5, from: 2026-01-01}
engines:
- {name: h100, url: "http://127.0.0.1:2", price: ours, probe: true}
"""


@pytest.mark.parametrize("text", [NODE, NAMED], ids=["capacity", "named price"])
def test_a_recorded_engine_is_billed_at_what_it_was_given(text, tmp_path):
    """Bill, windows and journal, to the nano; and its books cite that tariff."""
    settings = parse_settings(text, "f")
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.add(raw_records(RECORDING))
    keeper = accountant(ledger, settings)
    keeper.advance()
    (view,) = (view for view in keeper.snapshot().engines if view.engine.name == ENGINE)
    tariff = price_book(settings).tariff("whatever the driver says" if text is NODE else "H100-SXM", 1, engine=ENGINE)
    bill = tariff.bill(RECORDING.start_ns, RECORDING.end_ns)
    assert view.residual_nano == 0
    assert view.bill_nano == bill == total(ledger, t.boots.c.bill_nano)
    assert sum(journal_sums(ledger, "debit").values()) == bill
    assert {key[0] for key in journal_sums(ledger, "price_version")} == {tariff.version}
    assert view.price_nano_per_hour == tariff.nano_per_hour(RECORDING.start_ns) == 3_000_000_000
    again = accountant(ledger, settings)
    again.advance()
    (after,) = (view for view in again.snapshot().engines if view.engine.name == ENGINE)
    assert (after.bill_nano, after.price_nano_per_hour) == (bill, 3_000_000_000)
    ledger.close()


def test_what_engines_of_a_node_do_not_have_is_in_its_pools():
    """A third GPU, and the host; all of it is the node's price."""
    book = price_book(parse_settings(NODE, "f"))
    start = RECORDING.start_ns
    (node,) = book.holdings
    for a, b in itertools.pairwise([start, start + 1, start + 7 * HOUR, start + 90 * HOUR]):
        engines = sum(tariff.bill(a, b) for tariff in node.engines.values())
        assert engines + sum(pool.tariff.bill(a, b) for pool in book.pools) == node.tariff.bill(a, b)
    assert [(pool.capacity, pool.reason) for pool in book.pools] == [("node", "host"), ("node", "unassigned")]


def test_a_price_that_has_run_out_now_is_unknown_and_what_it_billed_stays(tmp_path):
    """The picture of an engine whose price ended goes on, without a price."""
    text = NAMED.replace("from: 2026-01-01, name: ours", "from: 2026-01-01, to: 2026-11-24, name: ours")
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.add(raw_records(RECORDING))
    keeper = accountant(ledger, parse_settings(text, "f"))
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert view.price_nano_per_hour is None
    assert view.bill_nano > 0
    assert view.residual_nano == 0
    ledger.close()
