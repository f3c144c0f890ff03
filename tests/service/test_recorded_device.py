"""A real engine and its real GPU, read by two programs that share nothing but the UUID, in one set of books."""

import msgspec
import pytest
from tests.replay.conftest import DEVICES
from tests.service.books import accountant

from farthing.books.prices import PriceBook
from farthing.collectors.wire import decode_raw, device_record
from farthing.ledger.repository import Ledger
from farthing.replay.offline import cost_recording
from farthing.replay.recording import load_recording
from farthing.settings import Settings


@pytest.fixture
def ledger(tmp_path):
    """An empty ledger."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    yield ledger
    ledger.close()


def test_the_devices_own_records_give_the_engine_its_energy(ledger):
    """The probe's records say which GPU, the reader's what it drew: as much as samples by the engine's side, 0.5 %.

    Samples of the engine's side come in batches, and those that reach beyond its life are left out.
    """
    recording = load_recording(DEVICES)
    ledger.add([decode_raw(msgspec.json.encode(row)) for boot in recording.boots for row in boot])
    ledger.add([device_record(samples) for samples in recording.devices])
    keeper = accountant(ledger)
    keeper.advance()
    (engine,) = keeper.snapshot().engines
    sampled = cost_recording(recording, Settings(), PriceBook())
    assert engine.residual_nano == 0
    assert sampled.energy_mj is not None
    assert engine.energy_millijoules is not None
    assert engine.energy_millijoules == pytest.approx(sampled.energy_mj, rel=0.005)
    assert engine.energy_millijoules > 100_000_000
    assert [check.name for check in engine.checks if not check.ok] == []


def test_without_the_devices_records_energy_is_unknown(ledger):
    """And never 0."""
    recording = load_recording(DEVICES)
    ledger.add([decode_raw(msgspec.json.encode(row)) for boot in recording.boots for row in boot])
    keeper = accountant(ledger)
    keeper.advance()
    (engine,) = keeper.snapshot().engines
    assert engine.energy_millijoules is None
