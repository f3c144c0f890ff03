"""A backup of the stack holds every part whole, and nothing that was altered, cut off or cannot fit is restored."""

import fcntl
import gzip
import hashlib
import io
import os
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.ledger.booked import close, content, fill
from tests.stack import stand_in_grafana_db as grafana_db

from farthing.domain.errors import BackupError, ConfigError, FarthingError, LedgerError
from farthing.ledger import tables as t
from farthing.ledger.database import bare_engine, migrate
from farthing.ledger.repository import Ledger
from farthing.settings import Settings
from farthing.stack import backup_restore, backup_tsdb
from farthing.stack.backup import back_up_stack
from farthing.stack.backup_places import Places, native_places, parse_owners, volume_places
from farthing.stack.backup_restore import finish_restore, refuse_half_restored_ledger, restore_stack, settings_of
from farthing.stack.backup_tsdb import pinned_tsdb, whole_records

BLOCK = "01JZ0000000000000000000000"
SECRET = "plain-as-day"


def silent(_part, _done, _total):
    """Tell nobody."""


def places_in(root: Path) -> Places:
    """Those of a native stack, settings included."""
    settings = Settings.model_validate({"stack": {"state_dir": root / "state"}})
    return native_places(settings, root / "farthing.yaml")


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A stack that stopped: a ledger with something in every table, and files like the other parts'."""
    root = tmp_path_factory.mktemp("source")
    places = places_in(root)
    ledger = Ledger.open(places.ledger)
    fill(ledger)
    close(ledger)
    ledger.close()
    for name, text in {
        f"{BLOCK}/meta.json": "{}",
        f"{BLOCK}/chunks/000001": "c" * 70_000,
        f"{BLOCK}/index": "i",
        "wal/checkpoint.00000002/00000000": "k",
        "wal/00000002": "old",
        "wal/00000003": "segment",
        "chunks_head/000001": "left out",
        f"{BLOCK}.tmp-for-deletion/meta.json": "left out",
        "lock": "",
    }.items():
        path = places.prometheus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    places.alertmanager.mkdir(parents=True)
    for name in ("silences", "nflog"):
        (places.alertmanager / name).write_text(name)
    # it wrote when it stopped
    for path in (places.alertmanager, *places.alertmanager.iterdir()):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    grafana_db.make(places.grafana / "grafana.db").close()
    places.secrets.mkdir()
    places.tokens.write_text("[]\n")
    (places.secrets / "intake-token").write_text(SECRET)
    (root / "farthing.yaml").write_text(f"stack:\n  state_dir: {root / 'state'}\n")
    return places


@pytest.fixture(scope="module")
def archive(source, tmp_path_factory):
    """Its backup."""
    path = tmp_path_factory.mktemp("archive") / "stack.tar.gz"
    back_up_stack(source, path, progress=silent)
    return path


@pytest.fixture
def empty(tmp_path):
    """Where there is nothing yet."""
    return places_in(tmp_path / "new")


def refused(archive: Path, places: Places, kind: type[FarthingError] = BackupError) -> str:
    """Why it is not restored: one line; and that nothing was changed."""
    root = places.journal.parent
    before = tree(root) if root.exists() else {}
    with pytest.raises(kind) as caught:
        restore_stack(places, archive, progress=silent)
    assert "\n" not in str(caught.value)
    assert (tree(root) if root.exists() else {}) == before
    assert not list(root.rglob(".restoring")) if root.exists() else True
    return str(caught.value)


def members(path: Path) -> dict[str, bytes]:
    """What standard tar sees in an archive."""
    with tarfile.open(path) as file:
        return {one.name: file.extractfile(one).read() for one in file if one.isreg()}  # type: ignore[union-attr]


def written(path: Path, content: dict[str, bytes], manifest: bool = True) -> Path:
    """An archive of other content, whose manifest is right about it."""
    listed = [
        {"name": name, "size": len(data), "mode": 0o600, "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in content.items()
        if name != "manifest.json"
    ]
    if manifest:
        head = msgspec.json.decode(content["manifest.json"])
        content = {**content, "manifest.json": msgspec.json.encode({**head, "members": listed})}
    modes = {one["name"]: one["mode"] for one in msgspec.json.decode(content["manifest.json"])["members"]}
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as file:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), modes.get(name, 0o600)
            file.addfile(entry, io.BytesIO(data))
    return path


