"""Batches that wait on disk: what memory cannot hold, and what a process leaves behind when it ends.

Each process writes into a directory of its own below the spool's and holds its lock (``flock``) while it lives.
A directory whose lock can be had belongs to nobody any more: whoever gets it sends its batches. So no batch has
two senders, and the one who drops a batch is the one who counts it. Files are not synced: they outlive the
process, and what a power cut tears is refused by the intake and counted.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from farthing_probe.wire import USAGE_PATH, WINDOWS_PATH

__all__ = ["Batch", "Spool", "SpoolError"]

BLOCK = 4096
"""Files are accounted for in blocks of this many bytes, as disks do."""
OTHERS_SECONDS = 10.0
"""How long the size of the directories that others hold is believed."""
PATHS = {"usage": USAGE_PATH, "windows": WINDOWS_PATH}
FILE = re.compile(r"(\d{12})-(\d{1,9})\.(usage|windows)\.jsonl\.gz", re.ASCII)
LOCK, PART = "lock", "part"


class SpoolError(Exception):
    """The spool cannot be used; the text says why and what to do."""


@dataclass(eq=False)
class Batch:
    """Records of one path, encoded; the body is in memory or in ``file``."""

    path: str
    count: int
    body: bytes = b""
    file: Path | None = None
    size: int = 0
    """Bytes that the file takes."""
    number: int = 0
    written_ns: int = 0


class Spool:
    """The batches that this process holds on disk, oldest first: adopted ones, then its own.

    ``process`` names this process's directory. ``most_bytes`` bounds everything below ``root``, other processes'
    batches included, up to what they write within ten seconds. ``dropped`` is told how many records were given
    up for newer ones. For one thread at a time.
    """

    def __init__(self, root: Path, process: str, most_bytes: int, dropped: Callable[[int], None]) -> None:
        self._root, self._own = root, root / process
        self._limit, self._dropped = most_bytes, dropped
        self._batches: deque[Batch] = deque()
        self._locks: dict[Path, int] = {}
        self._number = 0
        self._others, self._others_until = 0, 0.0
        self.bytes = 0

    def adopt(self) -> None:
        """Take over the directories of processes that have ended; raises SpoolError or OSError where none may be."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private(self._root):
            raise SpoolError("it must belong to this user, and nobody else may write there (chmod 700)")
        adopted = []
        for directory in self._root.iterdir():
            if directory in self._locks or directory.name.startswith(".") or not _private(directory):
                continue
            lock = _lock(directory)
            if lock is None:
                continue
            self._locks[directory] = lock
            if batches := _batches(directory):
                adopted.append(batches)
            else:
                self._let_go(directory)
        for batches in sorted(adopted, key=lambda those: (those[0].written_ns, str(those[0].file)), reverse=True):
            self._batches.extendleft(reversed(batches))  # each goes before the last
            self._number = max([self._number, *(batch.number + 1 for batch in batches)])
            self.bytes += sum(batch.size for batch in batches)

    def oldest(self) -> Batch | None:
        """The batch to send next."""
        return self._batches[0] if self._batches else None

    def append(self, batch: Batch, keep: Batch | None = None) -> None:
        """Write a batch behind all others, dropping the oldest where there is no room; never drops ``keep``.

        Raises SpoolError or OSError when it cannot be written; it is then as it was.
        """
        self._hold()
        size, elsewhere = _blocks(len(batch.body)), self._elsewhere()
        if elsewhere + size + (keep.size if keep else 0) > self._limit:
            raise SpoolError("the spool has no room")
        while elsewhere + self.bytes + size > self._limit:
            victim = next(candidate for candidate in self._batches if candidate is not keep)
            self._dropped(victim.count)
            self.remove(victim)
        kind = next(kind for kind, path in PATHS.items() if path == batch.path)
        file = self._own / f"{self._number:012}-{batch.count}.{kind}.jsonl.gz"
        _write(file, batch.body)
        self._number += 1
        self.bytes += size
        batch.file, batch.size, batch.body = file, size, b""
        self._batches.append(batch)

    def remove(self, batch: Batch) -> None:
        """Forget a batch and delete its file."""
        if batch.file is None or batch not in self._batches:
            return
        self._batches.remove(batch)
        self.bytes -= batch.size
        with suppress(OSError):  # else it will be sent again some day, and the intake knows it
            batch.file.unlink()
        if batch.file.parent != self._own and not self._holds_any(batch.file.parent):
            self._let_go(batch.file.parent)

    def close(self, *, tidy: bool = True) -> None:
        """Let go of all directories, for the next one to adopt; a forked child leaves them as they are (not tidy)."""
        for directory in list(self._locks):
            self._let_go(directory, tidy=tidy)
        self._batches.clear()
        self.bytes = 0

    def _holds_any(self, directory: Path) -> bool:
        return any(batch.file and batch.file.parent == directory for batch in self._batches)

    def _let_go(self, directory: Path, *, tidy: bool = True) -> None:
        if tidy and not self._holds_any(directory):
            with suppress(OSError):
                (directory / PART).unlink(missing_ok=True)
                (directory / LOCK).unlink()
                directory.rmdir()
        with suppress(OSError):
            os.close(self._locks.pop(directory))  # never LOCK_UN: in a forked child that would be the parent's

    def _hold(self) -> None:
        """Have a directory of our own, locked before anybody can see it under its name."""
        if self._own in self._locks:
            if (self._own / LOCK).exists():
                return
            os.close(self._locks.pop(self._own))  # somebody cleared the spool away under us
        self.adopt()
        if self._own in self._locks:  # left by an earlier process of this name
            return
        hidden = self._root / f".{self._own.name}"
        hidden.mkdir(mode=0o700, exist_ok=True)
        lock = _lock(hidden)
        if lock is None:
            raise SpoolError("another process has the same name")
        self._locks[hidden] = lock
        try:
            hidden.rename(self._own)
        except OSError:
            self._let_go(hidden)
            raise
        self._locks[self._own] = self._locks.pop(hidden)

    def _elsewhere(self) -> int:
        """Bytes in directories that other processes hold."""
        now = time.monotonic()
        if now >= self._others_until:
            self._others, self._others_until = 0, now + OTHERS_SECONDS
            with suppress(OSError):
                others = [path for path in self._root.iterdir() if path not in self._locks and _private(path)]
                self._others = sum(batch.size for path in others for batch in _batches(path))
        return self._others


def _private(path: Path) -> bool:
    """Whether it is a directory that only this user can have filled."""
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _batches(directory: Path) -> list[Batch]:
    """The batches in a directory, oldest first; none where it has gone or cannot be read."""
    found = []
    with suppress(OSError):
        for file in sorted(directory.iterdir()):
            if match := FILE.fullmatch(file.name):
                status = file.stat()
                size, written_ns = _blocks(status.st_size), status.st_mtime_ns
                found.append(Batch(PATHS[match[3]], int(match[2]), b"", file, size, int(match[1]), written_ns))
    return found


def _lock(directory: Path) -> int | None:
    """The descriptor of a directory's lock, now held; None when somebody else holds it."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:  # 0: its last holder removed the directory meanwhile
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _write(file: Path, body: bytes) -> None:
    """The whole file under its name, or OSError and nothing."""
    part = file.with_name(PART)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            left = memoryview(body)
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
        part.replace(file)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
