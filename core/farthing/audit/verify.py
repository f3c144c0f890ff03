"""Verifying a trail: where a record, a day or an anchor was changed, removed, put in or cut off."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from farthing.audit.chain import ANCHORS, GENESIS, HEAD, Signed, digest, file_name, link, parse_signed
from farthing.audit.disk import regular
from farthing.audit.reading import Anchors, days_in, lines_of, number_of, parse_anchors, read_anchors, read_head
from farthing.audit.writer import BEYOND_HEAD
from farthing.domain.errors import AuditError

__all__ = ["Kept", "Problem", "Verified", "parse_kept", "verify"]

MOST = 20
"""Problems of one file that are told, and records of it that tell of others."""
AFTER = 4
"""Hashes that a record may go on from after one that is wrong, so that each is told once."""
WAITS = (0.0, 0.05, 0.1, 0.2)
"""Seconds before the head is read again where records come after it."""
EVERY = 10_000
"""Records between two reports of progress."""
_TOLD = f'"kind":"{BEYOND_HEAD}"'.encode("ascii")
"""What a record has that tells of others behind a head."""
KIND_ENDS = 120
"""Bytes of a line in which that stands: after a hash and a number of 18 digits at most."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where."""

    file: str
    line: int | None
    record: int | None
    what: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.what}" if self.record is None else f"{place}: record {self.record}: {self.what}"


@dataclass(slots=True)
class Verified:
    """What a verification found."""

    records: int = 0
    """That were read."""
    days: int = 0
    last: int = 0
    """The number of the last record."""
    signed: bool = False
    """Signatures were there and checked."""
    removed: str = ""
    """The last day that retention removed."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept elsewhere of a trail, as ``farthing audit anchors`` printed it."""

    anchors: Anchors
    head: Signed


def parse_kept(data: bytes, name: str) -> Kept:
    """What was kept elsewhere. Raises AuditError when it is not what ``farthing audit anchors`` prints."""
    lines = BytesIO(data).readlines()
    head, wrong = parse_signed(HEAD, GENESIS, lines[-1], ()) if lines else (None, "is empty")
    anchors = parse_anchors(b"".join(lines[:-1]), ())
    if head is None or wrong or anchors.wrong or anchors.rest:
        raise AuditError(f"{name}: is not what `farthing audit anchors` prints: {wrong or 'an anchor was altered'}")
    return Kept(anchors, head)


def verify(
    folder: Path,
    *,
    keys: Sequence[bytes] = (),
    kept: Kept | None = None,
    since: str = "",
    until: str = "9999-12-31",
    progress: Progress = lambda _name, _done, _total: None,
) -> Verified:
    """Read a trail, of days from ``since`` to ``until`` (UTC dates, both included), and say all that is wrong.

    Anchors and head are always checked. With ``keys`` signatures are, and have to be there. ``kept`` is compared too,
    all of it, and the day of its last record is read whatever days are. It may run while the trail is written. Raises
    AuditError where there is no trail.
    """
    found = Verified()
    # in this order: what was there has its anchor by then, however the writer goes on meanwhile
    head, wrong = read_head(folder, keys)
    present = days_in(folder)
    anchors = read_anchors(folder, keys)
    if head is None and not wrong and not present and not anchors.lines:
        raise AuditError(f"audit trail {folder}: there is none; give the folder of audit.dir")
    _check_head(found, head, wrong, anchors, keys)
    _check_anchors(found, anchors)
    _check_signatures(found, head, anchors)
    _check_files(found, head, anchors, present)
    if kept is not None:
        _compare(found, anchors, head, kept)
    found.removed = anchors.removed
    known = str(kept.head.content["day"]) if kept is not None else ""
    total = int(head.content["n"]) if head else 0
    ended: tuple[int, str] | None = None
    gone = {known} if known else set()
    for day in _expected(anchors, head, present):
        if not since <= day <= until and day != known:
            continue
        try:
            ended = _Day(folder, day, anchors=anchors, head=head, kept=kept, ended=ended).check(found, progress, total)
        except FileNotFoundError:
            # retention may have removed it since the anchors were read
            if day > read_anchors(folder, keys).removed:
                found.problems.append(Problem(file_name(day), None, None, "the file of this day is gone"))
                gone.discard(day)
            continue
        gone.discard(day)
        if day in anchors.days:
            ended = None
        if day <= anchors.removed:
            found.notes.append(f"{file_name(day)} is still there, and {ANCHORS} says that it was removed")
    if kept is not None and gone <= anchors.days.keys():
        _tell_of_gone(found, kept, gone)
    return found


