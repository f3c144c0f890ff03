"""Restoring a stack: the whole archive is checked, then unpacked beside what is there, then moved into place.

A restore that ends before the moves begin, however it ends, has changed nothing. The moves are written down before the
first, so that one that is cut off among them is carried on: by the next ``farthing restore`` and by ``farthing up``.
``farthing serve`` does not start in between.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from importlib.metadata import version
from pathlib import Path

import msgspec

from farthing.domain.errors import BackupError, LedgerError
from farthing.ledger.backup import restore
from farthing.ledger.database import knows_revision
from farthing.settings import Settings, parse_settings
from farthing.stack.backup import LEDGER_MEMBER, POLICY_MEMBER, SETTINGS_MEMBER
from farthing.stack.backup_archive import ArchiveReader, Manifest, Progress, sync_folder
from farthing.stack.backup_places import Places, native_places
from farthing.stack.secret_files import FIRST_TOKEN

__all__ = ["Restored", "finish_restore", "refuse_half_restored_ledger", "restore_stack", "settings_of"]

STAGING = ".restoring"
JOURNAL = "moves.json"
_FOLDERS = ("prometheus", "alertmanager", "grafana")
"""Parts whose folder is theirs alone: what was in it goes when the part is restored."""
_SPARE_BYTES = 16 << 20
_NOT_OURS = {STAGING, "lost+found"}


class Move(msgspec.Struct, frozen=True):
    """One rename within a file system."""

    source: str
    target: str
    aside: bool
    """What was there goes out of the way; else what was restored comes into its place."""


class Journal(msgspec.Struct, frozen=True):
    """The moves of a restore in their order, and the folders that are of no use after them."""

    archive: str
    moves: tuple[Move, ...]
    staging: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    manifest: Manifest
    kept: tuple[Path, ...]
    """Files of settings that were there, differ from the backup's, and stayed."""


@dataclass
class _Staging:
    """What is unpacked, and where it goes."""

    places: Places
    folders: dict[Path, Path] = field(default_factory=dict)
    """Folder of the stack -> where what goes into it is unpacked, on the same file system."""
    placed: dict[Path, tuple[str, Path]] = field(default_factory=dict)
    """Target -> the part that it belongs to, and what was unpacked for it."""

    def beside(self, folder: Path) -> Path:
        """Where files for a folder are unpacked. OSError when it cannot be made."""
        if folder not in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            staging = folder / STAGING
            if staging.exists():
                shutil.rmtree(staging)
            staging.mkdir(mode=0o700)
            (staging / "new").mkdir()
            (staging / "old").mkdir()
            self.folders[folder] = staging
        return self.folders[folder]

    def path(self, part: str, folder: Path, relative: str) -> Path:
        """Where one file is unpacked; its first step is what is moved into ``folder`` in the end."""
        new = self.beside(folder) / "new"
        first = relative.partition("/")[0]
        self.placed[folder / first] = (part, new / first)
        path = new / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def sync(self) -> None:
        """Let the names of what was unpacked survive a power cut; its content was synced file by file."""
        for folder in self.folders.values():
            for path in (folder, *folder.rglob("*")):
                if path.is_dir():
                    sync_folder(path)

    def remove(self) -> None:
        """Leave nothing behind; first of all no journal of moves that cannot be made any more."""
        (self.places.journal / STAGING / JOURNAL).unlink(missing_ok=True)
        for folder in self.folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def settings_of(path: Path) -> Settings | None:
    """The settings in an archive, for a place that has none; None when the archive has none either.

    Raises BackupError when it is not whole.
    """
    reader = ArchiveReader(path)
    manifest = reader.check(lambda _part: 1 << 62, lambda *_: None)
    for member, chunks in reader.members(manifest):
        if member.name == SETTINGS_MEMBER:
            return parse_settings(b"".join(chunks).decode(errors="replace"), f"{path}: {SETTINGS_MEMBER}")
    return None


