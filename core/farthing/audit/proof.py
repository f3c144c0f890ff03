"""Checking an export with the proof beside it, anywhere: without the trail, and without believing either of the two."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

from farthing.audit.chain import ANCHORS, DATE, GENESIS, HEAD, Signed, digest, link, parse_signed
from farthing.audit.disk import LONGEST, regular
from farthing.audit.export import AFTER, COLUMNS, CSV, FIRST, RECORD, Exported, cells, proof_of
from farthing.audit.reading import DAY, lines_of
from farthing.audit.verify import Kept
from farthing.domain.errors import AuditError

__all__ = ["Checked", "check_export"]

_DAY = re.compile(rf"day ({DATE.pattern}) ([0-9]{{1,18}}) ([0-9a-f]{{64}})")
_DIGEST = re.compile(r"(\+?)([0-9]{1,18}) ([0-9a-f]{64})")
_SIGNED = re.compile(r"(after|anchor|head) ([0-9a-f]{64}) (.*)")


@dataclass(slots=True)
class Checked(Exported):
    """What an export holds."""

    first: str = ""
    last: str = ""
    """Its days, both included."""
    signed: int = 0
    """Days whose anchor's or head's signature was checked."""
    unsigned: int = 0
    """Days without a signature, though a key was given: a later one's, or what was kept elsewhere, holds them."""
    held: int = 0
    """Days that lead to an anchor, or past the last record, that was kept elsewhere."""
    loose: list[str] = field(default_factory=list)
    """Days of which what was kept elsewhere says nothing."""


def check_export(file: Path, keys: Sequence[bytes] = (), kept: Kept | None = None) -> Checked:
    """What an exported file holds, proved by the proof beside it; ``keys`` check signatures, and ``kept`` its anchors.

    Without either the proof is only of itself. Raises AuditError naming the first line that is not as it was exported.
    """
    try:
        with regular(proof_of(file)) as proof:
            return _Check(file, keys, kept).of(lines_of(proof))
    except (OSError, ValueError, csv.Error) as error:
        raise AuditError(f"{file}: the export or its proof cannot be read ({error})") from error


