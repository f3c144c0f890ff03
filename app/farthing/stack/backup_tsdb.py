"""A copy of a running Prometheus' database, from its files alone.

Prometheus' own snapshot needs ``--web.enable-admin-api``, with which everybody who reaches it may delete series, and it
has no exemplars in it. Its files can be copied as well, because each is written once (tsdb/docs/format, Prometheus
3.5): a block is renamed into place whole and never changed; the write-ahead log only grows at its end, is cut into
segments, and from time to time a checkpoint, renamed into place as well, stands for the oldest of them. Every file is
opened before the first is read, so that what Prometheus deletes meanwhile can still be read; where one was deleted
between being listed and being opened, all of it begins again. ``chunks_head`` is left out: it speeds up a start, and
all that is in it is in the write-ahead log too.

The log is opened before the blocks. A block that is cut from the head in between is then in both, and Prometheus leaves
out samples of the log that a block covers; the other way round it would be in neither.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from farthing.domain.errors import BackupError

__all__ = ["Pinned", "pinned", "pinned_tsdb", "whole_records"]

ATTEMPTS = 20
_BLOCK_NAME = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
"""A ULID. Blocks that are being written or deleted have a longer name."""
_CHECKPOINT = re.compile(r"checkpoint\.(\d+)")
_SEGMENT = re.compile(r"\d{8,}")
_PAGE = 32 * 1024
_HEADER = 7
"""Bytes before each fragment of the log: a type, a length and a checksum (tsdb/docs/format/wal.md)."""
_TYPE_BITS = 0b111
_ENDS = (1, 4)
"""Types of a fragment that ends a record: a whole one, and the last of several."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """An open file, its name relative to the folder, and how much of it belongs to the copy."""

    name: str
    file: BinaryIO
    size: int


@contextmanager
def pinned_tsdb(folder: Path) -> Iterator[tuple[Pinned, ...]]:
    """The files of the database in ``folder``, open; empty when there is none. Raises BackupError."""
    _allow_many_files()
    for attempt in range(ATTEMPTS):
        with ExitStack() as files:
            try:
                found = tuple(_pin(folder, files))
            except FileNotFoundError:
                if attempt + 1 < ATTEMPTS:
                    continue
                raise BackupError(
                    f"{folder}: Prometheus deletes files faster than they are opened; try again"
                ) from None
            except OSError as error:
                raise BackupError(f"{folder}: {error.filename or ''} cannot be read ({error.strerror})") from error
            yield found
            return


def pinned(path: Path, name: str, files: ExitStack, *, follow: bool = False) -> Pinned:
    """One open file as it is now. OSError for a symbolic link, unless it is followed.

    Whoever writes into a volume must not choose which other file a copier that may read everything takes.
    """
    flags = os.O_RDONLY | (0 if follow else os.O_NOFOLLOW)
    file = files.enter_context(os.fdopen(os.open(path, flags), "rb"))
    return Pinned(name, file, os.fstat(file.fileno()).st_size)


def whole_records(file: BinaryIO, size: int) -> int:
    """Up to where a segment of the log holds whole records; its last may be half written just now."""
    at = whole = 0
    page = b""
    file.seek(0)
    while at + _HEADER <= size:
        inside = at % _PAGE
        if inside == 0:
            page = file.read(_PAGE)
        if _PAGE - inside < _HEADER or page[inside] & _TYPE_BITS == 0:
            # the rest of the page is empty
            at += _PAGE - inside
            if at <= size and whole == at - (_PAGE - inside):
                whole = at
            continue
        length = int.from_bytes(page[inside + 1 : inside + 3], "big")
        at += _HEADER + length
        if at > size:
            break
        if page[inside] & _TYPE_BITS in _ENDS:
            whole = at
    file.seek(0)
    return whole


def _pin(folder: Path, files: ExitStack) -> Iterator[Pinned]:
    log = folder / "wal"
    if log.is_dir():
        checkpoint, segments = _log_names(log)
        if checkpoint:
            for path in sorted((log / checkpoint).iterdir()):
                yield pinned(path, f"wal/{checkpoint}/{path.name}", files)
        opened = [pinned(log / name, f"wal/{name}", files) for name in segments]
        if _log_names(log)[0] != checkpoint:
            # what the new one stands for may be gone from between
            raise FileNotFoundError
        yield from opened[:-1]
        for last in opened[-1:]:
            yield Pinned(last.name, last.file, whole_records(last.file, last.size))
    for block in sorted(path for path in _entries(folder) if _BLOCK_NAME.fullmatch(path.name)):
        for path in sorted(path for path in block.rglob("*") if path.is_file()):
            yield pinned(path, str(path.relative_to(folder)), files)


def _log_names(log: Path) -> tuple[str, list[str]]:
    """The newest checkpoint ("": there is none), and the segments after it."""
    names = [path.name for path in log.iterdir()]
    number, checkpoint = max(
        ((int(found[1]), name) for name in names if (found := _CHECKPOINT.fullmatch(name))), default=(-1, "")
    )
    return checkpoint, sorted((name for name in names if _SEGMENT.fullmatch(name) and int(name) > number), key=int)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _allow_many_files() -> None:
    """A year of blocks is more files than a process may open by default."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
