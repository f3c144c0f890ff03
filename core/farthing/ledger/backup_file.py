"""A backup as a file: a ZIP archive with one JSON array a line for each row, and a manifest of what must be in it.

Bytes that are UTF-8 are JSON strings, others ``{"base64": ...}``; the manifest says which columns hold bytes. So a
backup is the same whatever database it came from, and can be read with nothing but unzip.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from farthing.domain.errors import LedgerError

__all__ = ["CHUNK", "BackupReader", "BackupWriter", "ColumnEntry", "Manifest", "Progress", "TableEntry"]

FORMAT = "farthing ledger"
FORMAT_VERSION = 1
CHUNK = 2_000
"""Rows that are in memory at once."""
_MANIFEST = "manifest.json"
_LEVEL = 6
_READ_BYTES = 1 << 20
_MOST_MANIFEST_BYTES = 1 << 24

Row = tuple[Any, ...]
Progress = Callable[[str, int, int], None]
"""Told a table, how many of its rows are done, and how many there are."""


class ColumnEntry(msgspec.Struct, frozen=True):
    """A column: its name, and ``text``, ``integer`` or ``bytes``."""

    name: str
    kind: str


class TableEntry(msgspec.Struct, frozen=True):
    """A table: its columns in order, how many rows, and the SHA-256 of its lines."""

    name: str
    columns: tuple[ColumnEntry, ...]
    rows: int
    sha256: str

    @property
    def member(self) -> str:
        """Where its lines are in the archive."""
        return f"tables/{self.name}.jsonl"


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds."""

    revision: str
    """Of the schema."""
    made_ns: int
    """UTC."""
    source: str
    """The kind of database that it was made of."""
    tables: tuple[TableEntry, ...]
    format: str = FORMAT
    version: int = FORMAT_VERSION

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables)


class BackupWriter:
    """Writes a backup under a temporary name beside its own, which it gets once it is whole and on disk."""

    def __init__(self, path: Path, *, force: bool) -> None:
        """Raises LedgerError when the file exists, without ``force``, or cannot be written."""
        self._path = path
        self._force = force
        self._refuse_existing()
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            # it holds who used what: nobody else needs to read it
            descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise LedgerError(f"{path}: cannot be written ({error.strerror}); give another file") from error
        self._file = os.fdopen(descriptor, "w+b")
        self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)

    def table(self, name: str, columns: tuple[ColumnEntry, ...], chunks: Iterable[list[Row]]) -> TableEntry:
        """Write a table, chunk by chunk. OSError when the disk is full."""
        digest, rows = hashlib.sha256(), 0
        encoder = msgspec.json.Encoder()
        has_bytes = any(column.kind == "bytes" for column in columns)
        with self._archive.open(f"tables/{name}.jsonl", "w", force_zip64=True) as member:
            for chunk in chunks:
                lines = [[_cell(cell) for cell in row] for row in chunk] if has_bytes else chunk
                data = encoder.encode_lines(lines)
                digest.update(data)
                member.write(data)
                rows += len(chunk)
        return TableEntry(name, columns, rows, digest.hexdigest())

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, sync, and give the file its name. Raises LedgerError as the constructor does."""
        self._archive.writestr(_MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        self._archive.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._refuse_existing()
        self._temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError, ValueError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _refuse_existing(self) -> None:
        if self._path.exists() and not self._force:
            raise LedgerError(f"{self._path}: exists already; give another file, or --force to replace it")


class BackupReader:
    """Reads a backup, and refuses one that is not whole and unchanged. A context manager."""

    def __init__(self, path: Path) -> None:
        """Raises LedgerError when it cannot be read or is no backup."""
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise LedgerError(f"{path}: cannot be read ({error.strerror}); give a backup's file") from error
        except zipfile.BadZipFile as error:
            raise self._refused("has no end: it is cut off, or was never a backup") from error
        try:
            self.manifest = self._manifest()
        except LedgerError:
            self._archive.close()
            raise

    def __enter__(self) -> BackupReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def check(self, progress: Progress) -> None:
        """Read everything once. Raises LedgerError naming the first table that is not what the manifest says."""
        for table in self.manifest.tables:
            digest, rows = hashlib.sha256(), 0
            for data in self._parts(table):
                digest.update(data)
                rows += data.count(b"\n")
                progress(table.name, min(rows, table.rows), table.rows)
            if rows != table.rows:
                raise self._refused(f"table {table.name} has {rows} rows, and {table.rows} in the manifest")
            if digest.hexdigest() != table.sha256:
                raise self._refused(f"table {table.name} is not what was backed up: its SHA-256 differs")

    def chunks(self, table: TableEntry) -> Iterator[list[Row]]:
        """The rows of a table. Raises LedgerError when a row is none of the table's."""
        decoder = msgspec.json.Decoder(list[Any])
        places = [place for place, column in enumerate(table.columns) if column.kind == "bytes"]
        rest, chunk = b"", []
        for data in self._parts(table):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                try:
                    row = decoder.decode(line)
                    for place in places:
                        row[place] = _bytes(row[place])
                    chunk.append(tuple(row))
                except (msgspec.MsgspecError, ValueError, IndexError, KeyError, TypeError) as error:
                    raise self._refused(f"table {table.name} holds a line that is no row") from error
                if len(row) != len(table.columns):
                    raise self._refused(f"table {table.name} holds a row of {len(row)} columns")
                if len(chunk) == CHUNK:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    def _manifest(self) -> Manifest:
        try:
            if self._archive.getinfo(_MANIFEST).file_size > _MOST_MANIFEST_BYTES:
                raise self._refused("its manifest is far too long")
            manifest = msgspec.json.decode(self._archive.read(_MANIFEST), type=Manifest)
        except KeyError as error:
            raise self._refused("it has no manifest: it is no backup of a ledger") from error
        except (msgspec.MsgspecError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise self._refused(f"its manifest is damaged ({error})") from error
        if manifest.format != FORMAT or manifest.version != FORMAT_VERSION:
            found = f"{manifest.format} {manifest.version}"
            raise self._refused(f"it says {found!r}, which this version does not read")
        expected = {_MANIFEST, *(table.member for table in manifest.tables)}
        if different := sorted(expected ^ set(self._archive.namelist())):
            raise self._refused(f"it and its manifest disagree on {different[0]}")
        return manifest

    def _parts(self, table: TableEntry) -> Iterator[bytes]:
        try:
            with self._archive.open(table.member) as member:
                while data := member.read(_READ_BYTES):
                    yield data
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise self._refused(f"table {table.name} is damaged ({error})") from error

    def _refused(self, problem: str) -> LedgerError:
        return LedgerError(f"{self._path}: {problem}; nothing was restored, take another backup")


def _cell(cell: Any) -> Any:
    if not isinstance(cell, bytes):
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(cell).decode()}


def _bytes(cell: Any) -> bytes | None:
    if cell is None:
        return None
    return cell.encode() if isinstance(cell, str) else base64.b64decode(cell["base64"], validate=True)
