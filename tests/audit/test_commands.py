"""The commands of the trail: what they print, what they end with, and that the service writes one."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.alerts.real_parts import free_port
from tests.audit.trails import DAY_NS, DAYS, KEY, NOON, Clock, append_to, content, opened, said, write_days
from tests.cli.commands import farthing, one_line
from tests.ledger.booked import fill
from tests.service.running import Serve, wait_until

from farthing.audit.chain import HEAD, file_name
from farthing.audit.export import export
from farthing.audit.verify import verify
from farthing.cli import audit as cli
from farthing.domain.errors import AuditError, ConfigError, LedgerError
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger


@pytest.fixture
def folder(tmp_path):
    """A folder with a signed trail and its settings."""
    write_days(tmp_path / "trail", keys=(KEY,))
    (tmp_path / "audit.key").write_bytes(KEY + b"\n")
    (tmp_path / "farthing.yaml").write_text("audit:\n  dir: trail\n  key_file: audit.key\n")
    return tmp_path


def test_a_whole_trail_is_green_and_an_altered_one_names_the_place(folder):
    """Exit status 1, the place on standard error too."""
    ran = farthing("audit", "verify", cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    assert "15 records of 3 days read, hashes and signatures checked, 0 problems." in ran.out
    path = folder / "trail" / file_name(DAYS[2])
    path.write_bytes(path.read_bytes().replace(b"acme", b"acne", 1))
    ran = farthing("audit", "verify", "--output", "json", cwd=folder)
    place = (
        f"{file_name(DAYS[2])}:2: record 12: was altered: its hash is not that of its content and the record before it"
    )
    assert one_line(ran, 1) == f"audit trail does not verify: {place}"
    [row] = json.loads(ran.out)["rows"]
    assert (row["file"], row["line"], row["record"]) == (file_name(DAYS[2]), "2", "12")
    assert farthing("audit", "verify", "--until", DAYS[1], cwd=folder).code == 0


def test_what_anchors_prints_is_what_verify_compares_with(folder):
    """Kept elsewhere, it finds what everything in the folder hides."""
    kept = farthing("audit", "anchors", cwd=folder)
    assert (kept.code, kept.out.count("\n")) == (0, 3)
    (folder / "kept.txt").write_text(kept.out)
    assert farthing("audit", "verify", "--anchors", "kept.txt", cwd=folder).code == 0
    shutil.rmtree(folder / "trail")
    write_days(folder / "trail", keys=(KEY,), days=2)
    assert farthing("audit", "verify", cwd=folder).code == 0
    assert "kept elsewhere" in one_line(farthing("audit", "verify", "--anchors", "kept.txt", cwd=folder), 1)
    (folder / "kept.txt").write_text(kept.out.replace("records", "recordz"))
    ran = farthing("audit", "verify", "--anchors", "kept.txt", cwd=folder)
    assert "is not what `farthing audit anchors` prints" in one_line(ran, AuditError.exit_code)


def test_a_trail_is_compared_with_the_ledger_of_the_settings(folder):
    """Which has none of its requests, and is not made where there is none."""
    ran = farthing("audit", "verify", "--ledger", cwd=folder)
    assert "there is none" in one_line(ran, LedgerError.exit_code)
    (folder / ".farthing").mkdir()
    with Ledger.open(f"sqlite:///{folder}/.farthing/ledger.db"):
        pass
    ran = farthing("audit", "verify", "--ledger", cwd=folder)
    said = "ledger: record 2: 12 requests of boot boot are in the trail, and the ledger has no such boot"
    assert one_line(ran, 1) == f"audit trail does not verify: {said}"


def test_a_verification_that_read_nothing_says_so(folder):
    """The days that were asked for are not there."""
    ran = farthing("audit", "verify", "--until", "2020-01-01", cwd=folder)
    assert ran.code == 0
    assert "No record was read" in ran.out


def test_a_name_does_not_reach_the_terminal_with_its_control_characters(tmp_path):
    """A sender chose it, and could colour the screen or make up lines."""
    append_to(tmp_path / "trail", [content(1, boot="\x1b[31mred\nfarthing: 0 problems")])
    (tmp_path / "farthing.yaml").write_text(f"ledger: sqlite:///{tmp_path}/ledger.db\naudit:\n  dir: trail\n")
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db"):
        pass
    ran = farthing("audit", "verify", "--ledger", cwd=tmp_path)
    assert "1 requests of boot \ufffd[31mred\ufffdfarthing: 0 problems are in the trail" in one_line(ran, 1)
    assert "\x1b" not in ran.out


def test_days_before_an_adoption_are_counted(folder):
    """An export says how many of its days have no signature of their own."""
    write_days(folder / "adopted", days=2)
    opened(folder / "adopted", Clock(NOON + 2 * DAY_NS), keys=(KEY,), adopt=True).append([])
    export(folder / "adopted", folder / "a.csv", "csv", since=DAYS[0], until=DAYS[2])
    ran = farthing("audit", "check-export", "a.csv", cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    assert "signatures of 2 days checked; 1 days are not signed (before adoption)" in ran.out


def test_what_was_kept_elsewhere_may_come_through_a_pipe_and_not_without_end(folder):
    """It is the user's own, and read no further than anything that was printed."""
    kept = farthing("audit", "anchors", cwd=folder).out
    read, write = os.pipe()
    os.write(write, kept.encode("ascii"))
    os.close(write)
    assert cli._kept(Path(f"/proc/self/fd/{read}")) is not None
    os.close(read)
    with pytest.raises(AuditError, match="is larger than any of a trail's"):
        cli._kept(Path("/dev/zero"))


