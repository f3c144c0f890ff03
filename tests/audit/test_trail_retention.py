"""What a trail keeps no longer is removed, and neither written nor told again."""

import errno
import os
from collections import Counter
from pathlib import Path

import pytest
from tests.audit.ledgers import complete, requests_of, written
from tests.audit.trails import said
from tests.ledger.booked import DAY, USER, close

from farthing.audit.verify import verify
from farthing.domain.clock import HOUR
from farthing.ledger.erase import erase_user
from farthing.service import audit_index
from farthing.service.audit_source import AuditSource
from farthing.service.audit_trail import COMPARE_SECONDS


def test_what_ended_before_retention_begins_is_not_written(ledger, trails, tmp_path, ledger_clock):
    """It would have to be removed at once."""
    ledger_clock.ns += 3 * DAY
    trail = trails(ledger, retention_days=1)
    trail.update()
    assert trail.view().is_written
    assert written(tmp_path / "trail")[0] == {}


def test_days_beyond_retention_are_removed_and_the_rest_verifies(ledger, trails, tmp_path, ledger_clock):
    """And what was removed is not written again from the ledger."""
    trails(ledger, retention_days=2).update()
    ledger_clock.ns += 5 * DAY
    for _ in range(2):
        trail = trails(ledger, retention_days=2)
        trail.update()
    seen = verify(tmp_path / "trail")
    assert (seen.problems, trail.view().is_written) == ([], True)
    assert seen.removed
    assert written(tmp_path / "trail")[0] == {}


def test_what_retention_removed_is_not_told_again(full, trails, tmp_path, ledger_clock):
    """A closing of years ago is in the ledger still. What has no time of its own, and holds, is told once more."""
    close(full)
    erase_user(full.engine, [USER], now_ns=ledger_clock.ns)
    trails(full, retention_days=2).update()
    told = Counter(one["kind"] for one in said(tmp_path / "trail"))
    assert min(told["user_erased"], told["price_version"]) >= 1
    ledger_clock.ns += 5 * DAY
    for _ in range(3):
        trails(full, retention_days=2).update()
    left = Counter(one["kind"] for one in said(tmp_path / "trail"))
    assert left["user_erased"] == 0
    assert left["price_version"] == told["price_version"]


def test_what_was_written_by_a_clock_far_behind_is_kept(ledger, trails, tmp_path, ledger_clock):
    """A host without a clock of its own began in 1970: its day is as old as its end, which came with the right time."""
    there, now = requests_of(ledger), ledger_clock.ns
    ledger_clock.ns = HOUR
    trails(ledger, retention_days=2).update()
    assert written(tmp_path / "trail")[0] == there
    ledger_clock.ns = now
    for _ in range(3):
        trail = trails(ledger, retention_days=2)
        trail.update()
        ledger_clock.ns += DAY // 2
    assert verify(tmp_path / "trail").removed == ""
    complete(trail, ledger, tmp_path / "trail")
    ledger_clock.ns += 3 * DAY
    trails(ledger, retention_days=2).update()
    assert verify(tmp_path / "trail").removed >= "1970-01-01"
    assert verify(tmp_path / "trail").problems == []


def test_a_clock_that_is_set_right_during_a_look_makes_no_day_old(ledger, trails, tmp_path, ledger_clock, monkeypatch):
    """A look may last hours; what its beginning took for old is not."""
    trails(ledger, retention_days=2).update()
    ledger_clock.ns += DAY
    trail = trails(ledger, retention_days=2)
    trail.update()
    right, boots = ledger_clock.ns, AuditSource.boots

    def set_right(source):
        ledger_clock.ns = right
        return boots(source)

    ledger_clock.ns += 9 * DAY
    monkeypatch.setattr(AuditSource, "boots", set_right)
    monkeypatch.setattr(trail, "_monotonic", lambda: 2 * COMPARE_SECONDS)
    trail.update()
    assert ledger_clock.ns == right
    assert verify(tmp_path / "trail").removed == ""
    complete(trail, ledger, tmp_path / "trail")


@pytest.fixture
def filled_up(ledger, trails, tmp_path, ledger_clock, monkeypatch):
    """Makes a disk full, for records or for the index, as long as the first day is there; returns that day's file."""
    trails(ledger, retention_days=2).update()
    ledger_clock.ns += DAY
    trails(ledger, retention_days=2).update()
    trails(ledger).close()
    ledger_clock.ns += 5 * DAY
    first, _ = sorted((tmp_path / "trail").glob("*.audit"))

    def write(descriptor, data, real=os.write):
        if first.exists() and Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".audit":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    def private(path, real=audit_index._private):
        made = real(path)
        if first.exists():
            made.execute("PRAGMA max_page_count=1")
        return made

    def fill_up(what):
        if what == "records":
            monkeypatch.setattr("farthing.audit.disk.os.write", write)
        else:
            monkeypatch.setattr(audit_index, "_private", private)
        return first

    return fill_up


@pytest.mark.parametrize("what", ["records", "index"])
def test_a_full_disk_is_relieved_by_what_is_old(ledger, trails, tmp_path, filled_up, what):
    """Nothing can be written before it is removed, not even that there was an opening."""
    first = filled_up(what)
    trail = trails(ledger, retention_days=2)
    trail.update()
    assert (trail.view().is_written, first.exists()) == (False, True)
    trail.update()
    assert (trail.view().is_written, first.exists()) == (True, False)
    assert verify(tmp_path / "trail").problems == []
    assert verify(tmp_path / "trail").removed >= first.stem


def test_a_full_disk_is_not_relieved_by_what_was_altered(ledger, trails, filled_up):
    """Nobody has seen that yet."""
    first = filled_up("records")
    data = first.read_bytes()
    first.unlink()
    first.write_bytes(data.replace(b'"decode_nano":1', b'"decode_nano":2', 1))
    trail = trails(ledger, retention_days=2)
    trail._was_full = True
    trail.update()
    assert (trail.view().is_written, first.exists()) == (False, True)
