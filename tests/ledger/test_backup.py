"""A backup holds a ledger as it was at one moment, restores it anywhere, and nothing that was altered is restored."""

import json
import threading
import zipfile

import pytest
import sqlalchemy as sa
from tests.ledger.booked import close, content, fill
from tests.service.books import raw_records

from farthing.domain.errors import LedgerError
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger.backup import back_up, restore
from farthing.ledger.database import bare_engine, migrate
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording

NOW = 1_796_000_000_000_000_000


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A SQLite ledger with something in every table that the books write; it is read only."""
    url = f"sqlite:///{tmp_path_factory.mktemp('source')}/ledger.db"
    ledger = Ledger.open(url)
    fill(ledger, users=True)
    close(ledger)
    yield ledger, url
    ledger.close()


@pytest.fixture(scope="module")
def file(source, tmp_path_factory):
    """Its backup."""
    path = tmp_path_factory.mktemp("backup") / "ledger.zip"
    back_up(source[1], path, made_ns=NOW)
    return path


def _opened(url):
    ledger = Ledger.open(url)
    found = content(ledger)
    ledger.close()
    return found


def test_a_backup_restores_every_row_into_either_database_and_back(source, file, ledger_url, tmp_path):
    """SQLite, into SQLite or PostgreSQL, and once more into SQLite: the same rows in every table."""
    expected = content(source[0])
    assert {name for name, rows in expected.items() if rows} >= {"records", "journal", "closings", "statements"}
    made = restore(ledger_url, file)
    assert _opened(ledger_url) == expected
    assert {table.name: table.rows for table in made.tables} == {name: len(rows) for name, rows in expected.items()}
    back = tmp_path / "back.zip"
    back_up(ledger_url, back, made_ns=NOW)
    restore(f"sqlite:///{tmp_path}/again.db", back)
    assert _opened(f"sqlite:///{tmp_path}/again.db") == expected


def test_a_restored_ledger_goes_on_where_the_other_stopped(file, ledger_url):
    """New records come after the restored ones, and the journal still refuses changes."""
    restore(ledger_url, file)
    ledger = Ledger.open(ledger_url)
    last = ledger.last_id()
    assert ledger.add([RawRecord(RecordKey("new", 0, 0), "usage", 1, b"{}")]) == 1
    assert ledger.last_id() == last + 1
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM journal"))
    ledger.close()


def test_a_backup_is_of_one_moment_while_records_come_in(ledger_url, tmp_path):
    """Whatever is written meanwhile: a record is in it only with all that were stored before."""
    ledger = Ledger.open(ledger_url)
    raw = raw_records(load_recording("h100-llama8b-vllm0.26"))
    ledger.add(raw[:2_500])
    # a posting writes both tables at once: a copy that sees one of them alone is not of one moment
    added = [RawRecord(RecordKey("later", 0, place), "usage", place, b"{}") for place in range(50)]

    def write(table, done, _total):
        if table == "records" and done and added:
            writer = threading.Thread(target=ledger.add, args=([added.pop()],))
            writer.start()
            writer.join()

    made = back_up(ledger_url, tmp_path / "a.zip", made_ns=NOW, progress=write)
    assert len(added) < 50
    assert ledger.last_id() > 2_500
    assert {table.name: table.rows for table in made.tables}["records"] == 2_500
    ledger.close()
    restore(f"sqlite:///{tmp_path}/copy.db", tmp_path / "a.zip")


def test_bytes_that_are_no_text_come_back_as_they_were(ledger_url, tmp_path):
    """The inbox keeps whatever bytes it was given."""
    ledger = Ledger.open(ledger_url)
    lines = [b"\xff\xfe\x00", b"", b'{"base64":"x"}', "\u00e9\n\u2028".encode(), b"\\x00\t\\N"]
    ledger.add([RawRecord(RecordKey("b", 0, place), "usage", place, line) for place, line in enumerate(lines)])
    ledger.close()
    back_up(ledger_url, tmp_path / "a.zip", made_ns=NOW)
    restore(f"sqlite:///{tmp_path}/copy.db", tmp_path / "a.zip")
    copy = Ledger.open(f"sqlite:///{tmp_path}/copy.db")
    assert [record.line for _, record in copy.records_after(0)] == lines
    copy.close()


def test_a_backup_of_an_older_schema_is_migrated_after_it_is_restored(ledger_url, tmp_path):
    """A ledger is backed up before an upgrade, as it is, and restored after it."""
    engine = bare_engine(ledger_url)
    migrate(engine, "0001")
    with engine.begin() as connection:
        boots = sa.Table("boots", sa.MetaData(), autoload_with=connection)
        values = {column.name: "b" if isinstance(column.type, sa.String) else 1 for column in boots.columns}
        connection.execute(sa.insert(boots), {**values, "closed_ns": None})
    engine.dispose()
    made = back_up(ledger_url, tmp_path / "old.zip", made_ns=NOW)
    assert made.revision == "0001"
    restore(f"sqlite:///{tmp_path}/copy.db", tmp_path / "old.zip")
    copy = Ledger.open(f"sqlite:///{tmp_path}/copy.db")
    assert [(boot.boot, boot.refused) for boot in copy.boots()] == [("b", 0)]
    copy.close()


def test_only_an_empty_ledger_is_restored_into(file, ledger_url):
    """Two ledgers in one would be neither; what is there stays."""
    ledger = Ledger.open(ledger_url)
    ledger.add([RawRecord(RecordKey("b", 0, 0), "usage", 0, b"{}")])
    with pytest.raises(LedgerError, match=r"is not empty \(table records has rows\)"):
        restore(ledger_url, file)
    assert [len(rows) for name, rows in content(ledger).items() if name in {"records", "journal"}] == [0, 1]
    ledger.close()


def test_an_existing_file_is_replaced_by_force_alone(source, tmp_path):
    """A backup is not lost to the next one's name."""
    path = tmp_path / "ledger.zip"
    path.write_text("precious")
    with pytest.raises(LedgerError, match="exists already"):
        back_up(source[1], path, made_ns=NOW)
    assert path.read_text() == "precious"
    back_up(source[1], path, made_ns=NOW, force=True)
    assert zipfile.is_zipfile(path)
    assert [found.name for found in tmp_path.iterdir()] == ["ledger.zip"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_backup_that_fails_leaves_nothing_behind(source, tmp_path):
    """Neither half a file nor a temporary one."""

    def stop(table, _done, _total):
        if table == "windows":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(source[1], tmp_path / "a.zip", made_ns=NOW, progress=stop)
    with pytest.raises(LedgerError, match="cannot be written"):
        back_up(source[1], tmp_path / "nowhere" / "a.zip", made_ns=NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_is_not_there_is_not_backed_up(tmp_path):
    """And none is made by asking for it."""
    with pytest.raises(LedgerError, match="there is none"):
        back_up(f"sqlite:///{tmp_path}/none.db", tmp_path / "a.zip", made_ns=NOW)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE journal (id INTEGER)"))
    engine.dispose()
    with pytest.raises(LedgerError, match="holds no ledger"):
        back_up(f"sqlite:///{tmp_path}/other.db", tmp_path / "a.zip", made_ns=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]


# ---- what is not whole and unchanged ------------------------------------------------------------------


def _altered(file, target, change, *, drop=(), add=None):
    """The backup with one member changed, in an archive that is whole in itself."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name not in drop:
                new.writestr(name, change(name, old.read(name)))
        for name, data in (add or {}).items():
            new.writestr(name, data)
    return target


def _refused(path, tmp_path):
    url = f"sqlite:///{tmp_path}/copy.db"
    with pytest.raises(LedgerError) as caught:
        restore(url, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert not (tmp_path / "copy.db").exists()
    return message


@pytest.mark.parametrize("table", ["records", "journal", "boots", "closings", "statement_lines"])
def test_one_altered_digit_in_any_table_is_refused_with_its_name(file, tmp_path, table):
    """Even where the archive's own checksums were made to agree."""

    def change(name, data):
        if name != f"tables/{table}.jsonl":
            return data
        place = next(place for place in range(len(data) // 2, len(data)) if data[place : place + 1].isdigit())
        digit = b"7" if data[place : place + 1] != b"7" else b"3"
        return data[:place] + digit + data[place + 1 :]

    message = _refused(_altered(file, tmp_path / "a.zip", change), tmp_path)
    assert f"table {table} is not what was backed up" in message


def test_a_row_that_is_missing_or_there_twice_is_refused(file, tmp_path):
    """The manifest counts them."""

    def without(name, data):
        return data.split(b"\n", 1)[1] if name == "tables/requests.jsonl" else data

    def twice(name, data):
        return data + data.split(b"\n")[0] + b"\n" if name == "tables/requests.jsonl" else data

    for change in (without, twice):
        assert "table requests has 58" in _refused(_altered(file, tmp_path / "a.zip", change), tmp_path)


def test_a_table_that_is_missing_or_unknown_is_refused(file, tmp_path):
    """Archive and manifest must name the same members."""
    path = _altered(file, tmp_path / "a.zip", lambda _, data: data, drop=("tables/fits.jsonl",))
    assert "disagree on tables/fits.jsonl" in _refused(path, tmp_path)
    path = _altered(file, tmp_path / "b.zip", lambda _, data: data, add={"tables/../../x": b""})
    assert "disagree on tables/../../x" in _refused(path, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 9, "does not read"),
        ("format", "cake", "does not read"),
        ("revision", "9999", "restore it with a newer one"),
        ("tables", None, "its manifest is damaged"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(file, tmp_path, key, value, message):
    """It says what it does not understand instead of guessing."""

    def change(name, data):
        return json.dumps({**json.loads(data), key: value}) if name == "manifest.json" else data

    assert message in _refused(_altered(file, tmp_path / "a.zip", change), tmp_path)


def test_a_backup_without_a_manifest_is_refused(file, tmp_path):
    """Any other archive is none."""
    path = _altered(file, tmp_path / "a.zip", lambda _, data: data, drop=("manifest.json",))
    assert "has no manifest" in _refused(path, tmp_path)


def test_a_truncated_file_is_refused_wherever_it_ends(file, tmp_path):
    """As a copy over the network leaves it."""
    data = file.read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "a.zip").write_bytes(data[:length])
        assert "cut off" in _refused(tmp_path / "a.zip", tmp_path)


def test_a_flipped_bit_is_refused_or_changes_nothing(source, file, tmp_path):
    """Wherever it is: a few bytes of the archive, such as times of day, hold nothing of the ledger."""
    data = file.read_bytes()
    places = range(60, len(data) - 30, len(data) // 40)
    harmless = 0
    refusals = []
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 0x10
        path = tmp_path / f"{place}.zip"
        path.write_bytes(changed)
        url = f"sqlite:///{tmp_path}/{place}.db"
        try:
            restore(url, path)
        except LedgerError as error:
            refusals.append((path, str(error)))
        else:
            assert _opened(url) == content(source[0])
            harmless += 1
    assert harmless < 0.1 * len(places)
    assert all(message.startswith(f"{path}: ") for path, message in refusals)


def test_a_restore_that_fails_midway_leaves_an_empty_ledger(file, ledger_url):
    """All of it, or nothing; and then it can be done again."""
    written = []

    def stop(table, done, total):
        written.append((table, done))
        if written.count((table, done)) == 2 and table == "records" and done == total:
            # the first time was the check of the file
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(ledger_url, file, progress=stop)
    assert restore(ledger_url, file).rows == sum(len(rows) for rows in _opened(ledger_url).values())