def test_everything_comes_back_as_it_was(source, archive, empty):
    """Ledger, samples, silences, Grafana's state, tokens and settings; no secret, and no file that is of no use."""
    done = restore_stack(empty, archive, progress=silent)
    assert done.kept == ()
    old, new = Ledger.open(source.ledger), Ledger.open(empty.ledger)
    assert content(new) == content(old)
    old.close()
    new.close()
    assert grafana_db.content(empty.grafana / "grafana.db") == grafana_db.content(source.grafana / "grafana.db")
    assert sorted(tree(empty.prometheus)) == [
        f"{BLOCK}/chunks/000001",
        f"{BLOCK}/index",
        f"{BLOCK}/meta.json",
        "wal/00000003",
        "wal/checkpoint.00000002/00000000",
    ]
    assert tree(empty.alertmanager) == tree(source.alertmanager)
    assert empty.tokens.read_text() == "[]\n"
    assert not (empty.secrets / "intake-token").exists()
    assert empty.settings.read_bytes() == source.settings.read_bytes()
    assert not list(empty.journal.parent.rglob(".restoring"))
    assert [note.partition(" before")[0].rsplit(maxsplit=2)[0] for note in done.manifest.notes] == [
        "alertmanager: as it was"
    ]


def test_an_archive_is_private_and_standard_tar_reads_it(source, archive, tmp_path):
    """Uncompressed too; the manifest is its last member, and secrets are in it only where they are asked for."""
    assert archive.stat().st_mode & 0o777 == 0o600
    assert list(members(archive))[-1] == "manifest.json"
    assert SECRET.encode() not in b"".join(members(archive).values())
    back_up_stack(source, tmp_path / "all.tar", with_secrets=True, progress=silent)
    found = members(tmp_path / "all.tar")
    assert found["secrets/intake-token"] == SECRET.encode()
    assert "secrets/tokens.yaml" not in found
    assert [path.name for path in tmp_path.iterdir()] == ["all.tar"]


def test_what_grafana_encrypted_is_a_secret_too(source, tmp_path):
    """Its key would be needed to read it, and lies among the secrets; nothing of it is in a backup without them."""
    places = replace(source, grafana=tmp_path / "grafana")
    connection = grafana_db.make(places.grafana / "grafana.db")
    connection.execute("CREATE TABLE data_keys (name TEXT, encrypted_data BLOB)")
    connection.execute("INSERT INTO data_keys VALUES ('k', 'encrypted-key')")
    connection.execute("CREATE TABLE data_source (id INTEGER, name TEXT, secure_json_data TEXT)")
    connection.execute("INSERT INTO data_source VALUES (1, 'own', 'encrypted-password')")
    connection.commit()
    connection.close()
    back_up_stack(places, tmp_path / "without.tar", progress=silent)
    back_up_stack(places, tmp_path / "with.tar", with_secrets=True, progress=silent)
    for word in (b"encrypted-key", b"encrypted-password"):
        assert word not in members(tmp_path / "without.tar")["grafana/grafana.db"]
        assert word in members(tmp_path / "with.tar")["grafana/grafana.db"]
    copy = tmp_path / "copy.db"
    copy.write_bytes(members(tmp_path / "without.tar")["grafana/grafana.db"])
    assert grafana_db.content(copy) == grafana_db.content(places.grafana / "grafana.db")
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT * FROM data_source").fetchall() == [(1, "own", None)]
    connection.close()


@pytest.mark.parametrize("name", ["prometheus/wal/00000003", "alertmanager/silences", "grafana/grafana.db"])
def test_a_link_in_a_volume_does_not_choose_what_is_copied(source, tmp_path, name):
    """The container that copies may read everything, and a service that was taken over may write into its volume."""
    root = tmp_path / "s"
    shutil.copytree(source.journal, root / "state")
    places = places_in(root)
    linked = places.journal / "data" / name
    linked.unlink()
    linked.symlink_to(source.secrets / "intake-token")
    # nobody runs there
    os.utime(linked.parent, (1_000_000_000, 1_000_000_000))
    with pytest.raises(BackupError, match=r"symbolic link") as caught:
        back_up_stack(places, tmp_path / "a.tar", progress=silent)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.tar"))