def restore_stack(places: Places, path: Path, *, force: bool = False, progress: Progress) -> Restored:
    """Fill an empty stack that does not run with what an archive holds.

    ``force`` replaces what is there; a ledger in PostgreSQL has to be empty all the same. Raises BackupError or
    LedgerError of one line, and then nothing has changed: when the archive is not whole and unchanged, was made by a
    newer version, does not fit, or when there is something already.
    """
    reader = ArchiveReader(path)
    finish_restore(places.journal)
    manifest = reader.check(lambda part: _room(places.folder(part)), progress)
    _refuse_newer(reader, manifest)
    _refuse_running(places)
    if not force:
        _refuse_present(places, manifest)
    staging = _Staging(places)
    try:
        kept = _unpack(staging, reader, manifest, progress)
        _, zipped = staging.placed.pop(places.folder("ledger") / Path(LEDGER_MEMBER).name)
        if places.ledger_file is not None:
            _fill(
                f"sqlite:///{staging.path('ledger', places.ledger_file.parent, places.ledger_file.name)}",
                zipped,
                progress,
            )
        _give_away(staging)
        journal = _plan(staging, path)
        staging.sync()
        if places.ledger_file is None:
            # a server's database cannot be moved into place: it is filled last, in one transaction
            _fill(places.ledger, zipped, progress)
        _write_journal(places.journal, journal)
    except OSError as error:
        staging.remove()
        at = f" at {error.filename}" if error.filename else ""
        raise BackupError(f"{path}: cannot be unpacked{at} ({error.strerror}); nothing was restored") from error
    except BaseException:
        staging.remove()
        raise
    finish_restore(places.journal)
    return Restored(manifest, kept)


def finish_restore(folder: Path) -> bool:
    """Carry on a restore that was cut off among its moves; False when there was none. Raises BackupError."""
    file = folder / STAGING / JOURNAL
    try:
        journal = msgspec.json.decode(file.read_bytes(), type=Journal)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, msgspec.MsgspecError) as error:
        raise BackupError(f"{file}: cannot be read ({error}); remove its folder and restore once more") from error
    try:
        for move in journal.moves:
            source, target = Path(move.source), Path(move.target)
            # whatever was done already is left alone
            if source.exists() and not (move.aside and target.exists()):
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
                sync_folder(target.parent)
                sync_folder(source.parent)
        # what was put aside is deleted only when no move can be tried again
        _write_journal(folder, msgspec.structs.replace(journal, moves=()))
        for staging in (one for one in journal.staging if one != str(file.parent)):
            shutil.rmtree(staging, ignore_errors=True)
        file.unlink()
        shutil.rmtree(file.parent, ignore_errors=True)
    except OSError as error:
        raise BackupError(
            f"{journal.archive}: cannot be moved into place ({error}); mend that, and restore again"
        ) from error
    return True


def refuse_half_restored_ledger(settings: Settings) -> None:
    """Raise BackupError where a restore of this ledger's stack was cut off among its moves."""
    places = native_places(settings, None)
    try:
        file = places.ledger_file
    except BackupError:
        # no restore was ever for a ledger in memory, or for no URL: whoever opens it says what is wrong with it
        file = None
    for folder in {places.journal, *([file.parent] if file else [])}:
        if (folder / STAGING / JOURNAL).exists():
            raise BackupError(f"{folder}: a restore was cut off; run `farthing restore` once more, which carries it on")


# ---- before anything is written ----------------------------------------------------------------------


def _room(folder: Path) -> int:
    """Bytes that fit where a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return max(shutil.disk_usage(folder).free - _SPARE_BYTES, 0)


def _refuse_newer(reader: ArchiveReader, manifest: Manifest) -> None:
    own = version("farthing")
    if _numbers(manifest.farthing) > _numbers(own):
        raise reader.refused(f"was made by Farthing {manifest.farthing} and this is {own}; restore it with a newer one")
    if not knows_revision(manifest.ledger_schema):
        raise reader.refused(f"its ledger has schema {manifest.ledger_schema}, which this version does not know")
    if LEDGER_MEMBER not in {member.name for member in manifest.members}:
        raise reader.refused("it has no ledger")


def _numbers(text: str) -> tuple[int, ...]:
    """What comes before a version's first word."""
    found = []
    for part in text.split("+", maxsplit=1)[0].split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def _refuse_running(places: Places) -> None:
    """Prometheus locks its folder, whichever container it runs in (tsdb/tsdbutil/dir_locker.go)."""
    with suppress(FileNotFoundError, NotADirectoryError), (places.prometheus / "lock").open("rb") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"{places.prometheus}: Prometheus runs on it; stop the stack first") from None


