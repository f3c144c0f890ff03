"""The commands of the ledger: what they print, and what they end with."""

import csv
import io
import json
import shutil
from contextlib import closing

import pytest
import sqlalchemy as sa
from tests.cli.commands import farthing, one_line
from tests.ledger.booked import USER, close, fill, meddle

from farthing.domain.errors import ConfigError, LedgerError
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import CHECKS
from farthing.settings import RetentionSettings, parse_settings
from farthing_probe.attribution import pseudonym


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A ledger with a closed period, to be copied."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    fill(ledger, users=True)
    close(ledger)
    ledger.close()
    return path


@pytest.fixture
def folder(template, tmp_path):
    """A folder with a ledger of its own and its farthing.yaml."""
    shutil.copy(template, tmp_path / "ledger.db")
    (tmp_path / "farthing.yaml").write_text(f"ledger: sqlite:///{tmp_path}/ledger.db\n")
    return tmp_path


def _opened(folder, name="ledger.db"):
    return closing(Ledger.open(f"sqlite:///{folder}/{name}"))


def test_a_backup_is_made_restored_and_verified(folder):
    """What a person does before an upgrade, and after a disk was lost."""
    made = farthing("ledger", "backup", "a.zip", cwd=folder)
    assert (made.code, made.err) == (0, "")
    assert "rows of" in made.out
    restored = farthing(
        "ledger", "restore", "a.zip", "--ledger", f"sqlite:///{folder}/b.db", "--output", "json", cwd=folder
    )
    assert restored.code == 0, restored.err
    assert [row["ok"] for row in json.loads(restored.out)["rows"]] == ["yes"] * len(CHECKS)
    assert "restored" in restored.err
    again = farthing("ledger", "restore", "a.zip", "--ledger", f"sqlite:///{folder}/b.db", cwd=folder)
    assert "is not empty" in one_line(again, LedgerError.exit_code)


def test_a_backup_does_not_replace_another_unless_told_to(folder):
    """One line that says how."""
    (folder / "a.zip").write_text("mine")
    assert "--force" in one_line(farthing("ledger", "backup", "a.zip", cwd=folder), LedgerError.exit_code)
    assert farthing("ledger", "backup", "a.zip", "--force", cwd=folder).code == 0


def test_a_file_that_is_no_backup_is_one_clear_line(folder):
    """And nothing is made for it."""
    (folder / "a.zip").write_text("mine")
    ran = farthing("ledger", "restore", "a.zip", "--ledger", f"sqlite:///{folder}/b.db", cwd=folder)
    assert "cut off, or was never a backup" in one_line(ran, LedgerError.exit_code)
    assert not (folder / "b.db").exists()


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_verify_lists_every_check(folder, output):
    """Green, in every output."""
    ran = farthing("ledger", "verify", "--output", output, cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    for check in CHECKS:
        assert check.__name__ in ran.out
    if output == "csv":
        assert {row["ok"] for row in csv.DictReader(io.StringIO(ran.out))} == {"yes"}


def test_verify_ends_with_status_one_and_the_first_bad_row(folder):
    """So that a script that runs it at night knows."""
    with _opened(folder) as ledger:
        meddle(ledger, sa.update(t.journal).where(t.journal.c.id == 3).values(nano=t.journal.c.nano - 1))
    ran = farthing("ledger", "verify", cwd=folder)
    line = one_line(ran, 1)
    assert line.startswith("ledger does not verify: cost_hours_are_the_journals: cost_hours: hour ")
    assert line.endswith("differs from its rows by 1")
    assert "NO" in ran.out


@pytest.mark.parametrize("command", [("verify",), ("prune",), ("backup", "a.zip"), ("erase-user", "ada")])
def test_a_ledger_that_is_not_there_is_not_made(command, tmp_path):
    """A mistyped path must not verify as an empty ledger."""
    ran = farthing("ledger", *command, "--ledger", f"sqlite:///{tmp_path}/none.db", cwd=tmp_path)
    assert "there is none" in one_line(ran, LedgerError.exit_code)
    assert list(tmp_path.iterdir()) == []


def test_prune_goes_by_the_settings_retention(folder):
    """Rows that are to be kept for longer than anything is old stay."""
    with (folder / "farthing.yaml").open("a") as settings:
        settings.write("retention: {records_days: 10000, requests_days: 10000, windows_days: 10000}\n")
    ran = farthing("ledger", "prune", "--dry-run", "--output", "json", cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    shown = json.loads(ran.out)
    assert {row["table"] for row in shown["rows"]} <= {"journal"}
    with _opened(folder) as ledger:
        assert ledger.select(sa.select(sa.func.count()).select_from(t.records))[0][0] > 5_000


def test_prune_says_why_when_it_does_nothing(tmp_path):
    """An open ledger keeps everything."""
    with _opened(tmp_path) as ledger:
        fill(ledger)
    ran = farthing("ledger", "prune", "--ledger", f"sqlite:///{tmp_path}/ledger.db", cwd=tmp_path)
    assert ran.code == 0
    assert "no period was ever closed" in ran.out


def test_retention_is_in_whole_days(tmp_path):
    """Defaults, and a mistake that names its key."""
    assert RetentionSettings() == RetentionSettings(
        records_days=30, requests_days=90, windows_days=90, journal_days=400
    )
    with pytest.raises(ConfigError, match=r"f\.yaml:1: retention\.journal_days"):
        parse_settings("retention: {journal_days: 0}", "f.yaml")
    with pytest.raises(ConfigError, match=r"unknown key; known here: records_days, requests_days"):
        parse_settings("retention: {days: 3}", "f.yaml")


def test_a_user_is_erased_by_the_name_that_records_hold(folder):
    """And the ledger verifies as before."""
    ran = farthing("ledger", "erase-user", USER, cwd=folder)
    assert ran.code == 0
    assert "records that named the user" in ran.out
    assert USER not in ran.out + ran.err
    with _opened(folder) as ledger:
        lines = ledger.select(sa.select(t.records.c.line))
        assert not any(USER.encode() in row.line for row in lines)
    assert farthing("ledger", "verify", cwd=folder).code == 0


def test_a_user_is_erased_by_the_plain_name_where_the_salt_is_known(folder):
    """Given as a file, as the probe has it; the name itself stays out of the arguments when it is read from a file."""
    (folder / "salt").write_text("grains\n")
    with _opened(folder) as ledger:
        (row,) = ledger.select(sa.select(t.records).where(t.records.c.kind == "usage").limit(1))
        line = bytes(row.line).replace(b',"prompt_tokens"', b',"user":"%s","prompt_tokens"' % _stored("ada"), 1)
        meddle(ledger, sa.update(t.records).where(t.records.c.id == row.id).values(line=line))
    without = farthing("ledger", "erase-user", "ada", cwd=folder)
    assert without.out.endswith(": 0\n")
    assert "--salt-file" in without.err
    ran = farthing("ledger", "erase-user", "ada", "--salt-file", "salt", cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith(": 1\n")


def _stored(user):
    return pseudonym(user.encode(), b"grains").encode()