def test_secrets_come_back_with_their_modes(source, tmp_path, empty):
    """Each reader's file as its reader needs it."""
    (source.secrets / "intake-token").chmod(0o440)
    back_up_stack(source, tmp_path / "all.tar", with_secrets=True, progress=silent)
    restore_stack(empty, tmp_path / "all.tar", progress=silent)
    assert (empty.secrets / "intake-token").read_text() == SECRET
    assert (empty.secrets / "intake-token").stat().st_mode & 0o777 == 0o440


def test_a_file_that_exists_is_replaced_by_force_alone(source, archive, tmp_path):
    """Nobody loses a backup to a typing mistake, and a name says what is in it."""
    taken = tmp_path / "taken.tar"
    taken.write_text("precious")
    with pytest.raises(BackupError, match="exists already"):
        back_up_stack(source, taken, progress=silent)
    assert taken.read_text() == "precious"
    back_up_stack(source, taken, force=True, progress=silent)
    assert "manifest.json" in members(taken)
    with pytest.raises(BackupError, match=r"ends with \.tar"):
        back_up_stack(source, tmp_path / "stack.zip", progress=silent)


def test_without_a_ledger_there_is_no_backup(tmp_path):
    """A wrong folder is told at once, and leaves nothing behind."""
    with pytest.raises(LedgerError, match="there is none"):
        back_up_stack(places_in(tmp_path / "no"), tmp_path / "a.tar", progress=silent)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("at", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_refused_before_anything_is_written(archive, empty, tmp_path, at):
    """Wherever it was cut off."""
    data = archive.read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(data[: int(len(data) * at)])
    assert "nothing was restored" in refused(cut, empty)


@pytest.mark.parametrize("at", [0.0, 0.2, 0.5, 0.8, 0.99])
def test_an_archive_with_a_flipped_bit_is_refused(archive, source, empty, tmp_path, at):
    """Compressed or not: a check sum of tar, of gzip or of ours finds it."""
    plain = tmp_path / "plain.tar"
    back_up_stack(source, plain, progress=silent)
    for file in (archive, plain):
        data = bytearray(file.read_bytes())
        held = len(data) if file is archive else _end(plain)
        data[int(held * at)] ^= 0x10
        bad = tmp_path / f"bad-{file.name}"
        bad.write_bytes(data)
        assert "nothing was restored" in refused(bad, empty)


def _end(path: Path) -> int:
    """Where the content of an uncompressed archive ends, and padding begins."""
    with tarfile.open(path) as file:
        last = file.getmembers()[-1]
    return last.offset_data + last.size - 1


def test_a_member_that_was_changed_is_named(archive, empty, tmp_path):
    """Though the archive is a right one otherwise."""
    inside = members(archive)
    inside["alertmanager/silences"] = b"SILENCES"
    bad = written(tmp_path / "bad.tar.gz", inside, manifest=False)
    assert "alertmanager/silences is not what was backed up" in refused(bad, empty)
    del inside["alertmanager/silences"]
    bad = written(tmp_path / "less.tar.gz", inside, manifest=False)
    assert "disagree on alertmanager/silences" in refused(bad, empty)
    bad = written(tmp_path / "more.tar.gz", {"alertmanager/extra": b"", **members(archive)}, manifest=False)
    assert "disagree on alertmanager/extra" in refused(bad, empty)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "prometheus/../../x",
        "prometheus/.x",
        "prometheus//x",
        "prometheus",
        "prometheus/a/./b",
        "x\n/y",
    ],
)
def test_a_member_whose_name_leads_elsewhere_is_refused(archive, empty, tmp_path, name):
    """Even where the manifest names it too."""
    bad = written(tmp_path / "bad.tar.gz", {name: b"x", **members(archive)})
    assert "is no name that a backup holds" in refused(bad, empty)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_devices_and_folders_are_refused(archive, empty, tmp_path, kind):
    """A backup holds plain files alone."""
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w", format=tarfile.GNU_FORMAT) as file:
        entry = tarfile.TarInfo("prometheus/wal")
        entry.type, entry.linkname = kind, "/etc"
        file.addfile(entry)
    assert "is no plain file" in refused(bad, empty)


