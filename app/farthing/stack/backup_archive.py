"""A backup of the stack as a file: a plain tar archive, with gzip around it where its name says so.

Its last member, ``manifest.json``, names every other with its size and SHA-256, so that an archive that was cut off has
none. Only regular files are in it: the reader takes the tar format's plain headers and nothing else (POSIX.1-2001, pax,
"ustar Interchange Format"; sizes above 8 GiB as GNU tar writes them), so that no link, device, long name or extended
header of a stranger's archive is ever interpreted.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from farthing.domain.errors import BackupError

__all__ = ["ArchiveReader", "ArchiveWriter", "Manifest", "Member", "Progress", "part_of", "read_chunks", "sync_folder"]

FORMAT = "farthing stack"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BLOCK = 512
_CHUNK = 1 << 20
_MOST_MANIFEST_BYTES = 1 << 26
_MOST_MEMBERS = 200_000
_MOST_NAME = 100
"""What a plain header holds."""
_NAME = re.compile(r"[a-z][a-z0-9-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
"""A part, then relative steps none of which begins with a dot."""
_GZIP = b"\x1f\x8b"
_MODES = 0o777
_PRIVATE = 0o600
_FAST = 1
"""Most of it is compressed already."""

Progress = Callable[[str, int, int], None]
"""Told a part, how much of it is done, and how much there is: bytes, or rows of the ledger."""


class Member(msgspec.Struct, frozen=True):
    """One file of an archive."""

    name: str
    size: int
    mode: int
    """Permission bits."""
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds, and what made it."""

    farthing: str
    """Version of the program."""
    made_ns: int
    """UTC."""
    ledger_schema: str
    ledger_rows: int
    notes: tuple[str, ...] = ()
    """What is not in it, or older than the rest, in words."""
    members: tuple[Member, ...] = ()
    format: str = FORMAT
    version: int = FORMAT_VERSION

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the stack that have something in it."""
        return tuple(dict.fromkeys(part_of(member.name) for member in self.members))

    def bytes_of(self, part: str) -> int:
        """How much of the archive a part is."""
        return sum(member.size for member in self.members if part_of(member.name) == part)


def part_of(name: str) -> str:
    """The part of the stack that a member belongs to."""
    return name.partition("/")[0]


def read_chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of a file in pieces; fewer when it ends before."""
    while size > 0 and (data := file.read(min(size, _CHUNK))):
        size -= len(data)
        yield data


