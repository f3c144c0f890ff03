"""What a writer makes of what it finds: a kill's remains are taken up and told, a forger's are not made its own."""

import errno
import json
import shutil

import pytest
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
    line_after,
    opened,
    said,
    write_days,
)
from tests.cli.commands import farthing, one_line

from farthing.audit.chain import ANCHORS, HEAD, file_name
from farthing.audit.reading import read_anchors
from farthing.audit.verify import verify
from farthing.audit.writer import ADOPTED, BEYOND_HEAD, CUT
from farthing.domain.errors import AuditError


def raising(error):
    """Something that raises an error, whatever it is called with."""

    def act(*_):
        raise error

    return act


def put_in(path, number=666):
    """A whole line that goes on after the last one of a day's file, as anybody can make it."""
    last = path.read_bytes().splitlines()[-1]
    return line_after(last[:64].decode(), int(json.loads(last[65:])["n"]) + 1, content(number))


@pytest.mark.parametrize("days_later", [0, 1])
def test_records_that_nobody_acknowledged_are_told_before_anything_else_is_written(tmp_path, days_later):
    """A kill leaves such, and so does somebody who writes to the folder: they stay, and an auditor sees them."""
    folder, clock = tmp_path / "trail", Clock(NOON + days_later * DAY_NS)
    write_days(folder, days=1, keys=(KEY,))
    path = folder / file_name(DAYS[0])
    for number in (666, 667):
        with path.open("ab") as file:
            file.write(put_in(path, number))
    for _ in range(2):
        # an opening that does not come to writing does not make them its own
        opened(folder, clock, keys=(KEY,)).close()
    append_to(folder, [content(100)], clock, keys=(KEY,))
    [told] = [one for one in said(folder) if one["kind"] == BEYOND_HEAD]
    assert (told["n"], told["records"], told["first_n"], told["last_n"]) == (8, 2, 6, 7)
    assert json.loads(path.read_bytes().splitlines()[-1 if days_later else -2][65:]) == told
    opened(folder, clock, keys=(KEY,)).close()
    assert beyond(folder) == [2]
    assert verify(folder, keys=(KEY,)).problems == []


def test_retention_does_not_make_records_its_own_that_nobody_acknowledged(trail):
    """It writes the head too."""
    path = trail / file_name(DAYS[2])
    with path.open("ab") as file:
        file.write(put_in(path))
    writer = opened(trail, Clock(NOON + 2 * DAY_NS))
    writer.remove_before(DAYS[1])
    writer.close()
    assert beyond(trail) == [1]


def test_nothing_is_written_after_a_day_without_an_anchor(tmp_path):
    """The writer anchors a day before it begins the next, whatever the head says."""
    write_days(tmp_path / "long", days=2)
    opened(tmp_path / "trail").close()
    for day in DAYS[:2]:
        shutil.copy(tmp_path / "long" / file_name(day), tmp_path / "trail")
    with pytest.raises(AuditError, match=rf"{DAYS[0]}\.audit has no anchor, and {DAYS[1]}\.audit comes after it"):
        opened(tmp_path / "trail")


def test_nothing_is_written_after_a_day_that_goes_on_behind_its_anchor(tmp_path):
    """Killed after the anchor, the head still names the day."""
    write_days(tmp_path / "long", days=2)
    write_days(tmp_path / "trail", days=1)
    path = tmp_path / "trail" / file_name(DAYS[0])
    shutil.copy(tmp_path / "long" / ANCHORS, path.parent)
    opened(path.parent).close()
    whole = path.read_bytes()
    for rest in (b"an unfinished", put_in(path)):
        path.write_bytes(whole + rest)
        with pytest.raises(AuditError, match=rf"{path.name} does not end as its anchor says"):
            opened(path.parent)


def test_what_is_unfinished_stays_until_it_can_be_told(trail):
    """An opening that fails cuts nothing: what was cut and not told would be gone without a word."""
    path, clock = trail / file_name(DAYS[2]), Clock(NOON + 2 * DAY_NS)
    with (trail / ANCHORS).open("ab") as anchors, path.open("ab") as day:
        anchors.write(b"0123")
        day.write(b"01234567")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"acme", b"acne", 1))
    with pytest.raises(AuditError, match="was altered"):
        opened(trail, clock)
    path.write_bytes(whole)
    opened(trail, clock).close()
    append_to(trail, [content(100)], clock)
    assert [(one["file"], one["bytes"]) for one in said(trail) if one["kind"] == CUT] == [
        (ANCHORS, 4),
        (path.name, 8),
    ]
    assert verify(trail).problems == []


def test_what_a_kill_left_on_a_full_disk_is_told_once(trail):
    """However often telling it failed; a record that was whole is not taken back."""
    clock = Clock(NOON + 2 * DAY_NS)
    path = trail / file_name(DAYS[2])
    with path.open("ab") as file:
        whole = put_in(path)
        file.write(whole + b"an unfinished")
    size = path.stat().st_size - len(b"an unfinished")
    untold: tuple[object, ...] = ()
    for _ in range(20):
        writer = opened(trail, clock, untold=untold)
        with full_disk(size + 100), pytest.raises(AuditError, match="File too large"):
            writer.append([content(100)])
        untold = writer.untold
    assert len(untold) == 2
    append_to(trail, [content(100)], clock, untold=untold)
    assert set(kinds(trail)[-3:-1]) == {BEYOND_HEAD, CUT}
    assert (kinds(trail).count(CUT), beyond(trail)) == (1, [1])
    assert verify(trail).problems == []


