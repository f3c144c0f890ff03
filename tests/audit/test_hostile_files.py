"""Files that somebody laid into a trail's folder, or gave as an export: never endless, never too large to be read."""

import os
import shutil
import subprocess
import sys

import pytest
from tests.audit.trails import DAYS

from farthing.audit import reading
from farthing.audit.chain import ANCHORS, HEAD, file_name
from farthing.audit.export import export, proof_of
from farthing.audit.proof import check_export
from farthing.audit.reading import read_anchors, records
from farthing.audit.verify import verify
from farthing.domain.errors import AuditError

SECONDS = 30


def told(run):
    """What is told of a folder that may not be read as a trail: one clear line, or problems."""
    try:
        return " ".join(str(one) for one in run())
    except AuditError as error:
        return str(error)


def ran(code, *paths):
    """What a process of its own prints, killed where it waits for ever."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    return done.stdout


VERIFY = """
import sys
from pathlib import Path
from farthing.audit.verify import verify
from farthing.domain.errors import AuditError
for folder in sys.argv[1:]:
    try:
        print(*verify(Path(folder)).problems)
    except AuditError as error:
        print(error)
"""
CHECK = VERIFY.replace("audit.verify import verify", "audit.proof import check_export").replace(
    "print(*verify(Path(folder)).problems)", "print(check_export(Path(folder)))"
)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(trail, tmp_path):
    """Head, anchors, a day's, an export's or its proof's: nobody may ever write into it."""
    folders = []
    for number, name in enumerate((HEAD, ANCHORS, file_name(DAYS[0]), "2026-01-01.audit")):
        folders.append(tmp_path / f"trail-{number}")
        shutil.copytree(trail, folders[-1])
        (folders[-1] / name).unlink(missing_ok=True)
        os.mkfifo(folders[-1] / name)
    lines = ran(VERIFY, *folders).splitlines()
    assert ["is no regular file" in line for line in lines] == [True] * 4
    for name in ("a.csv", "b.csv"):
        export(trail, tmp_path / name, "csv", since=DAYS[0], until=DAYS[0])
    for path in (tmp_path / "a.csv", proof_of(tmp_path / "b.csv")):
        path.unlink()
        os.mkfifo(path)
    lines = ran(CHECK, tmp_path / "a.csv", tmp_path / "b.csv").splitlines()
    assert ["is no regular file" in line for line in lines] == [True] * 2


@pytest.mark.parametrize("name", [HEAD, ANCHORS])
def test_a_file_larger_than_any_of_a_trail_is_not_read(trail, name):
    """Sparse, it takes no room on the disk, and would take all memory."""
    os.truncate(trail / name, 2**40)
    assert "is larger than any of a trail's" in told(lambda: verify(trail).problems)


def test_a_line_without_an_end_is_read_in_parts(trail, tmp_path, monkeypatch):
    """A day's file of one line, as long as a disk, is a problem, and nothing is taken for a record's."""
    monkeypatch.setattr(reading, "LONGEST", 4_096)
    path = trail / file_name(DAYS[0])
    path.chmod(0o600)
    path.write_bytes(b"")
    os.truncate(path, 2**40)
    seen = verify(trail)
    assert {one.file for one in seen.problems} == {path.name}
    assert "is longer than" in told(lambda: records(trail))
    with pytest.raises(AuditError, match="was altered"):
        export(trail, tmp_path / "a.csv", "csv", since=DAYS[0], until=DAYS[2])


def test_an_export_of_one_endless_line_is_read_in_parts(trail, tmp_path, monkeypatch):
    """As its proof."""
    monkeypatch.setattr(reading, "LONGEST", 4_096)
    for place, form in enumerate(("csv", "jsonl", "csv")):
        file = tmp_path / f"{place}.{form}"
        export(trail, file, form, since=DAYS[0], until=DAYS[2])
        os.truncate(file if place < 2 else proof_of(file), 2**40)
        with pytest.raises(AuditError):
            check_export(file)


def test_of_many_lines_that_are_no_anchors_some_are_told(trail):
    """And the rest takes no memory."""
    (trail / ANCHORS).write_bytes(b"\n" * 100_000)
    assert len(read_anchors(trail, ()).wrong) <= 20
    assert verify(trail).problems
