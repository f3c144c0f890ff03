"""The backup of a whole stack while it runs: what each part keeps, read so that it is whole, into one archive."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from farthing.domain.errors import BackupError
from farthing.ledger.backup import back_up
from farthing.stack.backup_archive import ArchiveWriter, Manifest, Progress, part_of, read_chunks
from farthing.stack.backup_places import GRAFANA_DATABASE, Places
from farthing.stack.backup_tsdb import Pinned, pinned, pinned_tsdb
from farthing.stack.parts import ALERTMANAGER_SAVES_SECONDS
from farthing.stack.secret_files import TOKENS

__all__ = [
    "ALERTMANAGER_FILES",
    "LEDGER_MEMBER",
    "POLICY_MEMBER",
    "SETTINGS_MEMBER",
    "back_up_stack",
]

ALERTMANAGER_FILES = ("nflog", "silences")
LEDGER_MEMBER = "ledger/ledger.zip"
SETTINGS_MEMBER = "settings/farthing.yaml"
POLICY_MEMBER = "settings/policy.yaml"
_ENCRYPTED_TABLES = frozenset(
    ("data_keys", "secrets", "signing_key", "secret_data_key", "secret_encrypted_value", "secret_secure_value")
)
"""Grafana's tables of keys and of values under them (pkg/services/{secrets,signingkeys} and pkg/storage/secret)."""
_ENCRYPTED_COLUMNS = {
    "data_source": frozenset(("secure_json_data", "password", "basic_auth_password")),
    "plugin_setting": frozenset(("secure_json_data",)),
    "user_auth": frozenset(("o_auth_access_token", "o_auth_refresh_token", "o_auth_id_token")),
}
_LOCK_SECONDS = 30.0
_POLL_SECONDS = 0.2
_PRIVATE_MODE = 0o600


@dataclass
class _Making:
    """An archive that is being filled."""

    writer: ArchiveWriter
    made_ns: int
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def add(self, part: str, files: tuple[Pinned, ...]) -> None:
        """Files that are open, one after the other."""
        total = sum(file.size for file in files)
        done = 0
        for one in files:
            mode = os.fstat(one.file.fileno()).st_mode
            counted = self._counted(part, one, done, total)
            self.writer.add(f"{part}/{one.name}", one.size, mode, counted, self.made_ns)
            done += one.size
        if not files:
            self.notes.append(f"{part}: there was nothing")

    def _counted(self, part: str, one: Pinned, done: int, total: int) -> Iterator[bytes]:
        for data in read_chunks(one.file, one.size):
            yield data
            done += len(data)
            self.progress(part, done, total)


def back_up_stack(
    places: Places,
    path: Path,
    *,
    force: bool = False,
    with_secrets: bool = False,
    progress: Progress,
    now_ns: Callable[[], int] = time.time_ns,
) -> Manifest:
    """Write one archive of everything that a stack keeps; returns what is in it. The stack goes on meanwhile.

    Each part is as it was at one moment, and no part older than the beginning. Raises BackupError or LedgerError when
    there is no ledger, or the archive cannot be written; then there is none.
    """
    writer = ArchiveWriter(path, force=force)
    try:
        making = _Making(writer, now_ns(), progress)
        schema, rows = _add_ledger(making, places)
        with pinned_tsdb(places.prometheus) as files:
            making.add("prometheus", files)
        _add_alertmanager(making, places.alertmanager, now_ns)
        _add_grafana(making, places.grafana / GRAFANA_DATABASE, with_secrets=with_secrets)
        _add_files(making, "tokens", {TOKENS: places.tokens})
        named = {"farthing.yaml": places.settings, "policy.yaml": places.policy}
        _add_files(making, "settings", {name: path for name, path in named.items() if path})
        if with_secrets:
            _add_files(making, "secrets", _tree(places.secrets, places.tokens))
        return writer.finish(
            Manifest(
                farthing=version("farthing"),
                made_ns=making.made_ns,
                ledger_schema=schema,
                ledger_rows=rows,
                notes=tuple(making.notes),
            )
        )
    except OSError as error:
        writer.abandon()
        raise BackupError(f"{path}: cannot be written ({error.strerror}); there is no backup now") from error
    except BaseException:
        writer.abandon()
        raise


def _add_ledger(making: _Making, places: Places) -> tuple[str, int]:
    """The ledger's own backup, put together beside the archive; returns its schema and how many rows it has."""
    with _beside(making.writer, "ledger") as own:
        made = back_up(
            places.ledger,
            own,
            made_ns=making.made_ns,
            force=True,
            progress=lambda table, done, total: making.progress(f"ledger: {table}", done, total),
        )
        with ExitStack() as files:
            making.add(part_of(LEDGER_MEMBER), (pinned(own, Path(LEDGER_MEMBER).name, files),))
    return made.revision, made.rows


