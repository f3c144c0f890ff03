"""A trail is written whole or not at all, by one writer at a time, whatever ends it and whatever the clock says."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.audit.trails import (
    DAY_NS,
    DAYS,
    KEY,
    NOON,
    Clock,
    append_to,
    beyond,
    content,
    full_disk,
    kinds,
    numbers,
    opened,
    said,
    write_days,
)

from farthing.audit.chain import ANCHORS, HEAD, file_name
from farthing.audit.reading import days_in, read_anchors
from farthing.audit.verify import verify
from farthing.audit.writer import CUT, WENT_BACK, AuditWriter
from farthing.domain.clock import SECOND
from farthing.domain.errors import AuditError

properties = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)


def test_records_are_numbered_and_each_day_has_a_file_that_begins_with_the_hash_before(trail):
    """And an anchor once it is over."""
    assert days_in(trail) == list(DAYS)
    assert [one["n"] for one in said(trail)] == list(range(1, 16))
    begins = [one for one in said(trail) if one["kind"] == "day"]
    anchors = read_anchors(trail, ()).days
    assert list(anchors) == list(DAYS[:2])
    assert [one["previous"] for one in begins[1:]] == [anchor.content["last"] for anchor in anchors.values()]
    assert (trail / file_name(DAYS[0])).stat().st_mode & 0o777 == 0o400
    assert (trail / file_name(DAYS[2])).stat().st_mode & 0o777 == 0o600
    assert trail.stat().st_mode & 0o777 == 0o700


def test_a_writer_goes_on_where_the_last_one_stopped(trail):
    """Within the day, and into the next."""
    for day, number in ((2, 100), (3, 101)):
        append_to(trail, [content(number)], Clock(NOON + day * DAY_NS))
    assert numbers(trail) == [*range(12), 100, 101]
    assert days_in(trail)[-1] == "2026-11-28"
    assert verify(trail).problems == []


def test_a_second_writer_is_kept_out_until_the_first_is_gone(tmp_path, writer):
    """Two processes at one folder would write two chains."""
    with pytest.raises(AuditError, match="another process writes it"):
        opened(tmp_path / "trail")
    writer.close()
    opened(tmp_path / "trail").close()


def test_a_writer_that_ends_as_nobody_expected_lets_go_of_the_folder(trail, monkeypatch):
    """The next one must not be told of another process that there is not."""

    def failing(*_):
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr("farthing.audit.writer.read_anchors", failing)
        with pytest.raises(RuntimeError):
            opened(trail)
    opened(trail).close()


@pytest.fixture(scope="module")
def acknowledged(tmp_path_factory):
    """A trail; the same one batch, and one new day, later."""
    first = tmp_path_factory.mktemp("killed") / "first"
    write_days(first, days=2)
    later = []
    for day in (1, 2):
        folder = first.with_name(f"later-{day}")
        shutil.copytree(first, folder)
        append_to(folder, [content(number) for number in (100, 101, 102)], Clock(NOON + day * DAY_NS))
        later.append(folder)
    return first, later


@properties
@given(data=st.data())
def test_a_kill_in_the_middle_of_writing_loses_only_what_was_not_acknowledged(acknowledged, data, tmp_path_factory):
    """The file cut at any byte after what the head names; a line that is not whole is cut, and that is told."""
    first, (same_day, next_day) = acknowledged
    later = data.draw(st.sampled_from((same_day, next_day)))
    folder = tmp_path_factory.mktemp("cut") / "trail"
    shutil.copytree(first, folder)
    name = file_name(DAYS[1] if later is same_day else DAYS[2])
    had = (first / name).stat().st_size if later is same_day else 0
    whole = (later / name).read_bytes()
    if later is next_day:
        shutil.copy(later / ANCHORS, folder / ANCHORS)
    cut = whole[: data.draw(st.integers(had, len(whole)))]
    (folder / name).write_bytes(cut)
    assert verify(folder).problems == []
    append_to(folder, [content(200)], Clock(NOON + 2 * DAY_NS))
    assert verify(folder).problems == []
    kept = cut.count(b"\n") - (whole[:had].count(b"\n") if later is same_day else 1)
    assert numbers(folder) == [*range(8), *(100, 101, 102)[: max(kept, 0)], 200]
    assert kinds(folder).count(CUT) == (not cut.endswith(b"\n") and bool(cut))
    assert beyond(folder) == ([cut[had:].count(b"\n")] if b"\n" in cut[had:] else [])
    shutil.rmtree(folder)


@properties
@given(data=st.data())
def test_an_anchor_that_a_kill_cut_is_written_again(acknowledged, data, tmp_path_factory):
    """The day is over only with its whole anchor."""
    folder = tmp_path_factory.mktemp("cut") / "trail"
    write_days(folder, days=1)
    whole = (acknowledged[0] / ANCHORS).read_bytes()
    (folder / ANCHORS).write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert verify(folder).problems == []
    append_to(folder, [content(200)], Clock(NOON + DAY_NS))
    assert verify(folder).problems == []
    assert days_in(folder) == list(DAYS[:2])


def test_a_process_that_is_killed_while_it_writes_leaves_a_trail_that_goes_on(tmp_path):
    """kill -9, while it writes as fast as it can."""
    folder = tmp_path / "trail"
    program = f"""