def test_a_header_of_another_format_is_refused_before_it_is_read(empty, tmp_path):
    """A pax header could claim a name of gigabytes."""
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w", format=tarfile.PAX_FORMAT) as file:
        entry = tarfile.TarInfo("prometheus/" + "x" * 300)
        file.addfile(entry, io.BytesIO(b""))
    assert "is no plain file" in refused(bad, empty)


def test_an_absurd_size_is_refused_at_its_header(empty, tmp_path):
    """Nobody has to read a petabyte first."""
    entry = tarfile.TarInfo("prometheus/wal/00000001")
    entry.size = 1 << 50
    bad = tmp_path / "bad.tar"
    bad.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert "its prometheus needs 1,125,899,906,842,624 bytes" in refused(bad, empty)


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"PK\x03\x04", bytes(10_240), b"x" * 5_000])
def test_what_was_never_a_backup_is_refused(empty, tmp_path, data):
    """Empty files, other archives, zeros and text."""
    bad = tmp_path / "bad.tar"
    bad.write_bytes(data)
    assert "nothing was restored" in refused(bad, empty)


@given(data=st.binary(max_size=3_000), zipped=st.booleans())
def test_no_bytes_make_a_reader_fail_in_another_way(tmp_path_factory, data, zipped):
    """One clear error, whatever it reads."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "a.tar").write_bytes(gzip.compress(data) if zipped else data)
    assert "nothing was restored" in refused(folder / "a.tar", places_in(folder / "new"))


def test_a_missing_archive_is_told(empty, tmp_path):
    """With the reason."""
    assert "No such file" in refused(tmp_path / "none.tar", empty)


def test_newer_versions_are_refused(archive, empty, tmp_path):
    """Of the format, of the program, and of the ledger's schema."""
    for key, value, said in (
        ("version", 2, "format 2"),
        ("farthing", "99.1.0", "was made by Farthing 99.1.0"),
        ("ledger_schema", "9999", "schema 9999"),
        ("format", "other", "'other'"),
    ):
        inside = members(archive)
        head = msgspec.json.decode(inside["manifest.json"])
        inside["manifest.json"] = msgspec.json.encode({**head, key: value})
        assert said in refused(written(tmp_path / f"{key}.tar.gz", inside), empty)


@pytest.mark.parametrize("what", ["ledger", "tokens", "prometheus", "grafana", "alertmanager"])
def test_what_is_there_is_replaced_by_force_alone(source, archive, empty, what):
    """Each part by itself is reason enough to ask."""
    there = {
        "ledger": empty.ledger_file,
        "tokens": empty.tokens,
        "prometheus": empty.prometheus / "01JZZZZZZZZZZZZZZZZZZZZZZZ" / "meta.json",
        "grafana": empty.grafana / "grafana.db",
        "alertmanager": empty.alertmanager / "nflog",
    }[what]
    assert there is not None
    there.parent.mkdir(parents=True)
    there.write_text("of the new stack")
    assert "exists already" in refused(archive, empty)
    assert there.read_text() == "of the new stack"
    restore_stack(empty, archive, force=True, progress=silent)
    assert BLOCK in {path.name for path in empty.prometheus.iterdir()}
    assert "of the new stack" not in {
        path.read_text(errors="replace") for path in empty.journal.rglob("*") if path.is_file()
    }


def test_the_log_of_a_replaced_ledger_never_meets_the_new_one(archive, empty):
    """SQLite would apply it to a file that it is not of; nor is the first token of a replaced stack given out."""
    empty.secrets.mkdir(parents=True)
    assert empty.ledger_file is not None
    for path in (empty.ledger_file, *(Path(f"{empty.ledger_file}{end}") for end in ("-wal", "-shm"))):
        path.write_text("old")
    (empty.secrets / "first-token").write_text("old")
    restore_stack(empty, archive, force=True, progress=silent)
    assert sorted(path.name for path in empty.journal.iterdir() if path.is_file()) == ["ledger.db"]
    assert [path.name for path in empty.secrets.iterdir()] == ["tokens.yaml"]


def test_a_database_that_prometheus_runs_on_is_not_replaced(archive, empty):
    """Also by force, and whichever container it runs in: its lock is seen."""
    empty.prometheus.mkdir(parents=True)
    with (empty.prometheus / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BackupError, match="Prometheus runs on it"):
            restore_stack(empty, archive, force=True, progress=silent)


