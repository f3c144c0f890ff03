"""Whatever lies in a trail's folder, only files of its own are read and written: no links, pipes, or endless lines."""

import os
import threading

import pytest
from tests.audit.trails import DAY_NS, DAYS, NOON, Clock, append_to, content, numbers, opened

from farthing.audit.chain import ANCHORS, HEAD, file_name
from farthing.audit.disk import Disk
from farthing.domain.errors import AuditError

LAST = Clock(NOON + 2 * DAY_NS)


def _within(act, seconds=5.0):
    """What an act raised, or None; fails when it does not end."""
    raised: list[BaseException | None] = []

    def acting():
        try:
            act()
        except BaseException as error:
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=acting, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits for ever"
    return raised[0]


def _append(folder):
    append_to(folder, [content(100, LAST.ns)], LAST)


@pytest.mark.parametrize("what", ["link", "hard link", "pipe"])
def test_what_lies_in_the_place_of_a_new_head_is_neither_followed_nor_waited_for(trail, tmp_path, what):
    """A link to the ledger would have had it overwritten, as whoever may write to the folder likes."""
    other, new = tmp_path / "ledger.db", trail / f"{HEAD}.new"
    other.write_bytes(b"everything that was booked")
    if what == "link":
        new.symlink_to(other)
    elif what == "hard link":
        new.hardlink_to(other)
    else:
        os.mkfifo(new)
    assert _within(lambda: _append(trail)) is None
    assert other.read_bytes() == b"everything that was booked"
    assert numbers(trail)[-1] == 100
    assert not new.exists()


@pytest.mark.parametrize("name", [ANCHORS, file_name(DAYS[2]), "lock"])
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_file_that_is_none_of_the_trails_is_refused(trail, tmp_path, name, what):
    """By its name, and the file behind it stays as it is."""
    path, other = trail / name, tmp_path / "other"
    path.replace(other)
    before = other.read_bytes()
    if what == "link":
        path.symlink_to(other)
    else:
        os.mkfifo(path)
    error = _within(lambda: (_append(trail), opened(trail, Clock(NOON + 3 * DAY_NS)).append([content(1)])))
    assert isinstance(error, AuditError)
    assert name in str(error)
    assert other.read_bytes() == before


def test_appending_follows_no_link(tmp_path):
    """Not even to a file that is not there yet."""
    (tmp_path / ANCHORS).symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="no file of its own"):
        Disk(fsync=False).append(tmp_path / ANCHORS, b"line\n")
    assert not (tmp_path / "other").exists()


def test_a_days_file_without_end_is_not_read_into_memory(trail, monkeypatch):
    """It is no leftover of a kill, so nothing is cut off either."""
    monkeypatch.setattr("farthing.audit.disk.LONGEST", 10_000)
    path = trail / file_name(DAYS[2])
    os.truncate(path, 2**26)
    with pytest.raises(AuditError, match="longer than any record"):
        opened(trail, LAST)
    assert path.stat().st_size == 2**26


def test_the_next_days_file_without_end_is_not_read_into_memory(trail, monkeypatch):
    """Nor what lies where the day after that goes on."""
    monkeypatch.setattr("farthing.audit.disk.LONGEST", 10_000)
    writer = opened(trail, Clock(NOON + 3 * DAY_NS))
    head = (trail / HEAD).read_bytes()
    writer.append([content(1)])
    writer.close()
    (trail / HEAD).write_bytes(head)
    path = trail / file_name("2026-11-28")
    path.chmod(0o600)
    path.write_bytes(b"")
    os.truncate(path, 2**26)
    with pytest.raises(AuditError, match="longer than any record"):
        opened(trail, Clock(NOON + 3 * DAY_NS))