import sys, time
from pathlib import Path
from tests.audit.trails import content
from farthing.audit.writer import AuditWriter
writer = AuditWriter(Path({str(folder)!r}), clock_ns=time.time_ns, fsync=False)
number = 0
while True:
    writer.append([content(number + place) for place in range(50)])
    number += 50
    print(number, flush=True)
"""
    told = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        for _ in range(3):
            assert process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        told += int(rest[-1]) if rest else 150
        assert verify(folder).problems == []
        assert len(numbers(folder)) >= told
        told = len(numbers(folder))
    writer = AuditWriter(folder, clock_ns=time.time_ns)
    writer.append([content(1)])
    writer.close()
    assert verify(folder).problems == []


def test_a_clock_that_goes_back_goes_on_in_the_same_file_and_is_told(tmp_path, clock, writer):
    """Into yesterday: days do not go backwards."""
    writer.append([content(0)])
    clock.ns -= DAY_NS
    writer.append([content(1)])
    clock.ns += 3 * DAY_NS
    writer.append([content(2)])
    assert kinds(tmp_path / "trail") == ["day", "request", WENT_BACK, "request", "day", "request"]
    assert next(one for one in said(tmp_path / "trail") if one["kind"] == WENT_BACK)["seconds"] == 86_400
    assert days_in(tmp_path / "trail") == ["2026-11-25", "2026-11-27"]
    assert verify(tmp_path / "trail").problems == []


def test_a_clock_that_went_back_before_a_restart_does_not_open_a_day_again(trail):
    """The day that it says has its anchor already."""
    append_to(trail, [content(100)], Clock(NOON))
    assert days_in(trail) == list(DAYS)
    assert verify(trail).problems == []


def test_a_day_that_is_over_is_not_opened_again_after_a_kill(tmp_path):
    """Killed after the anchor, before the next day's file; then the clock went back."""
    write_days(tmp_path / "long", days=2)
    write_days(tmp_path / "trail", days=1)
    anchor = (tmp_path / "long" / ANCHORS).read_bytes()
    (tmp_path / "trail" / ANCHORS).write_bytes(anchor)
    append_to(tmp_path / "trail", [content(100)], Clock(NOON))
    assert days_in(tmp_path / "trail") == list(DAYS[:2])
    assert verify(tmp_path / "trail").problems == []