# ---- anchors and head --------------------------------------------------------------------------------


def _check_head(found: Verified, head: Signed | None, wrong: str, anchors: Anchors, keys: Sequence[bytes]) -> None:
    if head is None:
        found.problems.append(Problem(HEAD, None, None, wrong or "is gone: it says what the last record is"))
        return
    found.last = int(head.content["n"]) if not wrong else 0
    found.signed = bool(keys) and head.is_signed
    if not wrong and keys and not head.is_signed:
        wrong = "is not signed, and a key was given"
    if not wrong and head.content["anchor"] not in anchors.hashes:
        what = f"does not have the anchor that {HEAD} names: it was cut off or altered"
        found.problems.append(Problem(ANCHORS, len(anchors.lines) + 1, None, what))
    if not wrong and head.content["day"] < anchors.latest:
        wrong = f"is of {head.content['day'] or 'no day'}, and {ANCHORS} go on to {anchors.latest}: it was put back"
    if wrong:
        found.problems.append(Problem(HEAD, 1, None, wrong))
    elif not keys and head.is_signed:
        found.notes.append("it is signed, and no key was given: signatures were not checked")


def _check_anchors(found: Verified, anchors: Anchors) -> None:
    found.problems += [Problem(ANCHORS, line, None, what) for line, what in anchors.wrong]
    if anchors.rest:
        found.notes.append(f"{ANCHORS}: an unfinished last line, which the next start cuts")
    before: Signed | None = None
    for anchor in anchors.days.values():
        first, previous = (int(before.content["last_n"]) + 1, before.content["last"]) if before else (1, GENESIS)
        if anchor.content["first_n"] != first or anchor.content["previous"] != previous:
            what = f"{anchor.content['day']} does not go on where the day before it ended"
            found.problems.append(Problem(ANCHORS, int(anchor.content["a"]), None, what))
        before = anchor


def _check_signatures(found: Verified, head: Signed | None, anchors: Anchors) -> None:
    """Unsigned anchors may come before the first that is signed, where a signed head names them."""
    lines = anchors.lines
    first = next((place for place, one in enumerate(lines) if one.is_signed), len(lines))
    if head is None or (first == len(lines) and not head.is_signed):
        return
    if not head.is_signed:
        found.problems.append(Problem(HEAD, 1, None, "is not signed, and anchors are"))
        return
    named = next((place for place, one in enumerate(lines, start=1) if one.hash == head.content["anchor"]), 0)
    found.problems += [
        Problem(ANCHORS, int(one.content["a"]), None, f"is not signed, and {HEAD}, which does not know it, is")
        for one in lines[named:first]
    ]
    through = [str(one.content.get("day", "")) for one in lines[: min(first, named)]]
    if through:
        found.notes.append(
            f"anchors of days to {max(through)} are not signed: whoever signed {HEAD} took them as they were"
        )


def _check_files(found: Verified, head: Signed | None, anchors: Anchors, present: Sequence[str]) -> None:
    """Every day that is over has an anchor; the last one may be ahead of the head."""
    latest = max(*present, str(head.content["day"]) if head else "", "")
    what = "has no line for {}, and a later day has begun"
    found.problems += [
        Problem(ANCHORS, None, None, what.format(day)) for day in present if day < latest and day not in anchors.days
    ]