def _refuse_present(places: Places, manifest: Manifest) -> None:
    present: list[Path] = []
    for part in manifest.parts:
        if part in _FOLDERS:
            present += _children(places.folder(part))[:1]
    present += [path for path in (places.ledger_file, places.tokens) if path is not None and path.exists()]
    if present:
        raise BackupError(f"{present[0]}: exists already; restore into an empty stack, or replace it with --force")


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name not in _NOT_OURS)


# ---- unpacking ---------------------------------------------------------------------------------------


def _unpack(staging: _Staging, reader: ArchiveReader, manifest: Manifest, progress: Progress) -> tuple[Path, ...]:
    """Write every member to where it is moved from; returns the files of settings that stay as they are."""
    places, kept = staging.places, []
    total = sum(member.size for member in manifest.members)
    done = 0
    for member, chunks in reader.members(manifest):
        part, _, relative = member.name.partition("/")
        own = {SETTINGS_MEMBER: places.settings, POLICY_MEMBER: places.policy}
        if part == "settings":
            target = own.get(member.name)
            data = b"".join(chunks)
            if target is not None and target.exists():
                kept += [target] if target.read_bytes() != data else []
            elif target is not None:
                _write_file(staging.path(part, target.parent, target.name), (data,), member.mode)
        elif part in {*_FOLDERS, "ledger"}:
            _write_file(staging.path(part, places.folder(part), relative), chunks, member.mode)
        elif part in {"tokens", "secrets"}:
            # each sub-folder of secrets may be a volume of its own
            target = places.tokens if part == "tokens" else places.secrets / relative
            _write_file(staging.path(part, target.parent, target.name), chunks, member.mode)
        else:
            raise reader.refused(f"{member.name} belongs to no part that this version knows")
        done += member.size
        progress("unpacking", done, total)
    return tuple(kept)


def _write_file(path: Path, chunks: Iterable[bytes], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for data in chunks:
            file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


def _fill(url: str, zipped: Path, progress: Progress) -> None:
    """Fill an empty database from the ledger's own backup, and bring it to the current schema."""
    try:
        restore(url, zipped, progress=lambda table, done, total: progress(f"ledger: {table}", done, total))
    except LedgerError as error:
        free = shutil.disk_usage(zipped.parent).free
        if free < _SPARE_BYTES:
            # SQLite says no more than that it cannot write
            raise BackupError(f"{zipped}: the ledger does not fit ({free:,} bytes are left); make room") from error
        raise


def _give_away(staging: _Staging) -> None:
    """Give what was unpacked, and the folders it goes into, to whom the parts run as, where that is said."""
    places = staging.places
    for target, (part, new) in staging.placed.items():
        if owner := places.owners.get(part):
            for path in (target.parent, new, *(new.rglob("*") if new.is_dir() else ())):
                os.chown(path, *owner)
    for part, owner in places.owners.items():
        # a volume that was new belongs to root, also where nothing came into it
        folder = places.folder(part)
        for path in folder.glob("*/") if part == "secrets" else (folder,):
            os.chown(path, *owner)


# ---- moving into place -------------------------------------------------------------------------------


def _plan(staging: _Staging, archive: Path) -> Journal:
    places = staging.places
    gone = [path for part in _FOLDERS for path in _children(places.folder(part))]
    gone += [path for path in staging.placed if path.exists() and path not in gone]
    if places.tokens in staging.placed and (first := places.tokens.with_name(FIRST_TOKEN)).exists():
        # it would take the place of the restored token of that name
        gone.append(first)
    if (ledger := places.ledger_file) is not None:
        # a log of the old file must never meet the new one
        gone += [path for end in ("-wal", "-shm") if (path := ledger.with_name(ledger.name + end)).exists()]
    aside = []
    for number, path in enumerate(dict.fromkeys(gone)):
        old = staging.beside(path.parent) / "old"
        aside.append(Move(str(path), str(old / f"{number}-{path.name}"), aside=True))
    placed = [Move(str(new), str(target), aside=False) for target, (_, new) in staging.placed.items()]
    return Journal(str(archive), (*aside, *placed), tuple(str(path) for path in staging.folders.values()))


def _write_journal(folder: Path, journal: Journal) -> None:
    """From here on the restore is carried on rather than given up."""
    staging = folder / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    draft = staging / f"{JOURNAL}.draft"
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(journal))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(staging / JOURNAL)
    sync_folder(staging)
    sync_folder(folder)