def sync_folder(path: Path) -> None:
    """Let the names in a folder survive a power cut. OSError when it cannot be synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ArchiveWriter:
    """Writes an archive under a temporary name beside its own, which it gets once it is whole and on disk."""

    def __init__(self, path: Path, *, force: bool) -> None:
        """Raises BackupError when the file exists, without ``force``, or cannot be written."""
        if not path.name.endswith(SUFFIXES):
            raise BackupError(f"{path}: give a name that ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        self._path = path
        self._force = force
        self._refuse_existing()
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        """Not the archive yet; what has to be put together first may lie beside it."""
        try:
            # costs, tenants and hashes of passwords: nobody else needs to read it
            descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
        except OSError as error:
            raise BackupError(f"{path}: cannot be written ({error.strerror}); give another file") from error
        self._file = os.fdopen(descriptor, "wb")
        self._out: BinaryIO = self._file
        if not path.name.endswith(".tar"):
            # without the time, the same content is the same file
            zipped = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=_FAST, mtime=0)
            self._out = cast("BinaryIO", zipped)
        self._members: list[Member] = []

    def add(self, name: str, size: int, mode: int, chunks: Iterable[bytes], made_ns: int) -> None:
        """Write one file of a known size. OSError when the disk is full; BackupError when the content is shorter."""
        if not _NAME.fullmatch(name) or len(name) > _MOST_NAME:
            raise BackupError(f"{name}: is no name for a file of a backup")
        digest, left = hashlib.sha256(), size
        mode &= _MODES
        self._header(name, size, mode, made_ns)
        for data in chunks:
            digest.update(data)
            self._out.write(data)
            left -= len(data)
        if left:
            raise BackupError(f"{name}: changed while it was read; take the backup again")
        self._out.write(bytes(-size % _BLOCK))
        self._members.append(Member(name, size, mode, digest.hexdigest()))

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, sync, and give the file its name; returns the manifest with all members."""
        manifest = msgspec.structs.replace(manifest, members=tuple(self._members))
        data = msgspec.json.format(msgspec.json.encode(manifest))
        self._header(MANIFEST, len(data), _PRIVATE, manifest.made_ns)
        self._out.write(data + bytes(-len(data) % _BLOCK) + bytes(2 * _BLOCK))
        if self._out is not self._file:
            self._out.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._refuse_existing()
        self.temporary.replace(self._path)
        sync_folder(self._path.parent)
        return manifest

    def abandon(self) -> None:
        """Leave nothing behind."""
        for file in (self._out, self._file):
            with suppress(OSError, ValueError):
                file.close()
        self.temporary.unlink(missing_ok=True)

    def _header(self, name: str, size: int, mode: int, made_ns: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = size, mode, made_ns // 1_000_000_000
        self._out.write(entry.tobuf(tarfile.GNU_FORMAT))

    def _refuse_existing(self) -> None:
        if self._path.exists() and not self._force:
            raise BackupError(f"{self._path}: exists already; give another file, or --force to replace it")


class ArchiveReader:
    """Reads an archive from its beginning to its end, as often as it is asked to, holding a megabyte of it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, room: Callable[[str], int], progress: Progress) -> Manifest:
        """Read everything once; returns the manifest. Writes nothing.

        ``room`` says how many bytes fit where a part's files go. Raises BackupError naming the first thing that is not
        what it must be: an archive that is cut off, a member that was altered, that is no plain file, whose name leads
        elsewhere, or that cannot fit.
        """
        with self._readable():
            return self._checked(room, progress)

    def members(self, manifest: Manifest) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Every member with its content, compared with the manifest once more as it is read."""
        known = {member.name: member for member in manifest.members}
        with self._readable():
            for name, size, _mode, chunks in self._walk():
                if name == MANIFEST:
                    return
                member = known.get(name)
                if member is None or member.size != size:
                    raise self.refused(f"{name} changed while it was restored")
                yield member, self._verified(member, chunks)

    def refused(self, problem: str) -> BackupError:
        """The error of an archive that is not restored."""
        return BackupError(f"{self.path}: {problem}; nothing was restored")

    # ---- inside ------------------------------------------------------------------------------------------

    def _checked(self, room: Callable[[str], int], progress: Progress) -> Manifest:
        found: dict[str, Member] = {}
        sums: dict[str, int] = {}
        raw = b""
        size_of_file = max(self.path.stat().st_size, 1)
        for name, size, mode, chunks in self._walk():
            if raw:
                raise self.refused(f"{name} comes after the manifest, which is the last member")
            if name == MANIFEST:
                if size > _MOST_MANIFEST_BYTES:
                    raise self.refused("its manifest is far too long")
                raw = b"".join(chunks)
                continue
            part = part_of(name)
            sums[part] = sums.get(part, 0) + size
            if name in found or len(found) >= _MOST_MEMBERS:
                raise self.refused(f"{name} is in it twice" if name in found else "it has far too many members")
            if sums[part] > (free := room(part)):
                raise self.refused(f"its {part} needs {sums[part]:,} bytes, and {free:,} are free there; make room")
            digest = hashlib.sha256()
            for data in chunks:
                digest.update(data)
            found[name] = Member(name, size, mode, digest.hexdigest())
            progress("reading", min(self._raw.tell(), size_of_file), size_of_file)
        if not raw:
            raise self.refused("has no manifest: it is cut off, or was never a backup of a stack")
        return self._compare(self._manifest(raw), found)

    def _verified(self, member: Member, chunks: Iterator[bytes]) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with self._readable():
            for data in chunks:
                digest.update(data)
                yield data
        if digest.hexdigest() != member.sha256:
            raise self.refused(f"{member.name} changed while it was restored")

    def _manifest(self, raw: bytes) -> Manifest:
        try:
            head = msgspec.json.decode(raw)
            kind, version = head["format"], int(head["version"])
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            raise self.refused("its manifest is damaged") from error
        if kind != FORMAT:
            raise self.refused(f"it says that it is {kind!r}, and not {FORMAT!r}")
        if version > FORMAT_VERSION:
            raise self.refused(
                f"it has format {version} and this version reads up to {FORMAT_VERSION}; use a newer one"
            )
        try:
            return msgspec.json.decode(raw, type=Manifest)
        except msgspec.MsgspecError as error:
            raise self.refused(f"its manifest is damaged ({error})") from error

    def _compare(self, manifest: Manifest, found: dict[str, Member]) -> Manifest:
        said = {member.name: member for member in manifest.members}
        if different := sorted(said.keys() ^ found.keys()):
            raise self.refused(f"it and its manifest disagree on {different[0]}")
        for name, member in said.items():
            if member != found[name]:
                raise self.refused(f"{name} is not what was backed up: its size, mode or SHA-256 differs")
        return manifest

    def _walk(self) -> Iterator[tuple[str, int, int, Iterator[bytes]]]:
        """Name, size, mode and content of every member; the content has to be read before the next."""
        with self.path.open("rb") as file:
            self._raw = file
            zipped = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            yield from self._headers(cast("BinaryIO", gzip.GzipFile(fileobj=file)) if zipped else file)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """One clear error for whatever a file that is damaged, cut off or away does to its reader."""
        try:
            yield
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self.refused(f"is damaged ({error})") from error
        except EOFError as error:
            raise self.refused("is cut off") from error
        except OSError as error:
            raise BackupError(f"{self.path}: cannot be read ({error.strerror}); give a backup's file") from error

    def _headers(self, stream: BinaryIO) -> Iterator[tuple[str, int, int, Iterator[bytes]]]:
        while True:
            block = _exactly(stream, _BLOCK)
            if not block.strip(b"\0"):
                return
            try:
                entry = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            except (tarfile.HeaderError, ValueError) as error:
                raise self.refused("is damaged, or was never a backup of a stack") from error
            name = entry.name
            if entry.type != tarfile.REGTYPE or entry.size < 0:
                raise self.refused(f"{name!r} is no plain file, and a backup holds nothing else")
            if name != MANIFEST and not _NAME.fullmatch(name):
                raise self.refused(f"{name!r} is no name that a backup holds")
            content = _Content(stream, entry.size)
            yield name, entry.size, entry.mode & _MODES, iter(content)
            content.skip()


class _Content:
    """What follows a header: so many bytes, and zeros up to the next block."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._left = size
        self._padding = -size % _BLOCK

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            data = self._stream.read(min(self._left, _CHUNK))
            if not data:
                raise EOFError
            self._left -= len(data)
            yield data

    def skip(self) -> None:
        """Go on to the next header."""
        for _ in self:
            pass
        _exactly(self._stream, self._padding)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """So many bytes. Raises EOFError when there are fewer."""
    buffer = io.BytesIO()
    while buffer.tell() < size:
        data = stream.read(size - buffer.tell())
        if not data:
            raise EOFError
        buffer.write(data)
    return buffer.getvalue()
