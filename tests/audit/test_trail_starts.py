"""What a service makes of its trail after a kill, a stop or an attack: nothing is lost, and nothing written twice."""

import shutil
import sqlite3
from collections import Counter

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.audit.ledgers import change, complete, requests_of, written
from tests.audit.trails import append_to, full_disk, opened, said
from tests.ledger.booked import DAY

from farthing.audit.chain import digest, encoded
from farthing.audit.records import event
from farthing.audit.writer import AuditWriter
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service.audit_index import AuditIndex
from farthing.service.audit_trail import AuditTrail
from farthing.settings import Settings


class Killed(BaseException):
    """Stands for kill -9: nothing behind it runs."""


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
@given(kills=st.lists(st.tuples(st.sampled_from(["append", "take"]), st.integers(1, 4), st.booleans()), max_size=4))
def test_kills_between_any_two_steps_neither_lose_nor_double_a_record(few, ledger_clock, tmp_path_factory, kills):
    """Before and after the trail is written, and before and after that is noted."""
    folder = tmp_path_factory.mktemp("killed") / "trail"
    options = Settings(audit={"dir": folder, "fsync": False})
    with Ledger.open(f"sqlite:///{few}") as ledger:
        for step, count, after in kills:
            trail = AuditTrail(ledger, options, folder, clock_ns=ledger_clock, monotonic=lambda: 0.0)
            owner = AuditWriter if step == "append" else AuditIndex
            original = getattr(owner, step)
            calls: Counter[str] = Counter()

            def killing(self, *given, original=original, calls=calls, count=count, after=after, **named):
                calls["all"] += 1
                if calls["all"] == count and not after:
                    raise Killed
                result = original(self, *given, **named)
                if calls["all"] == count:
                    raise Killed
                return result

            setattr(owner, step, killing)
            try:
                trail.update()
            except Killed:
                pass
            finally:
                setattr(owner, step, original)
                trail._let_go()
        trail = AuditTrail(ledger, options, folder, clock_ns=ledger_clock, monotonic=lambda: 0.0)
        trail.update()
        complete(trail, ledger, folder)
        trail.close()


FORGED = """
CREATE TABLE place (n INTEGER NOT NULL, digest TEXT NOT NULL, last_id INTEGER NOT NULL);
CREATE TABLE written (
    boot TEXT NOT NULL, process INTEGER NOT NULL, sequence INTEGER NOT NULL, ended_ns INTEGER NOT NULL,
    first INTEGER NOT NULL, prefill INTEGER NOT NULL, decode INTEGER NOT NULL, vision INTEGER NOT NULL,
    PRIMARY KEY (boot, process, sequence)
) WITHOUT ROWID;
CREATE TABLE done_boots (boot TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE seen (kind TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""


def test_nothing_that_lies_beside_a_trail_makes_it_forget_a_boot(ledger, trails, tmp_path, ledger_clock):
    """Whoever may write to the folder would hide every request of it so."""
    writer = opened(tmp_path / "trail", ledger_clock)
    last = {"n": writer.append([event("audit_opened", ledger_clock.ns)]), **event("audit_opened", ledger_clock.ns)}
    writer.close()
    forged = sqlite3.connect(tmp_path / "trail" / "index.db")
    forged.executescript(FORGED)
    forged.execute("INSERT INTO place VALUES (?, ?, 0)", (last["n"], digest(encoded(last))))
    forged.executemany("INSERT INTO done_boots VALUES (?)", {(key[0],) for key in requests_of(ledger)})
    forged.commit()
    forged.close()
    trail = trails(ledger)
    trail.update()
    complete(trail, ledger, tmp_path / "trail")


def test_no_word_of_a_closed_boot_makes_a_trail_forget_its_requests(ledger, trails, tmp_path, ledger_clock):
    """Whoever puts such a record behind the head would hide what follows: the ledger is asked."""
    folder = tmp_path / "trail"
    boots = sorted({key[0] for key in requests_of(ledger)})
    forged = {"engine": "a", "requests": 10**6, "cost_nano": 10**15}
    append_to(folder, [event("boot_closed", ledger_clock.ns, boot=boot, **forged) for boot in boots], ledger_clock)
    trail = trails(ledger)
    trail.update()
    complete(trail, ledger, folder)
    # nor a true one, once the ledger has more of its boot
    with ledger.engine.begin() as connection:
        one = dict(connection.execute(sa.select(t.requests).limit(1)).mappings().one())
        connection.execute(sa.insert(t.requests).values({**one, "sequence": one["sequence"] + 1, "decode_nano": 12}))
    trail = trails(ledger)
    trail.update()
    complete(trail, ledger, folder)


def test_a_closed_boot_that_the_ledger_has_as_open_again_is_not_written_twice(ledger, trails, tmp_path):
    """A backup was put in the ledger's place. What was pruned from it since is not missed."""
    trails(ledger).update()
    there = requests_of(ledger)
    change(ledger, sa.update(t.boots).values(closed_ns=None))
    trails(ledger).update()
    change(
        ledger,
        sa.update(t.boots).values(closed_ns=t.boots.c.ended_ns),
        sa.delete(t.requests).where(t.requests.c.sequence % 2 == 0),
    )
    for _ in range(2):
        trail = trails(ledger)
        trail.update()
    assert trail.view().is_written
    found, times = written(tmp_path / "trail")
    assert found == there
    assert set(times.values()) == {1}