def _compare(found: Verified, anchors: Anchors, head: Signed | None, kept: Kept) -> None:
    for number, one in enumerate(kept.anchors.lines, start=1):
        here = anchors.lines[number - 1].line if number <= len(anchors.lines) else None
        if here != one.line:
            what = "is not the anchor that was kept elsewhere" if here else "is gone, and was kept elsewhere"
            found.problems.append(Problem(ANCHORS, number, None, what))
            return
    day, last, hash_ = (kept.head.content[name] for name in ("day", "n", "hash"))
    if head is not None and head.content["n"] < last:
        what = f"ends with record {head.content['n']}, and record {last} was kept elsewhere"
        found.problems.append(Problem(HEAD, 1, None, what))
    anchor = anchors.days[day].content if day in anchors.days else None
    if anchor is not None and (last > anchor["last_n"] or (last == anchor["last_n"] and hash_ != anchor["last"])):
        what = f"is of a day that does not end as record {last}, which was kept elsewhere, demands"
        found.problems.append(Problem(ANCHORS, int(anchor["a"]), None, what))
    if anchor is None and day and head is not None and head.content["day"] != day:
        what = f"has no line for {day}, whose record {last} was kept elsewhere"
        found.problems.append(Problem(ANCHORS, None, last, what))
    found.notes.append(f"compared with what was kept elsewhere: {len(kept.anchors.lines)} anchors and record {last}")


def _tell_of_gone(found: Verified, kept: Kept, days: Set[str]) -> None:
    """The day of the last record that was kept elsewhere, where it was not read: only its anchor may stand for it."""
    last = int(kept.head.content["n"])
    for day in days:
        if day in kept.anchors.days:
            text = f"record {last}, which was kept elsewhere, was removed with its day; its anchor is the one kept"
            found.notes.append(text)
        else:
            what = (
                f"was kept elsewhere, and cannot be compared: {day} was removed, and its anchor was not kept; compare "
            )
            found.problems.append(Problem(file_name(day), None, last, f"{what}with anchors that were printed after it"))


def _expected(anchors: Anchors, head: Signed | None, present: Sequence[str]) -> list[str]:
    """The days that have to have a file, and those that have one all the same."""
    needed = {str(anchor.content["day"]) for anchor in anchors.there}
    if head is not None and head.content["day"] > anchors.removed:
        needed.add(str(head.content["day"]))
    return sorted(needed.union(present))


# ---- one day -----------------------------------------------------------------------------------------