def test_a_full_disk_is_one_clear_line_and_nothing_is_lost_once_there_is_room(trail):
    """What was half written is taken back at once, so an hour of tries leaves nothing to tell."""
    clock = Clock(NOON + 2 * DAY_NS)
    path = trail / file_name(DAYS[2])
    whole = path.read_bytes()
    untold: tuple[object, ...] = ()
    for _ in range(20):
        writer = opened(trail, clock, untold=untold)
        with full_disk(len(whole) + 700), pytest.raises(AuditError, match="File too large; nothing is lost"):
            writer.append([content(number) for number in (100, 101)])
        untold = writer.untold
        assert path.read_bytes() == whole
    append_to(trail, [content(number) for number in (100, 101)], clock, untold=untold)
    assert numbers(trail) == [*range(12), 100, 101]
    assert kinds(trail).count("day") + len(numbers(trail)) == len(kinds(trail))
    assert verify(trail).problems == []


@pytest.mark.parametrize("room", [100, 2_000])
def test_a_disk_that_is_full_at_midnight_leaves_no_part_of_an_anchor_or_a_day(trail, room):
    """It fills up within the anchor, or after it within the new day's file."""
    clock, size = Clock(NOON + 3 * DAY_NS), (trail / ANCHORS).stat().st_size
    for _ in range(3):
        writer = opened(trail, clock)
        with full_disk(size + room), pytest.raises(AuditError, match="File too large"):
            writer.append([content(number) for number in range(100, 110)])
        assert read_anchors(trail, ()).rest == b""
        assert days_in(trail) == list(DAYS) or (trail / "2026-11-28.audit").read_bytes() == b""
    append_to(trail, [content(100)], clock)
    assert kinds(trail)[-3:] == ["request", "day", "request"]
    assert len(kinds(trail)) == 17
    assert verify(trail).problems == []


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    """Where a file is in its place."""
    (tmp_path / "trail").write_text("")
    with pytest.raises(AuditError, match=r"audit trail .*trail: .*exists"):
        opened(tmp_path / "trail")


