"""Reading a trail's files: anchors, head, and records in their order."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, AnyStr

from farthing.audit.chain import ANCHORS, DATE, GENESIS, HEAD, SUFFIX, Signed, file_name, parse_signed
from farthing.audit.disk import LONGEST, regular
from farthing.domain.errors import AuditError

__all__ = [
    "DAY",
    "REMOVED",
    "Anchors",
    "days_in",
    "lines_of",
    "not_whole",
    "number_of",
    "parse_anchors",
    "read_anchors",
    "read_bytes",
    "read_head",
    "records",
]

DAY, REMOVED = "day", "removed"
"""Kinds of anchors: a day that is over, and days whose files were removed as retention says."""
_REMOVED = ("days", "records", "last")
"""What a removal says of its days."""
WRONG = 20
"""Lines of ``anchors`` that are told; what comes after so many is not read."""
_DAY = re.compile(DATE.pattern + re.escape(SUFFIX))
_NUMBER = re.compile(rb' \{"n":(\d{1,18}),')


@dataclass(slots=True)
class Anchors:
    """What ``anchors`` says, as far as it could be read."""

    lines: list[Signed] = field(default_factory=list)
    days: dict[str, Signed] = field(default_factory=dict)
    """Day -> its anchor, oldest first; days that were removed too."""
    there: deque[Signed] = field(default_factory=deque)
    """Anchors of the days that were not removed, oldest first."""
    removed: str = ""
    """The last day that was removed; empty: none."""
    wrong: list[tuple[int, str]] = field(default_factory=list)
    """(line, what is wrong with it)."""
    rest: bytes = b""
    """A last line without its end, as a kill in the middle of writing it leaves one."""

    @property
    def last(self) -> str:
        """The hash of the last line."""
        return self.lines[-1].hash if self.lines else GENESIS

    @property
    def hashes(self) -> list[str]:
        """What a head may name: zeros, and the hash of each line."""
        return [GENESIS, *(one.hash for one in self.lines)]

    @property
    def latest(self) -> str:
        """The last day that is over; empty: none."""
        return next(reversed(self.days), "")

    def last_before(self, day: str) -> Signed | None:
        """The anchor of the last of the days before one; None where there are none."""
        return next((anchor for other, anchor in reversed(self.days.items()) if other < day), None)

    def before(self, day: str) -> tuple[int, str]:
        """Number and hash of the last record of the days before one; 0 and zeros where there are none."""
        earlier = self.last_before(day)
        return (int(earlier.content["last_n"]), str(earlier.content["last"])) if earlier else (0, GENESIS)

    def refused(self, said: Mapping[str, Any]) -> str:
        """Why a line cannot come after all others; empty: it can. Nothing is taken for removed on its word alone."""
        if said["kind"] == DAY:
            return "" if said["day"] > self.latest else f"is of {said['day']}, and comes after {self.latest}"
        through = said["through"]
        gone = [old.content for old in takewhile(lambda old: old.content["day"] <= through, self.there)]
        if not gone or gone[-1]["day"] != through:
            return f"says that days to {through} were removed, and none before it is of that day"
        if (len(gone), sum(old["records"] for old in gone), gone[-1]["last"]) != tuple(map(said.get, _REMOVED)):
            return f"says that days to {through} were removed, and something else of them than their anchors"
        return "" if said["at"][:10] > through else f"says that days to {through} were removed before they were over"

    def add(self, one: Signed) -> None:
        """Take a line that comes after all others."""
        self.lines.append(one)
        if one.content["kind"] == DAY:
            self.days[str(one.content["day"])] = one
            self.there.append(one)
            return
        self.removed = str(one.content["through"])
        while self.there and self.there[0].content["day"] <= self.removed:
            self.there.popleft()


def not_whole(folder: Path, what: str) -> AuditError:
    """What tells that a trail is not as it was written, and so nothing is written after it."""
    return AuditError(
        f"audit trail {folder}: {what}; nothing is written after it: see farthing audit verify, keep the folder as it "
        "is, and give a new one in audit.dir"
    )


def days_in(folder: Path) -> list[str]:
    """The days that have a file, oldest first. Raises AuditError when the folder cannot be read."""
    try:
        return sorted(path.name.removesuffix(SUFFIX) for path in folder.iterdir() if _DAY.fullmatch(path.name))
    except OSError as error:
        raise AuditError(f"audit trail {folder}: cannot be read ({error.strerror}); give its folder") from error


def lines_of(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """The lines of a file; one that is longer than any of a trail comes in parts."""
    return iter(partial(file.readline, LONGEST), file.readline(0))


def read_bytes(path: Path, *, given: bool = False) -> bytes | None:
    """A small file, None where there is none; one that is ``given``, not the trail's, may be a pipe.

    None of a trail's comes near ``LONGEST`` bytes, so no more is read. Raises AuditError when it cannot be read.
    """
    try:
        with path.open("rb") if given else regular(path) as file:
            data = file.read(LONGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuditError(f"audit trail {path}: cannot be read ({error.strerror}); let this user read it") from error
    if len(data) > LONGEST:
        raise AuditError(f"audit trail {path}: is larger than any of a trail's; put the one that was written there")
    return data


def read_head(folder: Path, keys: Sequence[bytes]) -> tuple[Signed | None, str]:
    """The head, and what is wrong with it; None without a word where there is none."""
    data = read_bytes(folder / HEAD)
    return (None, "") if data is None else parse_signed(HEAD, GENESIS, data, keys)


def read_anchors(folder: Path, keys: Sequence[bytes]) -> Anchors:
    """All anchors."""
    return parse_anchors(read_bytes(folder / ANCHORS) or b"", keys)


def parse_anchors(data: bytes, keys: Sequence[bytes]) -> Anchors:
    """Anchors from the bytes of their file. Unsigned ones may come before the first that is signed, not after it.

    Nothing is taken for removed that the anchors before do not bear out.
    """
    found = Anchors()
    signed = False
    for number, line in enumerate(BytesIO(data), start=1):
        if len(found.wrong) >= WRONG:
            break
        if not line.endswith(b"\n"):
            found.rest = line
            break
        one, wrong = parse_signed(ANCHORS, found.last, line, keys)
        if one is None:
            found.wrong.append((number, wrong))
            continue
        if not wrong and one.content["a"] != number:
            wrong = f"is anchor {one.content['a']} where {number} was expected"
        if not wrong and signed and not one.is_signed:
            wrong = "is not signed, and those before it are"
        wrong = wrong or found.refused(one.content)
        signed = signed or one.is_signed
        if wrong:
            found.wrong.append((number, wrong))
        if wrong and one.content["kind"] == REMOVED:
            found.lines.append(one)
        else:
            found.add(one)
    return found


def records(folder: Path, after: int = 0) -> Generator[tuple[int, bytes], None, None]:
    """(number, JSON) of the records after a number, in order; they are not verified.

    Raises AuditError for a file that cannot be read, or a line that is no record.
    """
    anchors = read_anchors(folder, ())
    for day in days_in(folder):
        anchor = anchors.days.get(day)
        if anchor is not None and int(anchor.content["last_n"]) <= after:
            continue
        path = folder / file_name(day)
        try:
            with regular(path) as file:
                for place, line in enumerate(lines_of(file), start=1):
                    if len(line) >= LONGEST:
                        raise AuditError(f"{path}:{place}: is longer than any record; see farthing audit verify")
                    if not line.endswith(b"\n"):
                        return
                    number = number_of(line)
                    if number is None:
                        raise AuditError(f"{path}:{place}: is no record; see farthing audit verify")
                    if number > after:
                        yield number, line[65:-1]
        except OSError as error:
            raise AuditError(f"audit trail {path}: cannot be read ({error.strerror})") from error


def number_of(line: bytes) -> int | None:
    """The number that a record's line says it has; None where its form is another."""
    found = _NUMBER.match(line, 64)
    return int(found[1]) if found else None
