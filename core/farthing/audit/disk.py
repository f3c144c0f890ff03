"""Bytes of a trail on the disk: all of them or none, and there for good before anything else is done.

Whoever may write to its folder can put anything there, so nothing is opened but files: a link would lead to another
file of the service's, and a pipe would let it wait for ever. Who only reads may be given a link.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["LONGEST", "PRIVATE", "Disk", "lines", "open_file", "regular", "sha256"]

PRIVATE = 0o600
NEW = ".new"
LONGEST = 64 * 2**20
"""Bytes of a line, at most; a record has some hundred."""


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a file, which the name itself has to stand for. Raises OSError where it is none."""
    text = f"{path.name} is no file of its own, but a link or a pipe: put the file there"
    try:
        return _regular(path, flags | os.O_NOFOLLOW, text)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise OSError(error.errno, text) from error
        raise


def regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes; nobody is waited for. Raises OSError, for a pipe or a device too."""
    return os.fdopen(_regular(path, os.O_RDONLY, "it is no regular file"), "rb")


def _regular(path: Path, flags: int, text: str) -> int:
    """A descriptor of a regular file; nobody is waited for. Raises OSError with ``text`` where it is another."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, PRIVATE)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, text)
    return descriptor


def lines(path: Path) -> Generator[bytes, None, None]:
    """The lines of a file with their ends. Raises OSError where it is none, or for a line that no record can be."""
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        while line := file.readline(LONGEST):
            if len(line) == LONGEST and not line.endswith(b"\n"):
                raise OSError(errno.EFBIG, f"{path.name} has a line that is longer than any record")
            yield line


def sha256(path: Path) -> str:
    """The hash of a file's bytes; empty where there is no file. Raises OSError where it cannot be read."""
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Disk:
    """Writes and syncs; without ``fsync`` a power cut may take what was written last. Raises OSError."""

    fsync: bool

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def append(self, path: Path, data: bytes) -> None:
        """Write ``data`` at the end of a file, or nothing of it."""
        descriptor = open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            try:
                self.write(descriptor, data)
                self.sync(descriptor)
            except OSError:
                self.cut(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def replace(self, path: Path, data: bytes) -> None:
        """Put a file with ``data`` in a file's place; that it is there after a power cut ``sync_folder`` says."""
        new = path.with_name(path.name + NEW)
        new.unlink(missing_ok=True)
        descriptor = open_file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            self.write(descriptor, data)
            self.sync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(path)

    def shorten(self, path: Path, size: int) -> None:
        """Cut off what a file has behind ``size`` bytes."""
        descriptor = open_file(path, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def cut(self, descriptor: int, size: int) -> None:
        """Take back what is behind ``size`` bytes, where that can be done: the next start does it else."""
        with suppress(OSError):
            os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Wait until a file's bytes are on the disk."""
        if self.fsync:
            os.fsync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        if not self.fsync:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
