"""Writing a trail: one writer at a time, whole lines, one day a file; killed at any moment it goes on where it was.

What is acknowledged is in ``head``, which is replaced after the records are on disk. Records beyond it that are whole
count too; a line that a kill left unfinished is cut off. Both are told in records before ``head`` names anything more.
What could not be written as a whole is taken back at once, so that a disk may be full for hours.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import date, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from farthing.audit.chain import (
    ANCHORS,
    GENESIS,
    HEAD,
    Signed,
    day_of,
    digest,
    encoded,
    file_name,
    link,
    signed_line,
)
from farthing.audit.disk import Disk, lines, open_file, sha256
from farthing.audit.reading import DAY, REMOVED, Anchors, days_in, not_whole, number_of, read_anchors, read_head
from farthing.audit.records import DAY_BEGINS, event, stamp, stamped_ns
from farthing.domain.clock import SECOND
from farthing.domain.errors import AuditError

__all__ = ["ADOPTED", "BEYOND_HEAD", "CUT", "WENT_BACK", "AuditWriter"]

CUT, WENT_BACK = "unfinished_record_cut", "clock_went_back"
"""Kinds of records: of what was cut off after a kill, and of a clock that says an earlier time than before."""
BEYOND_HEAD, ADOPTED = "records_beyond_head", "trail_adopted"
"""Of records that nobody acknowledged, and of a trail that was not signed up to there."""
LOCK, ENDED = "lock", b'"ended":"'
PRIVATE_FOLDER, FINISHED = 0o700, 0o400
TOLERATED_NS = 60 * SECOND
"""How far a clock may be set back without a word: time daemons step by less."""


class AuditWriter:
    """Appends records. ``keys`` sign: the first makes signatures, the others made earlier ones.

    Raises AuditError when the folder cannot be written, somebody else writes it, or what is there is not whole, or with
    keys not signed: then nothing is written after it. ``untold`` is what the writer before had still to tell. ``adopt``
    takes up a trail that is not signed, and tells of it with the first record.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock_ns: Callable[[], int],
        keys: Sequence[bytes] = (),
        fsync: bool = True,
        untold: Sequence[Mapping[str, Any]] = (),
        adopt: bool = False,
    ) -> None:
        self._folder = folder
        self._clock_ns = clock_ns
        self._keys = keys
        self._disk = Disk(fsync=fsync)
        self._lock = -1
        self._file = -1
        self._anchors = Anchors()
        self._whole = hashlib.sha256()
        self._told = list(untold)
        self._cuts: list[tuple[Path, int, int]] = []
        """(file, bytes that are whole, bytes that are not). The first write cuts them: an opening may still fail."""
        self._latest_ns = 0
        self.n = 0
        """The number of the last record."""
        self._hash = GENESIS
        self._day = ""
        self._first, self._before, self._bytes = 1, GENESIS, 0
        self._sure = 0
        """Bytes of the open file that are not taken back when a write fails."""
        try:
            self._open(adopt)
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    @property
    def untold(self) -> tuple[Mapping[str, Any], ...]:
        """Records of its own that could not be written."""
        return tuple(self._told)

    def append(self, contents: Sequence[Mapping[str, Any]]) -> int:
        """Write records, durably before it returns; returns the number of the first of ``contents``.

        ``contents`` are of ``records.request`` and ``records.event``. After an AuditError the writer is closed: a new
        one finds out what of them is there.
        """
        with self._writing():
            return self._append(contents)

    def remove_before(self, day: str, *, whole: bool = False) -> int:
        """Remove the files of days that are over and before ``day``, and say so in the anchors; returns how many.

        A name alone makes no day old: a clock that was far behind gave it, and the day is kept with its requests.
        Nothing is removed where that could not be said: a clock that was far ahead gave ``day``. ``whole``: none is
        whose file is not as its anchor says, nor what comes after it.
        """
        with self._writing():
            # the last record stays, which a start goes on from
            there = [one.content for one in self._anchors.there if one.content["last_n"] < self.n]
            whole_ones = takewhile(lambda one: not whole or sha256(self._path(one)) == one["sha256"], there)
            old = list(takewhile(lambda one: self._is_old(one, day), whole_ones))
            if not old:
                return 0
            self._tell()
            said = {
                "kind": REMOVED,
                "at": stamp(self._now()),
                "through": old[-1]["day"],
                "days": len(old),
                "records": sum(int(anchor["records"]) for anchor in old),
                "last": old[-1]["last"],
            }
            if self._anchors.refused(said):
                return 0
            self._add_anchor(said)
            self._write_head()
            self._unlink_removed()
        return len(old)

    def _is_old(self, anchor: Mapping[str, Any], day: str) -> bool:
        """Whether a day and all requests in it ended before ``day``; the file is read where it was finished later."""
        if str(anchor["day"]) >= day or str(anchor.get("at", ""))[:10] <= day:
            return str(anchor["day"]) < day
        with closing(lines(self._path(anchor))) as found:
            return all(line.partition(ENDED)[2][:10] < day.encode() for line in found)

    def _path(self, anchor: Mapping[str, Any]) -> Path:
        return self._folder / file_name(str(anchor["day"]))

    def close(self) -> None:
        """Let others write."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    # ---- opening -------------------------------------------------------------------------------

    def _open(self, adopt: bool) -> None:
        self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        self._lock = open_file(self._folder / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = f"audit trail {self._folder}: another process writes it; give each its own audit.dir"
            raise AuditError(text) from error
        head, wrong = read_head(self._folder, self._keys)
        self._anchors = read_anchors(self._folder, self._keys)
        days = days_in(self._folder)
        if head is None and not wrong and not days and not self._anchors.lines:
            self._write_head()
            return
        if head is None or wrong:
            raise not_whole(self._folder, f"{HEAD} {wrong or 'is gone'}")
        self._check_signed(head, adopt)
        # a clock that was set back meanwhile is told
        self._latest_ns = stamped_ns(str(head.content.get("at", "")))
        self._open_anchors(str(head.content["anchor"]), adopt)
        self._take_up(head, days)
        if adopt:
            self._remember(event(ADOPTED, self._now(), unsigned_through=self.n))

    def _check_signed(self, head: Signed, adopt: bool) -> None:
        """With keys the head is signed, which holds all that is before it; only ``adopt`` takes one that is not."""
        signed = any(one.is_signed for one in self._anchors.lines)
        said = ""
        if not self._keys and (signed or head.is_signed):
            said = "is signed, and there is no audit.key_file; set it, or another audit.dir"
        elif self._keys and signed and not head.is_signed:
            raise not_whole(self._folder, f"{HEAD} is not signed, and {ANCHORS} is")
        elif self._keys and not head.is_signed and not adopt:
            said = (
                "is not signed, and there is an audit.key_file; if it was written before there was a key, sign it with "
                "farthing audit adopt, else keep it as it is, and set another audit.dir"
            )
        elif adopt and head.is_signed:
            said = "is signed already; there is nothing to adopt"
        if said:
            raise AuditError(f"audit trail {self._folder}: {said}")

    def _open_anchors(self, known: str, adopt: bool) -> None:
        anchors = self._anchors
        if anchors.wrong:
            raise not_whole(self._folder, f"{ANCHORS}:{anchors.wrong[0][0]} {anchors.wrong[0][1]}")
        if known not in anchors.hashes:
            raise not_whole(self._folder, f"{ANCHORS} was cut off")
        for one in anchors.lines[anchors.hashes.index(known) :]:
            # the head's signature does not hold what came after it; one that is adopted has none
            if self._keys and not adopt and not one.is_signed:
                raise not_whole(self._folder, f"{ANCHORS}:{one.content['a']} is not signed")
        if anchors.rest:
            path, rest = self._folder / ANCHORS, len(anchors.rest)
            self._cuts.append((path, path.stat().st_size - rest, rest))
        self._unlink_removed()

    def _take_up(self, head: Signed, days: Sequence[str]) -> None:
        """Go on after the last whole record, which may be beyond the head: that is told."""
        said = head.content
        day = str(said["day"])
        if day:
            if day not in days and day > self._anchors.removed:
                raise not_whole(self._folder, f"the file of {day} is gone")
            self._begin_day(day)
            self._read_day(int(said["n"]), str(said["hash"]), int(said["bytes"]))
        for later in [one for one in days if one > day]:
            if self._day and self._day not in self._anchors.days:
                raise not_whole(
                    self._folder, f"{file_name(self._day)} has no anchor, and {file_name(later)} comes after it"
                )
            path = self._folder / file_name(later)
            with closing(lines(path)) as found:
                first = next(found, b"")
            if first.endswith(b"\n"):
                self._begin_day(later)
                self._read_day(self.n, self._hash, 0)
            else:
                # killed before the first record of the day was whole
                self._cuts.append((path, 0, len(first)))
        known = max(int(said["n"]), self._anchors.before(self._day)[0])
        if self.n > known and self._day not in self._anchors.days:
            beyond = {"records": self.n - known, "first_n": known + 1, "last_n": self.n}
            self._remember(event(BEYOND_HEAD, self._now(), **beyond))

    def _begin_day(self, day: str) -> None:
        self._day, self._whole, self._bytes = day, hashlib.sha256(), 0
        self.n, self._hash = self._anchors.before(day)
        self._before, self._first = self._hash, self.n + 1

    def _read_day(self, n: int, hash_: str, size: int) -> None:
        """Read the day's file; it has to hold record ``n`` with its hash at ``size`` bytes, and end as anchored."""
        path = self._folder / file_name(self._day)
        end: tuple[int, str, int] | None = None
        if self._day in self._anchors.days:
            anchor = self._anchors.days[self._day].content
            end = (int(anchor["last_n"]), str(anchor["last"]), int(anchor["bytes"]))
        if end and not path.exists():
            # removed by retention, which keeps its anchor
            self.n, self._hash, self._bytes = end
            return
        rest = b""
        with closing(lines(path)) as found:
            for place, line in enumerate(found, start=1):
                if not line.endswith(b"\n"):
                    rest = line
                    break
                own = digest(line[65:-1])
                if number_of(line) != self.n + 1 or line[:64].decode("latin-1") != link(self._hash, own):
                    raise not_whole(self._folder, f"{path.name}:{place} was altered")
                self._took(line)
                if self.n == n and (self._hash, self._bytes) != (hash_, size) and size:
                    raise not_whole(self._folder, f"{path.name}:{place} is not the record that {HEAD} names")
        if self.n < n or self._bytes < size:
            raise not_whole(self._folder, f"{path.name} ends before record {n}, which {HEAD} names")
        if end is None:
            self._file = open_file(path, os.O_WRONLY | os.O_APPEND)
            self._sure = self._bytes
            if rest:
                self._cuts.append((path, self._bytes, len(rest)))
        elif rest or (self.n, self._hash, self._bytes) != end:
            raise not_whole(self._folder, f"{path.name} does not end as its anchor says")

    # ---- writing -------------------------------------------------------------------------------

    def _append(self, contents: Sequence[Mapping[str, Any]]) -> int:
        self._tell()
        self._rotate(self._next_day(day_of(self._now())))
        first = self.n + 1
        self._put(contents)
        return first

    def _tell(self) -> None:
        """Cut what is unfinished, and tell what there is to tell, in the file that is open, before it is anchored."""
        now = self._clock_ns()
        if self._latest_ns - now > TOLERATED_NS:
            self._remember(event(WENT_BACK, self._latest_ns, seconds=(self._latest_ns - now) // SECOND))
            self._latest_ns = now
        self._latest_ns = max(self._latest_ns, now)
        for path, _, lost in self._cuts:
            if lost:
                self._remember(event(CUT, self._now(), file=path.name, bytes=lost))
        for path, whole, _ in self._cuts:
            if whole:
                self._disk.shorten(path, whole)
            else:
                path.unlink(missing_ok=True)
        self._cuts = []
        if self._told:
            if self._file < 0:
                self._rotate(self._next_day(day_of(self._now())))
            try:
                self._put(self._told)
            finally:
                if self._sure == self._bytes:
                    # the head names them, whatever failed after that
                    self._told = []

    def _remember(self, one: Mapping[str, Any]) -> None:
        """Tell it with the next write: one of a kind and file, however often writing fails before that."""
        others = [other for other in self._told if (other["kind"], other.get("file")) != (one["kind"], one.get("file"))]
        self._told = [*others, one]

    def _put(self, contents: Sequence[Mapping[str, Any]]) -> None:
        self._disk.write(self._file, b"".join(map(self._line, contents)))
        self._disk.sync(self._file)
        self._write_head()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """After a failure take back what the head does not name, and close."""
        try:
            yield
        except OSError as error:
            if self._file >= 0:
                self._disk.cut(self._file, self._sure)
            self.close()
            raise self._failed(error) from error

    def _now(self) -> int:
        return max(self._clock_ns(), self._latest_ns)

    def _next_day(self, today: str) -> str:
        """The day to write in: today, or where the clock went back, the one that is open or the first free one."""
        if today > self._day or self._file >= 0:
            return max(today, self._day)
        return (date.fromisoformat(self._day) + timedelta(days=1)).isoformat()

    def _rotate(self, day: str) -> None:
        if day == self._day and self._file >= 0:
            return
        if self._file >= 0:
            self._finish_day()
        path = self._folder / file_name(day)
        self._day, self._whole, self._bytes = day, hashlib.sha256(), 0
        self._before, self._first = self._hash, self.n + 1
        self._file = open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self._sure = 0
        self._disk.write(self._file, self._line(event(DAY_BEGINS, self._now(), day=day, previous=self._before)))
        self._disk.sync_folder(self._folder)

    def _finish_day(self) -> None:
        self._disk.sync(self._file)
        said = {
            "kind": DAY,
            "at": stamp(self._now()),
            "day": self._day,
            "records": self.n - self._first + 1,
            "first_n": self._first,
            "last_n": self.n,
            "previous": self._before,
            "last": self._hash,
            "bytes": self._bytes,
            "sha256": self._whole.hexdigest(),
        }
        self._add_anchor(said)
        with suppress(OSError):
            os.fchmod(self._file, FINISHED)
        os.close(self._file)
        self._file = -1

    def _add_anchor(self, said: Mapping[str, Any]) -> None:
        anchors = self._anchors
        key = self._keys[0] if self._keys else None
        one = signed_line(ANCHORS, anchors.last, {"a": len(anchors.lines) + 1, **said}, key)
        self._disk.append(self._folder / ANCHORS, one.line)
        anchors.add(one)

    def _unlink_removed(self) -> None:
        for day in days_in(self._folder):
            if day <= self._anchors.removed:
                (self._folder / file_name(day)).unlink(missing_ok=True)

    def _write_head(self) -> None:
        said = {
            "kind": HEAD,
            "at": stamp(self._now()),
            "day": self._day,
            "n": self.n,
            "hash": self._hash,
            "bytes": self._bytes,
            "anchor": self._anchors.last,
        }
        line = signed_line(HEAD, GENESIS, said, self._keys[0] if self._keys else None).line
        self._disk.replace(self._folder / HEAD, line)
        self._sure = self._bytes
        self._disk.sync_folder(self._folder)

    def _line(self, content: Mapping[str, Any]) -> bytes:
        body = encoded({"n": self.n + 1, **content})
        line = b"%b %b\n" % (link(self._hash, digest(body)).encode(), body)
        self._took(line)
        return line

    def _took(self, line: bytes) -> None:
        self.n += 1
        self._hash = line[:64].decode()
        self._bytes += len(line)
        self._whole.update(line)

    def _failed(self, error: OSError) -> AuditError:
        hint = "nothing is lost: what is missing is written once it can be" if error.errno else ""
        return AuditError(f"audit trail {self._folder}: {error.strerror or error}; {hint}")