def _add_alertmanager(making: _Making, folder: Path, now_ns: Callable[[], int]) -> None:
    """Silences and the notification log, which Alertmanager keeps in memory and writes to disk every few seconds.

    Waits for the next time, so that a silence of a moment ago is there. One that does not run wrote when it stopped.
    """
    patience_ns = round(2 * ALERTMANAGER_SAVES_SECONDS * 1e9)
    if folder.is_dir() and _changed_ns(folder) > making.made_ns - patience_ns:
        while not _all_newer(folder, making.made_ns) and now_ns() < making.made_ns + patience_ns:
            making.progress("alertmanager", 0, 1)
            time.sleep(_POLL_SECONDS)
    there = {name: folder / name for name in ALERTMANAGER_FILES}
    _add_files(making, "alertmanager", there)
    written = [_changed_ns(path) for path in there.values() if path.exists()]
    if written and min(written) < making.made_ns:
        age = (making.made_ns - min(written)) // 1_000_000_000
        making.notes.append(f"alertmanager: as it was {age} s before, since it wrote nothing meanwhile")


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


def _all_newer(folder: Path, than_ns: int) -> bool:
    paths = [folder / name for name in ALERTMANAGER_FILES]
    return all(path.exists() and _changed_ns(path) >= than_ns for path in paths)


def _add_grafana(making: _Making, database: Path, *, with_secrets: bool) -> None:
    """Users, folders, dashboards of people's own, preferences: one SQLite file, copied in one step of SQLite's own.

    What Grafana encrypted is left out without secrets: it can be read with its secret key alone, which is one.
    """
    if database.is_symlink():
        raise BackupError(f"{database}: is a symbolic link, which is not followed; put the database itself there")
    if not database.exists():
        making.notes.append("grafana: there was nothing")
        return
    with _beside(making.writer, "grafana") as own:
        try:
            copy_sqlite(database, own)
            if not with_secrets:
                forget_encrypted(own)
        except sqlite3.Error as error:
            raise BackupError(f"{database}: cannot be copied ({error}); is it Grafana's database?") from error
        own.chmod(_PRIVATE_MODE)
        with ExitStack() as files:
            making.add("grafana", (pinned(own, GRAFANA_DATABASE, files),))


def copy_sqlite(source: Path, target: Path) -> None:
    """A copy of a database that others use, by SQLite's online backup. sqlite3.Error when it is none."""
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=_LOCK_SECONDS)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)
        # a copy of a database with a write-ahead log would look for one beside it
        writing.execute("PRAGMA journal_mode=DELETE")


def forget_encrypted(database: Path) -> None:
    """Remove from a copy of Grafana's database what it encrypted, as if it had never been entered."""
    with closing(sqlite3.connect(database)) as connection:
        # what is deleted is overwritten too
        connection.execute("PRAGMA secure_delete=ON")
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in sorted(there & _ENCRYPTED_TABLES):
            connection.execute(f'DELETE FROM "{table}"')  # noqa: S608 - a name of ours  # nosec B608
        for table, columns in _ENCRYPTED_COLUMNS.items():
            known = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
            for column in columns & known:
                connection.execute(f'UPDATE "{table}" SET "{column}" = NULL')  # noqa: S608 - names of ours  # nosec B608
        connection.commit()


def _add_files(making: _Making, part: str, paths: Mapping[str, Path]) -> None:
    """Small files as they are, those that there are."""
    with ExitStack() as files:
        # people and Kubernetes link settings and secrets of their own
        follow = part in {"settings", "tokens"}
        there = [(name, path) for name, path in paths.items() if path.is_file()]
        making.add(part, tuple(pinned(path, name, files, follow=follow) for name, path in there))


def _tree(folder: Path, without: Path) -> dict[str, Path]:
    """Every file below a folder by its relative path, but one; those whose name begins with a dot are drafts."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    found = {str(path.relative_to(folder)): path for path in files}
    return {name: path for name, path in found.items() if path != without and "/." not in f"/{name}"}


@contextmanager
def _beside(writer: ArchiveWriter, what: str) -> Iterator[Path]:
    """A file beside the archive that is gone afterwards: a member's size has to be known before its content."""
    path = writer.temporary.with_name(f"{writer.temporary.name}.{what}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
