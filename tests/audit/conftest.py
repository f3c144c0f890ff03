"""Trails of three days that are written in a moment, and a service's trails of recorded ledgers."""

import shutil

import pytest
import sqlalchemy as sa
from tests.audit.ledgers import change
from tests.audit.trails import Clock, write_days
from tests.ledger.booked import fill

from farthing.audit.writer import AuditWriter
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service.audit_trail import AuditTrail
from farthing.settings import Settings


@pytest.fixture
def clock():
    """A clock at noon of the first day."""
    return Clock()


@pytest.fixture
def trail(tmp_path):
    """The folder of a trail of three days that nobody writes."""
    write_days(tmp_path / "trail")
    return tmp_path / "trail"


@pytest.fixture
def writer(tmp_path, clock):
    """A writer at an empty folder."""
    made = AuditWriter(tmp_path / "trail", clock_ns=clock, fsync=False)
    yield made
    made.close()


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A ledger with two recorded boots that are over, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "ledger.db"
    with Ledger.open(f"sqlite:///{path}") as ledger:
        fill(ledger, users=True)
    return path


@pytest.fixture(scope="session")
def few(filled, tmp_path_factory):
    """The same with few requests, to be read."""
    path = tmp_path_factory.mktemp("few") / "ledger.db"
    shutil.copy(filled, path)
    with Ledger.open(f"sqlite:///{path}") as ledger:
        change(ledger, sa.delete(t.requests).where(t.requests.c.sequence % 25 != 0))
    return path


@pytest.fixture
def ledger(few, tmp_path):
    """A ledger of its own, with few requests."""
    shutil.copy(few, tmp_path / "ledger.db")
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def full(filled, tmp_path):
    """A ledger of its own, with all requests."""
    shutil.copy(filled, tmp_path / "full.db")
    with Ledger.open(f"sqlite:///{tmp_path}/full.db") as opened:
        yield opened


@pytest.fixture
def empty(tmp_path):
    """A ledger with nothing in it."""
    with Ledger.open(f"sqlite:///{tmp_path}/empty.db") as opened:
        yield opened


@pytest.fixture
def ledger_clock(filled):
    """A minute after the last request."""
    with Ledger.open(f"sqlite:///{filled}") as ledger:
        last = ledger.select(sa.select(sa.func.max(t.requests.c.ended_wall_ns)))[0][0]
    return Clock(last + 60 * 10**9)


@pytest.fixture
def trails(tmp_path, ledger_clock):
    """Makes trails of a ledger in one folder, one after the other, and closes the last."""
    made: list[AuditTrail] = []

    def make(ledger, folder=None, **audit):
        if made:
            made[-1].close()
        chosen = folder or tmp_path / "trail"
        options = Settings(
            audit={"dir": chosen, "fsync": False, **audit}, serve={"tokens_file": tmp_path / "tokens.yaml"}
        )
        made.append(AuditTrail(ledger, options, chosen, clock_ns=ledger_clock, monotonic=lambda: 0.0))
        return made[-1]

    yield make
    for trail in made:
        trail.close()