def test_settings_that_are_there_stay(archive, empty):
    """And it is said where they differ from the backup's; without any the backup's are used."""
    assert empty.settings is not None
    empty.settings.parent.mkdir(parents=True)
    empty.settings.write_text("currency: EUR\n")
    assert restore_stack(empty, archive, progress=silent).kept == (empty.settings,)
    assert empty.settings.read_text() == "currency: EUR\n"
    found = settings_of(archive)
    assert found is not None
    assert found.stack.state_dir.name == "state"


def test_a_ledger_of_an_older_schema_is_migrated_as_it_is_restored(source, tmp_path, empty):
    """The upgrade's way back and forth: a backup of before an upgrade is restored after it."""
    old = replace(source, ledger=f"sqlite:///{tmp_path}/old.db")
    engine = bare_engine(old.ledger)
    migrate(engine, "0004")
    with engine.begin() as connection:
        boots = sa.Table("boots", sa.MetaData(), autoload_with=connection)
        values = {column.name: "b" if isinstance(column.type, sa.String) else 1 for column in boots.columns}
        connection.execute(sa.insert(boots), {**values, "closed_ns": None})
    engine.dispose()
    made = back_up_stack(old, tmp_path / "old.tar", progress=silent)
    assert made.ledger_schema == "0004"
    restore_stack(empty, tmp_path / "old.tar", progress=silent)
    ledger = Ledger.open(empty.ledger)
    assert [row[0] for row in ledger.select(sa.select(t.boots.c.boot))] == ["b"]
    ledger.close()


def test_a_postgresql_ledger_is_backed_up_and_filled_again(source, new_ledger_url, tmp_path, empty):
    """Or one of SQLite, as the test's database is; a server's has to be empty, also by force."""
    first = replace(source, ledger=new_ledger_url("first"))
    ledger = Ledger.open(first.ledger)
    fill(ledger)
    expected = content(ledger)
    ledger.close()
    back_up_stack(first, tmp_path / "a.tar", progress=silent)
    second = replace(empty, ledger=new_ledger_url("second"))
    restore_stack(second, tmp_path / "a.tar", progress=silent)
    ledger = Ledger.open(second.ledger)
    assert content(ledger) == expected
    ledger.close()
    if second.ledger_file is None:
        before = tree(second.journal)
        with pytest.raises(LedgerError, match="is not empty"):
            restore_stack(second, tmp_path / "a.tar", force=True, progress=silent)
        assert tree(second.journal) == before


# ---- what happens in the middle ------------------------------------------------------------------------------