def test_a_trail_is_read_at_each_start_and_nothing_is_written_twice(ledger, trails, tmp_path):
    """What is written follows from the trail alone; no other file of the service's lies there, even while it runs."""
    trails(ledger).update()
    trails(ledger).close()
    trail = trails(ledger)
    trail.update()
    complete(trail, ledger, tmp_path / "trail")
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "trail").iterdir()}
    days = {name for name in files if name.endswith(".audit")}
    assert set(files) - days <= {"anchors", "head", "lock"}
    assert set(files.values()) <= {0o600, 0o400}
    kinds = Counter(one["kind"] for one in said(tmp_path / "trail"))
    assert kinds["boot_closed"] == 2
    assert kinds["price_version"] == len({one["key"] for one in said(tmp_path / "trail") if "price" in one["kind"]})


def test_a_folder_that_is_put_back_while_the_service_runs_is_read_anew(ledger, trails, tmp_path):
    """What it knew was of another trail."""
    trail = trails(ledger)
    trail.update()
    trail._let_go()
    shutil.rmtree(tmp_path / "trail")
    trail.update()
    complete(trail, ledger, tmp_path / "trail")


def test_a_start_that_is_stopped_while_it_reads_the_trail_ends_soon(ledger, trails, tmp_path, monkeypatch):
    """It writes nothing, and is no failure; the next start reads all of it."""
    monkeypatch.setattr("farthing.service.audit_index.AT_ONCE", 3)
    trails(ledger).update()
    trail = trails(ledger)
    before = sum(path.stat().st_size for path in (tmp_path / "trail").glob("*.audit"))
    trail.stop()
    trail.update()
    trail.close()
    assert sum(path.stat().st_size for path in (tmp_path / "trail").glob("*.audit")) == before
    assert (trail.view().failures, trail.view().is_written) == (0, True)
    trail = trails(ledger)
    trail.update()
    complete(trail, ledger, tmp_path / "trail")


def test_a_second_service_at_one_folder_is_told_and_takes_over_when_the_first_is_gone(
    ledger, tmp_path, ledger_clock, caplog
):
    """It fails no call, and logs one line."""
    options = Settings(audit={"dir": tmp_path / "trail", "fsync": False})
    first, second = (AuditTrail(ledger, options, tmp_path / "trail", clock_ns=ledger_clock) for _ in range(2))
    first.update()
    second.update()
    second.update()
    assert (second.view().is_written, second.view().failures) == (False, 2)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.message.count("another process writes it") for record in errors] == [1]
    first.close()
    second.update()
    complete(second, ledger, tmp_path / "trail")
    second.close()


def test_a_full_disk_is_told_once_and_made_good(full, trails, tmp_path, caplog):
    """The ledger and everything else go on meanwhile."""
    trail = trails(full)
    with full_disk(100_000):
        trail.update()
        trail.update()
    assert not trail.view().is_written
    assert len({record.message for record in caplog.records if record.levelname == "ERROR"}) == 1
    trail.update()
    complete(trail, full, tmp_path / "trail")
    assert trail.view().failures >= 2
    assert Counter(one["kind"] for one in said(tmp_path / "trail"))["audit_opened"] == 1


def test_what_was_altered_is_not_written_after(ledger, trails, tmp_path):
    """The alarm stays until somebody looks."""
    trails(ledger).update()
    trails(ledger).close()
    path = next((tmp_path / "trail").glob("*.audit"))
    path.write_bytes(path.read_bytes().replace(b'"cost_nano":1', b'"cost_nano":2', 1))
    size = path.stat().st_size
    trail = trails(ledger)
    trail.update()
    assert not trail.view().is_written
    assert path.stat().st_size == size


@pytest.mark.parametrize("how", ["altered", "gone"])
def test_a_day_that_was_altered_long_ago_is_not_written_after(ledger, trails, tmp_path, ledger_clock, how):
    """The writer reads the last day; that the requests of others are there is believed of whole ones alone.

    Nothing is left of what was altered once the day is as it was.
    """
    trails(ledger).update()
    for _ in range(2):
        ledger_clock.ns += DAY
        trails(ledger).update()
    trails(ledger).close()
    first, *_, last = sorted((tmp_path / "trail").glob("*.audit"))
    data = first.read_bytes()
    first.unlink()
    if how == "altered":
        first.write_bytes(data.replace(b'"decode_nano":1', b'"decode_nano":2', 1))
    size = last.stat().st_size
    trail = trails(ledger)
    trail.update()
    assert not trail.view().is_written
    assert last.stat().st_size == size
    first.unlink(missing_ok=True)
    first.write_bytes(data)
    trail.update()
    complete(trail, ledger, tmp_path / "trail")
