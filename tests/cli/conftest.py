"""A folder with a ledger that holds two costed engines, and its farthing.yaml."""

import pytest
from tests.replay.conftest import TEXT, VISION, cost

from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording


@pytest.fixture(scope="session")
def booked(tmp_path_factory):
    """The folder; its ledger is read, and must never be changed."""
    folder = tmp_path_factory.mktemp("booked")
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    for name in (TEXT, VISION):
        cost(load_recording(name)).write(ledger)
    ledger.close()
    (folder / "farthing.yaml").write_text(f"ledger: sqlite:///{folder}/ledger.db\n")
    return folder
