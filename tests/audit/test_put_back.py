"""Records behind a head that was put back are told for good, and those that a service is writing are not."""

import time

import pytest
from tests.audit.trails import DAY_NS, DAYS, KEY, NOON, Clock, append_to, content, line_after, opened, said

from farthing.audit import verify as verifying
from farthing.audit.chain import HEAD, file_name
from farthing.audit.reading import read_head
from farthing.audit.verify import verify
from farthing.audit.writer import BEYOND_HEAD


def rewritten(folder, head, numbers):
    """Put an earlier head back, and requests of one's own in the place of what came after it that day."""
    (folder / HEAD).write_bytes(head)
    earlier, _ = read_head(folder, ())
    assert earlier is not None
    path = folder / file_name(DAYS[0])
    path.chmod(0o600)
    known = int(earlier.content["n"])
    lines = path.read_bytes().splitlines(keepends=True)[:known]
    for n, number in enumerate(numbers, start=known + 1):
        lines.append(line_after(lines[-1][:64].decode(), n, content(number, tenant="another")))
    path.write_bytes(b"".join(lines))


def test_a_day_written_anew_after_a_head_that_was_put_back_is_told_for_good(tmp_path):
    """Before the service takes it up and signs it, on that day, and when the day is over."""
    folder, clock = tmp_path / "trail", Clock()
    writer = opened(folder, clock, keys=(KEY,))
    writer.append([content(0)])
    morning = (folder / HEAD).read_bytes()
    writer.append([content(number) for number in range(1, 9)])
    writer.close()
    assert verify(folder, keys=(KEY,)).notes == []
    rewritten(folder, morning, range(20, 26))
    note = f"{file_name(DAYS[0])}: 6 records come after the last that {HEAD} names"
    assert verify(folder, keys=(KEY,)).notes == [note]
    for at_ns in (NOON, NOON + DAY_NS, NOON + 2 * DAY_NS):
        clock.ns = at_ns
        append_to(folder, [content(90)], clock, keys=(KEY,))
        seen = verify(folder, keys=(KEY,))
        assert seen.problems == []
        [note] = seen.notes
        assert note.startswith(f"{file_name(DAYS[0])}:9: record 9: ")
        assert "6 records, 3 to 8, " in note
    assert verify(folder, keys=(KEY,), since=DAYS[1]).notes == []


def test_of_many_such_records_some_are_told_and_the_others_are_counted(tmp_path, monkeypatch):
    """Whoever can write them cannot hide one among a million notes."""
    monkeypatch.setattr(verifying, "MOST", 3)
    folder = tmp_path / "trail"
    opened(folder).close()
    for number in range(5):
        writer = opened(folder)
        head = (folder / HEAD).read_bytes()
        writer.append([content(number)])
        writer.close()
        (folder / HEAD).write_bytes(head)
    append_to(folder, [])
    told = [one["n"] for one in said(folder) if one["kind"] == BEYOND_HEAD]
    assert len(told) == 5
    notes = verify(folder).notes
    assert [f"record {n}: " in note for n, note in zip(told[:3], notes, strict=False)] == [True] * 3
    assert notes[3:] == [f"{file_name(DAYS[0])}: 2 more such records, the last is record {told[-1]}"]


@pytest.mark.parametrize("name", ['"kind":"records_beyond_head"', '\\"kind":"records_beyond_head"'])
def test_a_sender_cannot_make_such_a_note(tmp_path, name):
    """What is in a name is no event."""
    append_to(tmp_path / "trail", [content(1, request_id=name, tenant=name)])
    assert verify(tmp_path / "trail").notes == []


def test_records_that_are_written_meanwhile_are_no_note(tmp_path, monkeypatch):
    """The head, read once more, names them."""
    folder = tmp_path / "trail"
    writer = opened(folder)
    writer.append([content(1)])

    def writing(name):
        monkeypatch.undo()
        writer.append([content(number) for number in range(2, 9)])
        return file_name(name)

    monkeypatch.setattr(verifying, "file_name", writing)
    seen = verify(folder)
    assert (seen.records, seen.problems, seen.notes) == (9, [], [])
    writer.close()


def test_records_whose_head_comes_a_moment_later_are_no_note(tmp_path, monkeypatch):
    """A writer syncs records before it names them."""
    folder = tmp_path / "trail"
    writer = opened(folder)
    before = (folder / HEAD).read_bytes()
    writer.append([content(1)])
    writer.close()
    after = (folder / HEAD).read_bytes()
    (folder / HEAD).write_bytes(before)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            (folder / HEAD).write_bytes(after)

    monkeypatch.setattr(time, "sleep", sleep)
    assert verify(folder).notes == []
    assert len(slept) == 2