class _Day:
    """The file of one day."""

    def __init__(
        self,
        folder: Path,
        day: str,
        *,
        anchors: Anchors,
        head: Signed | None,
        kept: Kept | None,
        ended: tuple[int, str] | None,
    ) -> None:
        self.path = folder / file_name(day)
        self.name = self.path.name
        self.anchor = anchors.days.get(day)
        said = anchors.before(day)
        # where an anchor is gone, the day before itself says how it ended
        last, self.previous = max(said, ended or said)
        self.first = last + 1
        self.head = head.content if head is not None and head.content["day"] == day else None
        self.beyond = head is not None and str(head.content["day"]) < day
        self.acknowledged = int(head.content["n"]) if head is not None else 0
        self.marks: dict[int, list[tuple[str, str]]] = {}
        """Record -> its hash as somebody else knows it, and who that is."""
        for who, content in ((HEAD, self.head), ("what was kept elsewhere", kept.head.content if kept else None)):
            if content is not None and content["day"] == day:
                self.marks.setdefault(int(content["n"]), []).append((str(content["hash"]), who))

    def check(self, found: Verified, progress: Progress, total: int) -> tuple[int, str]:
        """Read it to its end; returns the number and hash of its last record. Raises FileNotFoundError."""
        problems: list[Problem] = []
        whole = hashlib.sha256()
        before: tuple[str, ...] = (self.previous,)
        number, line_number, size = self.first, 0, 0
        other = 0
        told: list[tuple[int, bytes]] = []
        try:
            with regular(self.path) as file:
                for line in lines_of(file):
                    line_number += 1
                    if line.find(_TOLD, 65, KIND_ENDS) >= 0:
                        told.append((line_number, line))
                    if not line.endswith(b"\n") and self._is_being_written(size):
                        found.notes.append(f"{self.name}:{line_number}: an unfinished line, which the next start cuts")
                        break
                    whole.update(line)
                    size += len(line)
                    stated = line[:64].decode("latin-1")
                    own = digest(line[65:-1])
                    hashes = [link(previous, own) for previous in before]
                    said = number_of(line)
                    if stated in hashes and said == number and line.endswith(b"\n"):
                        before = (stated,)
                    elif stated in hashes and said == other and line.endswith(b"\n"):
                        before, number = (stated,), other
                    else:
                        problems.append(Problem(self.name, line_number, said, _what(line, said, number)))
                        if len(problems) >= MOST:
                            break
                        # whichever of them is right, what comes next goes on from it
                        before = (stated, *hashes, *before)[:AFTER]
                        other = number if said is None else max(said, number) + 1
                        number -= said is not None and said < number
                    if number in self.marks:
                        self._check_mark(problems, line_number, number, stated)
                    number += 1
                    if number % EVERY == 0:
                        progress("records", number, total)
        except FileNotFoundError:
            raise
        except OSError as error:
            problems.append(Problem(self.name, None, None, f"cannot be read ({error.strerror})"))
        if not problems:
            problems += self._ending(number - 1, before[0], size, whole.hexdigest())
        found.problems += problems
        found.notes += [*_told(self.name, told), *self._unnamed(number - 1)]
        found.records += number - self.first
        found.days += 1
        found.last = max(found.last, number - 1)
        progress("records", number - 1, total)
        return number - 1, before[0]

    def _unnamed(self, last: int) -> Iterator[str]:
        """What is told of records that no head names, though it is read again: a writer names them after a moment."""
        if self.anchor is not None or not (self.beyond or self.head is not None):
            return
        named = self.acknowledged
        for wait_seconds in WAITS:
            if last <= named:
                return
            time.sleep(wait_seconds)
            head, wrong = read_head(self.path.parent, ())
            named = named if head is None or wrong else max(named, int(head.content["n"]))
        if last > named:
            yield f"{self.name}: {last - named} records come after the last that {HEAD} names"

    def _is_being_written(self, size: int) -> bool:
        """Whether what comes after so many bytes is beyond all that the trail says is there."""
        if self.anchor is not None:
            return False
        return self.beyond or (self.head is not None and size >= int(self.head["bytes"]))

    def _check_mark(self, problems: list[Problem], line: int, number: int, hash_: str) -> None:
        problems += [
            Problem(self.name, line, number, f"is not the record that {who} names")
            for known, who in self.marks.pop(number)
            if known != hash_
        ]

    def _ending(self, last: int, hash_: str, size: int, sha256: str) -> Iterator[Problem]:
        """What is wrong with where the file ends."""
        if self.anchor is not None:
            anchored = self.anchor.content
            missing = int(anchored["last_n"]) - last
            if missing > 0:
                yield Problem(self.name, None, last + 1, f"{missing} records are missing at the day's end")
            elif missing < 0:
                yield Problem(self.name, None, last, f"{-missing} records were put in at the day's end")
            elif (anchored["last"], anchored["bytes"], anchored["sha256"]) != (hash_, size, sha256):
                yield Problem(self.name, None, None, "is not the file that its anchor names")
        elif self.head is not None and last < int(self.head["n"]):
            missing = int(self.head["n"]) - last
            yield Problem(self.name, None, last + 1, f"{missing} records are missing at the day's end")
        for number, known in self.marks.items():
            for _, who in known:
                if number > last and who != HEAD:
                    yield Problem(self.name, None, number, f"is missing; {who} names it")


def _told(name: str, lines: Sequence[tuple[int, bytes]]) -> Iterator[str]:
    """What records say of others that nobody had acknowledged when the service took them up."""
    for place, line in lines[:MOST]:
        try:
            said = json.loads(line[65:-1])
            records, first, last = (int(said[field]) for field in ("records", "first_n", "last_n"))
            what = f"{records} records, {first} to {last}, stood"
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            what = "records stood"
        text = f"{name}:{place}: record {number_of(line)}: {what} behind the last that {HEAD} named at a start: a kill "
        yield f"{text}leaves those of one write; where none explains them, compare them with the ledger"
    if len(lines) > MOST:
        rest = f"{len(lines) - MOST} more such records, the last is record {number_of(lines[-1][1])}"
        yield f"{name}: {rest}"


def _what(line: bytes, said: int | None, number: int) -> str:
    if len(line) < 66 or line[64:65] != b" " or said is None:
        return "is no record: its form was altered"
    if not line.endswith(b"\n"):
        return "is cut off"
    if said > number:
        return f"comes where record {number} was expected: records were removed or swapped"
    if said < number:
        return f"comes where record {number} was expected: it was put in, or swapped"
    return "was altered: its hash is not that of its content and the record before it"