def test_an_export_is_checked_without_the_trail(folder):
    """On the auditor's own machine."""
    ran = farthing("audit", "export", "acme.csv", "--from", DAYS[0], "--to", DAYS[1], "--tenant", "acme", cwd=folder)
    assert ran.code == 0
    assert len(list(csv.reader((folder / "acme.csv").open()))) == 5
    shutil.rmtree(folder / "trail")
    (folder / "farthing.yaml").unlink()
    ran = farthing("audit", "check-export", "acme.csv", cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    assert f"4 records among 10, 2 days from {DAYS[0]} to {DAYS[1]}; no signature checked" in ran.out
    assert "the proof is only of itself" in ran.out
    (folder / "acme.csv").write_text((folder / "acme.csv").read_text().replace("3000", "2000"))
    assert "is not as it was exported" in one_line(
        farthing("audit", "check-export", "acme.csv", cwd=folder), AuditError.exit_code
    )


def test_an_export_is_compared_with_what_was_kept_elsewhere(folder):
    """And it is said of how many days that says nothing."""
    write_days(folder / "earlier", days=1, keys=(KEY,))
    (folder / "kept.txt").write_bytes((folder / "earlier" / HEAD).read_bytes())
    export(folder / "trail", folder / "a.jsonl", "jsonl", since=DAYS[0], until=DAYS[2])
    export(folder / "trail", folder / "b.jsonl", "jsonl", since=DAYS[1], until=DAYS[2])
    ran = farthing("audit", "check-export", "a.jsonl", cwd=folder)
    assert "signatures of 3 days checked\nnot compared with anchors that were kept elsewhere" in ran.out
    ran = farthing("audit", "check-export", "a.jsonl", "--anchors", "kept.txt", cwd=folder)
    said = "1 days compared with anchors that were kept elsewhere; kept.txt says nothing of 2 others"
    assert (ran.code, ran.out.splitlines()[-1]) == (0, said)
    ran = farthing("audit", "check-export", "b.jsonl", "--anchors", "kept.txt", cwd=folder)
    assert "says nothing of b.jsonl" in one_line(ran, AuditError.exit_code)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("verify", "--dir", "nowhere"), "give its folder"),
        (("verify", "--anchors", "nowhere"), "there is no such file"),
        (("verify", "--since", "yesterday"), "is no UTC date"),
        (("verify", "--since", "2026-13-45"), "is no UTC date"),
        (("anchors", "--dir", "nowhere"), "is not whole"),
        (("export", "farthing.csv", "--from", "1", "--to", "2"), "is no UTC date"),
        (("check-export", "nowhere.csv"), "cannot be read"),
        (("check-export", "nowhere.csv", "--anchors", "nowhere"), "there is no such file"),
    ],
)
def test_a_mistake_is_one_clear_line(folder, arguments, words):
    """That names what to give instead."""
    assert words in one_line(farthing("audit", *arguments, cwd=folder), AuditError.exit_code)


def test_without_settings_for_it_there_is_no_trail(tmp_path):
    """And it is said which setting that is."""
    (tmp_path / "farthing.yaml").write_text("")
    assert "audit.dir is not set" in one_line(farthing("audit", "verify", cwd=tmp_path), AuditError.exit_code)


def test_a_key_that_is_too_short_is_refused(folder):
    """Before anything is read."""
    (folder / "audit.key").write_text("short\n")
    assert "openssl rand" in one_line(farthing("audit", "verify", cwd=folder), ConfigError.exit_code)


def test_an_export_does_not_replace_a_file(folder):
    """Evidence is not written over."""
    (folder / "all.jsonl").write_text("mine")
    ran = farthing("audit", "export", "all.jsonl", "--from", DAYS[0], "--to", DAYS[1], cwd=folder)
    assert "is there already" in one_line(ran, AuditError.exit_code)


def test_the_service_writes_the_trail_through_a_kill(tmp_path):
    """kill -9 as soon as there is something; nothing is doubled, and `/metrics` tells."""
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        fill(ledger)
        requests = ledger.select(sa.select(sa.func.count()).select_from(t.requests))[0][0]
    trail = tmp_path / "trail"
    (tmp_path / "farthing.yaml").write_text(
        f"ledger: sqlite:///{tmp_path}/ledger.db\naudit:\n  dir: {trail}\ngpus:\n  nvml: off\n"
    )
    serve = Serve(tmp_path / "farthing.yaml", free_port(), tmp_path / "log")

    def written():
        return sum(one["kind"] == "request" for one in said(trail)) if trail.exists() else 0

    def last():
        return f"farthing_audit_records_total {said(trail)[-1]['n']}.0"

    try:
        serve.start()
        wait_until(lambda: written() > 0, 20, "the first record")
        serve.kill()
        assert verify(trail).problems == []
        serve.start()
        serve.wait_ready()
        wait_until(lambda: written() == requests, 20, "the last record")
        # of now each time: the end of a boot is written after its last request
        wait_until(lambda: last() in serve.get("/metrics").text, 20, "the metric")
        assert "farthing_audit_up 1.0" in serve.get("/metrics").text
        assert serve.stop() == 0
    finally:
        serve.close()
    ran = farthing("audit", "verify", "--ledger", cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert f"{requests} requests that ended since" in ran.out.replace("\n", " ")
    keys = [(one["boot"], one["process"], one["sequence"]) for one in said(trail) if one["kind"] == "request"]
    assert len(keys) == len(set(keys)) == requests
    assert said(trail)[-1]["kind"] == "audit_closed"
    assert verify(trail).problems == []