class _Check:
    """One run through a proof, and through the exported records with it."""

    def __init__(self, file: Path, keys: Sequence[bytes], kept: Kept | None) -> None:
        self._file = file
        self._keys = keys
        self._kept = kept
        self._bodies = enumerate(_bodies(file), start=1)
        self._done = Checked()
        self._day = ""
        """The day whose records come; empty: none's."""
        self._latest, self._led = "", (0, GENESIS)
        """The day before, and the number and hash of its last record."""
        self._first, self._previous = 1, GENESIS
        self._n, self._hash = 0, GENESIS
        """The last record."""
        self._signed = False
        """Whether a signature was checked: it holds all records before it."""
        self._unsigned: list[str] = []
        """Days of before that, with a key."""

    def of(self, lines: Iterator[bytes]) -> Checked:
        """Check everything. Raises AuditError, and OSError, ValueError or csv.Error for what cannot be read."""
        proof = proof_of(self._file)
        if next(lines, b"") != f"{FIRST}\n".encode("ascii"):
            raise AuditError(f"{proof}:1: is no proof of an export")
        for place, line in enumerate(lines, start=2):
            wrong = self._take(line.decode("ascii"))
            if wrong:
                raise AuditError(f"{proof}:{place}: {wrong}")
        if self._day or next(self._bodies, None) is not None:
            raise AuditError(f"{self._file}: does not end as it was exported")
        if not self._done.days:
            raise AuditError(f"{self._file}: is of no day, so nothing is proved; export days that the trail has")
        loose = self._unsigned if self._kept is None else [day for day in self._unsigned if day in self._done.loose]
        if loose and not self._signed:
            what = f"{loose[-1]} is not signed, and a key was given; export from it to a day that is, or give --anchors"
            raise AuditError(f"{self._file}: {what}")
        self._done.unsigned = len(self._unsigned)
        return self._done

    def _take(self, line: str) -> str:
        """Go on by a line; returns what is wrong with it, empty if nothing."""
        text = line.removesuffix("\n")
        if text == line:
            return "is cut off"
        if self._day and (one := _DIGEST.fullmatch(text)):
            return self._record(bool(one[1]), int(one[2]), one[3])
        if not self._day and (one := _DAY.fullmatch(text)):
            return self._begin(one[1], int(one[2]), one[3])
        one = _SIGNED.fullmatch(text)
        is_expected = bool(self._day) if one is None or one[1] != AFTER else not self._latest and not self._day
        if one is None or not is_expected:
            return "is not as it was exported"
        name = HEAD if one[1] == HEAD else ANCHORS
        signed, wrong = parse_signed(name, one[2], one[3].encode("ascii") + b"\n", self._keys)
        if signed is not None and self._signed and not signed.is_signed:
            wrong = wrong or "is not signed, and those before it are"
        if signed is None or wrong:
            return wrong
        self._signed = bool(self._keys) and signed.is_signed
        return self._end(signed)

    def _begin(self, day: str, first: int, previous: str) -> str:
        if day <= self._latest or (first - 1, previous) != self._led:
            return f"{day} does not go on where the day before it ended: days are missing, doubled or swapped"
        self._day, self._first, self._previous = day, first, previous
        self._n, self._hash = self._led
        self._done.first = self._done.first or day
        return ""

    def _record(self, exported: bool, number: int, own: str) -> str:
        if number != self._n + 1:
            return "is not as it was exported"
        if exported:
            at, body = next(self._bodies, (0, b""))
            if digest(body) != own:
                raise AuditError(f"{self._file}: record {number} is not as it was exported (its {at}. record)")
        self._done.records += exported
        self._done.others += not exported
        self._n, self._hash = number, link(self._hash, own)
        if self._kept is not None:
            known = self._kept.head.content
            if number == known["n"] and self._hash != known["hash"]:
                return f"record {number} is not the one that was kept elsewhere"
        return ""

    def _end(self, signed: Signed) -> str:
        """A line of ``anchors`` or ``head``: of the day that it ends, or of the one before the first."""
        said = signed.content
        if not self._day:
            if said["kind"] != DAY:
                return "is not as it was exported"
            self._latest, self._led = said["day"], (said["last_n"], said["last"])
            return self._unlike(signed)
        where = (self._first, self._previous, self._n - self._first + 1)
        if said["kind"] == DAY:
            led = (said["day"], said["last_n"], said["last"])
            leads = (said["first_n"], said["previous"], said["records"]) == where
        else:
            led, leads = (said.get("day"), said.get("n"), said.get("hash")), said["kind"] == HEAD
        if not leads or led != (self._day, self._n, self._hash):
            return f"the records do not lead to this {'anchor' if said['kind'] == DAY else said['kind']}"
        wrong = self._unlike(signed)
        self._done.days += 1
        self._done.signed += self._signed
        if self._keys and not self._signed:
            self._unsigned.append(self._day)
        self._done.last = self._day
        # nothing comes after the head
        self._latest, self._led = self._day, (self._n, self._hash) if said["kind"] == DAY else (-1, "")
        self._day = ""
        return wrong

    def _unlike(self, signed: Signed) -> str:
        """How a day differs from what was kept elsewhere, if anything, and note whether that says anything of it."""
        if self._kept is None:
            return ""
        day, head = str(signed.content["day"]), self._kept.head.content
        known = self._kept.anchors.days.get(day)
        if known is None and day < head["day"]:
            return f"{day} is not among the days of the anchors that were kept elsewhere"
        if known is not None and signed.content["kind"] == DAY and known.line != signed.line:
            return "is not the anchor that was kept elsewhere"
        if not self._day:
            return ""
        if known is not None and signed.content["kind"] != DAY:
            begins = (known.content["first_n"], known.content["previous"])
            is_held = (self._n, self._hash) == (known.content["last_n"], known.content["last"])
            if begins != (self._first, self._previous) or (self._n >= known.content["last_n"] and not is_held):
                return f"{day} is not the day that was kept elsewhere"
        else:
            is_held = known is not None or (day == head["day"] and self._n >= head["n"])
        self._done.held += is_held
        if not is_held:
            self._done.loose.append(day)
        return ""


def _bodies(file: Path) -> Iterator[bytes]:
    """The records of an exported file."""
    if file.suffix != f".{CSV}":
        with regular(file) as shown:
            for line in lines_of(shown):
                yield line.removesuffix(b"\n")
        return
    # a record may be longer than what the module takes for a cell
    csv.field_size_limit(LONGEST)
    with TextIOWrapper(regular(file), encoding="utf-8", newline="") as table:
        rows = csv.reader(lines_of(table))
        if next(rows, []) != [*COLUMNS, RECORD]:
            raise AuditError(f"{file}:1: has other columns than an export")
        for row in rows:
            yield row[-1].encode("utf-8") if _is_row(row) else b""


def _is_row(row: Sequence[str]) -> bool:
    """Whether the cells of a row are what its record says."""
    try:
        said = json.loads(row[-1]) if row else None
        return isinstance(said, dict) and [*row[:-1]] == cells(said)
    except (ValueError, RecursionError):
        return False