@pytest.mark.parametrize("name", [file_name(DAYS[2]), ANCHORS, HEAD])
def test_nothing_is_written_after_what_was_altered(trail, name):
    """The writer would make its own of what somebody changed."""
    data = bytearray((trail / name).read_bytes())
    data[len(data) // 2] ^= 1
    (trail / name).write_bytes(data)
    with pytest.raises(AuditError, match="nothing is written after it"):
        opened(trail)


def test_nothing_is_written_after_a_head_that_is_an_anchor(trail):
    """And the folder is let go of: the next writer is told the same."""
    (trail / HEAD).write_bytes((trail / ANCHORS).read_bytes().splitlines(keepends=True)[0])
    for _ in range(2):
        with pytest.raises(AuditError, match="head says something else than it has to; nothing is written after it"):
            opened(trail)


def test_nothing_is_written_after_a_day_that_was_cut_off_or_a_head_that_is_gone(trail):
    """What was acknowledged has to be there."""
    path = trail / file_name(DAYS[2])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(AuditError, match="ends before record 15"):
        opened(trail)
    (trail / HEAD).unlink()
    with pytest.raises(AuditError, match="head is gone"):
        opened(trail)


def test_a_signed_trail_is_not_gone_on_with_without_its_key(tmp_path):
    """Unsigned anchors after signed ones would look like a forger's."""
    write_days(tmp_path / "trail", keys=(KEY,))
    with pytest.raises(AuditError, match=r"is signed, and there is no audit\.key_file"):
        opened(tmp_path / "trail")
    opened(tmp_path / "trail", keys=(b"a new key, put before the old", KEY)).close()
    assert verify(tmp_path / "trail", keys=(b"a new key, put before the old", KEY)).problems == []


class TestRetention:
    """Whole days go, and the chain stays."""

    def test_days_go_and_their_anchors_stay(self, trail):
        """What is left verifies from the anchors of what is gone."""
        writer = opened(trail, Clock(NOON + 2 * DAY_NS))
        assert writer.remove_before(DAYS[2]) == 2
        assert writer.remove_before(DAYS[2]) == 0
        writer.append([content(100)])
        writer.close()
        assert days_in(trail) == [DAYS[2]]
        seen = verify(trail)
        assert (seen.problems, seen.removed, seen.last) == ([], DAYS[1], 16)
        tombstone = read_anchors(trail, ()).lines[-1].content
        assert (tombstone["kind"], tombstone["days"], tombstone["records"]) == ("removed", 2, 10)

    def test_the_day_that_is_open_stays(self, trail):
        """However old it is."""
        writer = opened(trail, Clock(NOON + 2 * DAY_NS))
        assert writer.remove_before("2030-01-01") == 2
        writer.close()
        assert days_in(trail) == [DAYS[2]]

    def test_a_kill_between_saying_and_removing_is_completed(self, trail, tmp_path):
        """The files are there until the next start, and that is no problem."""
        shutil.copytree(trail, tmp_path / "before")
        writer = opened(trail, Clock(NOON + 2 * DAY_NS))
        writer.remove_before(DAYS[1])
        writer.close()
        shutil.copy(tmp_path / "before" / file_name(DAYS[0]), trail)
        assert verify(trail).problems == []
        opened(trail, Clock(NOON + 2 * DAY_NS)).close()
        assert days_in(trail) == list(DAYS[1:])

    def test_a_day_that_is_deleted_without_it_being_said_is_found(self, trail):
        """Only a signed or kept tombstone excuses a file's absence."""
        writer = opened(trail, Clock(NOON + 2 * DAY_NS))
        writer.remove_before(DAYS[1])
        writer.close()
        (trail / file_name(DAYS[1])).unlink()
        assert [problem.file for problem in verify(trail).problems] == [file_name(DAYS[1])]

    def test_a_trail_of_nothing_but_anchors_goes_on(self, tmp_path):
        """Killed at midnight, and started again after retention had removed everything."""
        write_days(tmp_path / "long", days=3, keys=(KEY,))
        folder = tmp_path / "long"
        writer = opened(folder, Clock(NOON + 9 * DAY_NS), keys=(KEY,))
        writer.append([content(50)])
        assert writer.remove_before("2030-01-01") == 3
        writer.close()
        assert verify(folder, keys=(KEY,)).problems == []
        assert days_in(folder) == ["2026-12-04"]


def test_a_clock_that_was_set_back_while_nobody_wrote_is_told(tmp_path):
    """The head says when the last one wrote; the time after it is the clock's again."""
    folder, clock = tmp_path / "trail", Clock()
    for _ in range(3):
        append_to(folder, [content(0, clock.ns)], clock)
        clock.ns -= 30 * SECOND if clock.ns == NOON else 400 * DAY_NS
    assert kinds(folder) == ["day", "request", "request", WENT_BACK, "request"]
    told = next(one for one in said(folder) if one["kind"] == WENT_BACK)
    assert 400 * 86_400 - 60 <= told["seconds"] <= 400 * 86_400 + 60
    assert verify(folder).problems == []


def test_retention_tells_of_a_clock_that_was_set_back_before_it_removes(trail):
    """It may be what is written first."""
    writer = opened(trail, Clock(NOON + DAY_NS))
    assert writer.remove_before(DAYS[1]) == 1
    writer.close()
    assert kinds(trail)[-1] == WENT_BACK
    assert verify(trail).problems == []


def test_nothing_is_removed_where_a_clock_that_was_far_ahead_says_what_is_old(trail):
    """Set right before the removal is written: no opening would take one of days that are not over."""
    writer = opened(trail, Clock(NOON))
    assert writer.remove_before("2030-01-01") == 0
    writer.append([content(100)])
    writer.close()
    opened(trail, Clock(NOON + 2 * DAY_NS)).close()
    assert days_in(trail) == list(DAYS)
    assert verify(trail).problems == []