@contextmanager
def small_disk(size: str):
    """A disk of its own that is soon full; only root can mount one."""
    place = Path(tempfile.mkdtemp(prefix="farthing-disk-"))
    done = subprocess.run(
        [str(shutil.which("mount")), "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", place], check=False
    )
    if done.returncode:
        place.rmdir()
        if os.environ.get("CI") == "true":
            pytest.fail("a disk can be mounted by root only")
        pytest.skip("a disk can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run([str(shutil.which("umount")), "--lazy", place], check=True)
        place.rmdir()


@pytest.mark.real
def test_a_full_disk_leaves_nothing_behind(source, archive, monkeypatch):
    """Neither half a backup nor half a stack; one line says what to do."""
    monkeypatch.setattr(backup_restore, "_room", lambda _folder: 1 << 40)
    with small_disk("1m") as disk:
        with pytest.raises(FarthingError, match=r"No space left|disk is full") as caught:
            back_up_stack(source, disk / "a.tar", progress=silent)
        assert "\n" not in str(caught.value)
        assert list(disk.iterdir()) == []
        message = refused(archive, places_in(disk / "new"), FarthingError)
        assert "No space left" in message or "make room" in message


def killed_after(steps: int, places: Places, archive: Path) -> bool:
    """Restore in a process that is killed after so many of its steps on the disk; False when it ended before."""
    pid = os.fork()
    if pid == 0:
        left = [steps]

        def counted(function):
            def call(*arguments, **named):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return function(*arguments, **named)

            return call

        Path.replace = counted(Path.replace)  # type: ignore[method-assign]
        Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
        for name in ("sync_folder", "_write_file", "restore"):
            setattr(backup_restore, name, counted(getattr(backup_restore, name)))
        shutil.rmtree = counted(shutil.rmtree)
        try:
            restore_stack(places, archive, force=True, progress=silent)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_restore_that_is_killed_anywhere_has_changed_nothing_or_is_carried_on(source, tmp_path):
    """After every step of it: the old stack is whole, or the next start makes the new one whole; never a mixture."""
    small = replace(source, ledger=f"sqlite:///{tmp_path}/small.db")
    Ledger.open(small.ledger).close()
    archive = tmp_path / "small.tar"
    back_up_stack(small, archive, progress=silent)
    kinds = []
    for steps in range(1, 1_000, 7):
        root = tmp_path / str(steps)
        places = places_in(root)
        for path in (places.prometheus / BLOCK / "meta.json", places.alertmanager / "nflog", places.tokens):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("old")
        (places.journal / "ledger.db").write_text("old")
        old = tree(root)
        if not killed_after(steps, places, archive):
            break
        settings = Settings.model_validate({"stack": {"state_dir": root / "state"}})
        if list(root.rglob("moves.json")):
            with pytest.raises(BackupError, match="was cut off"):
                refuse_half_restored_ledger(settings)
            assert finish_restore(places.journal)
        refuse_half_restored_ledger(settings)
        now = {name: data for name, data in tree(root).items() if ".restoring" not in name}
        kinds.append("new" if now != old else "old")
        if now != old:
            assert "old" not in {path.read_text(errors="replace") for path in root.rglob("*") if path.is_file()}
            assert grafana_db.content(places.grafana / "grafana.db")
            assert (places.prometheus / "wal" / "00000003").exists()
            assert places.tokens.exists()
            Ledger.open(places.ledger).close()
        if steps % 4 == 0:
            # and it can be restored once more in either case
            restore_stack(places, archive, force=True, progress=silent)
            assert not list(root.rglob(".restoring"))
    else:
        raise AssertionError("it never came to an end")
    assert kinds == sorted(kinds, reverse=True)
    assert min(kinds.count("old"), kinds.count("new")) > 3


def test_a_restore_that_is_interrupted_as_it_notes_its_moves_has_changed_nothing(archive, empty, monkeypatch):
    """Moves that were noted, and whose files are removed again, would take away what is there."""
    empty.alertmanager.mkdir(parents=True)
    (empty.alertmanager / "nflog").write_text("old")
    before = tree(empty.journal)
    real = backup_restore._write_journal

    def interrupted(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(backup_restore, "_write_journal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_stack(empty, archive, force=True, progress=silent)
    assert not finish_restore(empty.journal)
    assert tree(empty.journal) == before


# ---- the files of Prometheus ---------------------------------------------------------------------------------


def segment(*records: bytes) -> bytes:
    """Records as Prometheus' log has them: fragments with a header of seven bytes, none across a page of 32 KiB."""
    page, out = 32 * 1024, bytearray()
    for record in records:
        rest, first = record, True
        while first or rest:
            room = page - len(out) % page
            if room < 7:
                out += bytes(room)
                room = page
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = (1 if not rest else 2) if first else (4 if not rest else 3)
            # the bits above the type say how it is compressed
            out += bytes([kind | 8]) + len(part).to_bytes(2, "big") + bytes(4) + part
            first = False
    return bytes(out)


@given(
    sizes=st.lists(st.integers(min_value=1, max_value=80_000), max_size=6),
    data=st.data(),
)
def test_a_log_is_cut_after_its_last_whole_record(sizes, data):
    """Wherever Prometheus is in the middle of writing one."""
    records = [bytes([1]) * size for size in sizes]
    whole = segment(*records)
    size = data.draw(st.integers(min_value=0, max_value=len(whole)))
    ends = [len(segment(*records[:count])) for count in range(len(records) + 1)]
    found = whole_records(io.BytesIO(whole[:size]), size)
    assert found <= size
    last = max(end for end in ends if end <= size)
    # padding up to the next page may follow the record
    assert last <= found < last + 7


def test_a_checkpoint_that_is_made_meanwhile_begins_the_listing_again(source, monkeypatch):
    """What it stands for is deleted, so the copy would have a hole."""
    asked = []
    real = backup_tsdb._log_names

    def names(log):
        asked.append(log)
        # as if a new one had been made while the segments of the old one were opened
        return ("checkpoint.00000009", []) if len(asked) == 2 else real(log)

    monkeypatch.setattr(backup_tsdb, "_log_names", names)
    with pinned_tsdb(source.prometheus) as files:
        assert "wal/00000003" in {one.name for one in files}
    assert len(asked) == 4


def test_files_that_go_on_vanishing_end_with_an_error(source, monkeypatch):
    """Instead of an endless loop, or half a copy."""
    monkeypatch.setattr("farthing.stack.backup_tsdb._log_names", lambda _log: ("", ["00000099"]))
    with pytest.raises(BackupError, match="faster than they are opened"), pinned_tsdb(source.prometheus):
        pass


def test_a_silence_of_a_moment_ago_is_waited_for(source, tmp_path, monkeypatch):
    """Alertmanager writes it to disk a few seconds later; one that never writes is not waited for for ever."""
    places = replace(source, alertmanager=tmp_path / "am")
    places.alertmanager.mkdir()
    (places.alertmanager / "nflog").write_text("")
    (places.alertmanager / "silences").write_text("before")
    slept = []

    def write(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            for name in ("nflog", "silences"):
                (places.alertmanager / name).write_text("now")

    monkeypatch.setattr(time, "sleep", write)
    made = back_up_stack(places, tmp_path / "a.tar", progress=silent)
    assert members(tmp_path / "a.tar")["alertmanager/silences"] == b"now"
    assert not [note for note in made.notes if "alertmanager" in note]
    clock = iter(range(time.time_ns(), 1 << 63, 10_000_000_000))
    monkeypatch.setattr(time, "sleep", slept.append)
    made = back_up_stack(places, tmp_path / "b.tar", progress=silent, now_ns=lambda: next(clock))
    assert [note for note in made.notes if note.startswith("alertmanager: as it was")]


# ---- containers ------------------------------------------------------------------------------------------------


def test_the_volumes_of_containers_are_restored_for_their_users(source, archive, tmp_path):
    """Each volume belongs to whom its service runs as; secrets lie in one volume per reader."""
    if os.geteuid():
        pytest.skip("files can be given away by root only")
    volumes = tmp_path / "volumes"
    for name in ("prometheus", "alertmanager", "grafana", "farthing", "secrets/farthing"):
        (volumes / name).mkdir(parents=True)
    settings = Settings.model_validate({"ledger": f"sqlite:///{volumes}/farthing/ledger.db"})
    owners = "prometheus=65534:65534,alertmanager=65534:65534,grafana=472:0,ledger=10001:10001,tokens=10001:10001"
    places = volume_places(settings, tmp_path / "farthing.yaml", volumes, owners)
    restore_stack(places, archive, progress=silent)
    for part, path in {
        "prometheus": volumes / "prometheus" / "wal" / "00000003",
        "grafana": volumes / "grafana" / "grafana.db",
        "ledger": volumes / "farthing" / "ledger.db",
        "tokens": volumes / "secrets" / "farthing" / "tokens.yaml",
        "alertmanager": volumes / "alertmanager",
    }.items():
        assert (path.stat().st_uid, path.stat().st_gid) == places.owners[part], part
    assert not list(volumes.rglob(".restoring"))
    assert sorted(path.name for path in volumes.iterdir()) == sorted(
        ["alertmanager", "farthing", "grafana", "prometheus", "secrets"]
    )


@pytest.mark.parametrize("text", ["prometheus", "prometheus=a:b", "prometheus=1", "=:", "prometheus=-1:0"])
def test_owners_that_are_no_numbers_are_refused(text):
    """Naming the entry."""
    with pytest.raises(ConfigError, match="--owners"):
        parse_owners(text)
    assert parse_owners(" a=1:2, b=3:4,") == {"a": (1, 2), "b": (3, 4)}


def test_a_service_may_live_in_a_folder_too_deep_for_a_supervisors_socket(tmp_path):
    """It has no socket: `farthing up` alone asks for a short path."""
    deep = tmp_path / ("d" * 100)
    refuse_half_restored_ledger(Settings.model_validate({"stack": {"state_dir": str(deep)}}))