def test_what_the_head_names_is_not_told_again_whatever_fails_after_that(trail, monkeypatch):
    """The folder cannot be synced, once."""
    clock = Clock(NOON + 2 * DAY_NS)
    with (trail / file_name(DAYS[2])).open("ab") as file:
        file.write(b"an unfinished")

    writer = opened(trail, clock)
    with monkeypatch.context() as broken:
        broken.setattr("farthing.audit.disk.Disk.sync_folder", raising(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(AuditError, match="Input/output error"):
            writer.append([content(100)])
    append_to(trail, [content(100)], clock, untold=writer.untold)
    assert kinds(trail)[-2:] == [CUT, "request"]
    assert kinds(trail).count(CUT) == 1
    assert verify(trail).problems == []


@pytest.mark.parametrize("clock_day", [2, 3])
def test_an_unsigned_trail_is_signed_only_when_it_is_adopted(trail, clock_day):
    """It may be a forger's, put in a signed one's place. The first signature holds all that is before it."""
    before = sorted((path.name, path.read_bytes()) for path in trail.glob("*[!k]"))
    with pytest.raises(AuditError, match=r"is not signed, and there is an audit\.key_file; .*farthing audit adopt"):
        opened(trail, keys=(KEY,))
    assert sorted((path.name, path.read_bytes()) for path in trail.glob("*[!k]")) == before
    clock = Clock(NOON + clock_day * DAY_NS)
    append_to(trail, (), clock, keys=(KEY,), adopt=True)
    [told] = [one for one in said(trail) if one["kind"] == ADOPTED]
    assert (told["n"], told["unsigned_through"]) == (16, 15)
    with pytest.raises(AuditError, match="is signed already"):
        opened(trail, clock, keys=(KEY,), adopt=True)
    for day in (3, 4):
        append_to(trail, [content(100 + day)], Clock(NOON + day * DAY_NS), keys=(KEY,))
    seen = verify(trail, keys=(KEY,))
    assert (seen.problems, seen.signed) == ([], True)
    assert [one.is_signed for one in read_anchors(trail, ()).lines] == [False, False, True, True]


def test_an_unsigned_trail_that_was_stopped_at_midnight_is_adopted(tmp_path, monkeypatch):
    """Its last day has an anchor, and its head does not know that yet."""
    folder = tmp_path / "trail"
    write_days(folder, days=1)
    writer = opened(folder, Clock(NOON + DAY_NS))
    with monkeypatch.context() as stopped:
        stopped.setattr("farthing.audit.writer.os.fchmod", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            writer.append([content(100)])
    writer.close()
    with pytest.raises(AuditError, match="farthing audit adopt"):
        opened(folder, Clock(NOON + DAY_NS), keys=(KEY,))
    for adopt in (True, False):
        append_to(folder, [content(101)], Clock(NOON + DAY_NS), keys=(KEY,), adopt=adopt)
    assert kinds(folder).count(ADOPTED) == 1
    assert verify(folder, keys=(KEY,)).problems == []


def test_an_anchor_that_is_not_signed_is_not_taken_up_behind_a_signed_head(tmp_path):
    """All before it are the head's, signed or adopted; one after it can be anybody's."""
    write_days(tmp_path / "long", days=2)
    opened(tmp_path / "trail", keys=(KEY,)).close()
    for name in (ANCHORS, *map(file_name, DAYS[:2])):
        shutil.copy(tmp_path / "long" / name, tmp_path / "trail")
    for adopt in (False, True):
        with pytest.raises(AuditError, match="anchors:1 is not signed" if not adopt else "is signed already"):
            opened(tmp_path / "trail", keys=(KEY,), adopt=adopt)


def test_a_signed_trail_whose_head_is_not_is_not_adopted(tmp_path):
    """Somebody put it there."""
    write_days(tmp_path / "trail", keys=(KEY,))
    write_days(tmp_path / "other")
    shutil.copy(tmp_path / "other" / HEAD, tmp_path / "trail")
    for adopt in (False, True):
        with pytest.raises(AuditError, match="head is not signed, and anchors is; nothing is written after it"):
            opened(tmp_path / "trail", keys=(KEY,), adopt=adopt)


def test_who_sets_a_key_later_is_led_to_the_command_that_signs(trail):
    """Which signs nothing that does not verify, and nothing without a key."""
    folder, path = trail.parent, trail / file_name(DAYS[0])
    (folder / "farthing.yaml").write_text("audit:\n  dir: trail\n")
    assert "audit.key_file is not set" in one_line(farthing("audit", "adopt", cwd=folder), AuditError.exit_code)
    (folder / "audit.key").write_bytes(KEY)
    (folder / "farthing.yaml").write_text("audit:\n  dir: trail\n  key_file: audit.key\n")
    nowhere = farthing("audit", "adopt", "--dir", "nowhere", cwd=folder)
    assert "give its folder" in one_line(nowhere, AuditError.exit_code)
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole.replace(b"acme", b"acne", 1))
    refused = one_line(farthing("audit", "adopt", cwd=folder), AuditError.exit_code)
    assert f"does not verify: {path.name}:2: record 2: was altered" in refused
    path.write_bytes(whole)
    ran = farthing("audit", "adopt", cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    assert "is signed from now on; 15 records were written without a key" in ran.out
    assert verify(trail, keys=(KEY,)).problems == []
    assert "is signed already" in one_line(farthing("audit", "adopt", cwd=folder), AuditError.exit_code)
