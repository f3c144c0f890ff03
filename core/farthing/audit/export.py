"""Taking a part of a trail out, with what proves that it is of the trail: digests of all records of its days.

The proof has a line for each record of the days, ``N DIGEST``, with ``+`` before those that are exported. Before them
is ``day DAY N HASH``, the first number and the hash before it. After them is ``anchor HASH LINE``, where the day is
over, the hash before the day's line in ``anchors`` and that line; else ``head HASH LINE``, with that of ``head``. Where
there were days before the first, ``after HASH LINE`` begins it, with the anchor of the last of them. A digest shows
nothing of a record.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from farthing.audit.chain import GENESIS, HEAD, Signed, digest, file_name, link
from farthing.audit.disk import PRIVATE, regular
from farthing.audit.reading import Anchors, days_in, lines_of, number_of, read_anchors, read_head
from farthing.audit.records import REQUEST
from farthing.domain.conventions import PHASES
from farthing.domain.errors import AuditError
from farthing.domain.spreadsheets import uncomputed

__all__ = ["AFTER", "COLUMNS", "CSV", "FIRST", "JSONL", "RECORD", "Exported", "cells", "export", "proof_of"]

CSV, JSONL = "csv", "jsonl"
COLUMNS = (
    *("n", "kind", "at", "ended", "engine", "boot", "process", "sequence", "request_id", "trace_id", "tenant"),
    *("project", "workload", "tier", "user", "key", "model", "outcome", "status", "prompt_tokens", "cached_tokens"),
    *("image_tokens", "output_tokens", *(f"{phase}_nano" for phase in PHASES), "cost_nano", "currency", "methods"),
    "corrects",
)
"""Of a CSV file, before ``record``, which has the record itself."""
RECORD = "record"
FIRST, AFTER, ANCHOR = "farthing audit proof 1", "after", "anchor"
"""A proof's first line, and what begins those that have an anchor."""
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Exported:
    """What is in an export."""

    records: int = 0
    others: int = 0
    """Records of the same days that are proved and not shown."""
    days: int = 0


def proof_of(file: Path) -> Path:
    """Where the proof of an exported file is."""
    return file.with_name(file.name + ".proof")


def export(
    folder: Path,
    file: Path,
    form: str,
    *,
    since: str,
    until: str,
    tenant: str | None = None,
    progress: Progress = lambda _name, _done, _total: None,
) -> Exported:
    """Write the records of days (UTC, both included) of a tenant, or of everybody with events, and their proof.

    Raises AuditError where a record does not go on from the one before, or a day is gone: what cannot be proved is not
    exported.
    """
    # in this order: a day that is over by then has its anchor, however the writer goes on meanwhile
    head, wrong = read_head(folder, ())
    present = days_in(folder)
    anchors = read_anchors(folder, ())
    if head is None or wrong or anchors.wrong or head.content["anchor"] not in anchors.hashes:
        raise AuditError(f"audit trail {folder}: is not whole, or there is none; see farthing audit verify")
    latest = str(head.content["day"])
    days = sorted(
        day
        for day in {latest, *(str(one.content["day"]) for one in anchors.there)}
        if since <= day <= until and anchors.removed < day <= latest
    )
    done = Exported()
    with ExitStack() as stack:
        shown = stack.enter_context(open(file, "x", encoding="utf-8", newline="", opener=_private))
        stack.push(_unless_whole(file))
        proof = stack.enter_context(open(proof_of(file), "x", encoding="ascii", opener=_private))
        stack.push(_unless_whole(proof_of(file)))
        writer = csv.writer(shown, lineterminator="\n") if form == CSV else None
        if writer is not None:
            writer.writerow((*COLUMNS, RECORD))
        proof.write(f"{FIRST}\n")
        earlier = anchors.last_before(days[0]) if days else None
        if earlier is not None:
            proof.write(_anchored(AFTER, anchors, earlier))
        for place, day in enumerate(days, start=1):
            if day not in present:
                raise AuditError(f"audit trail {folder}: {file_name(day)} is gone; see farthing audit verify")
            anchor = anchors.days.get(day)
            last = int(anchor.content["last_n"]) if anchor else int(head.content["n"])
            before, previous = anchors.before(day)
            proof.write(f"day {day} {before + 1} {previous}\n")
            for number, body, own in _proved(folder / file_name(day), previous, last):
                wanted = _show(shown, writer, body, tenant)
                proof.write(f"{'+' if wanted else ''}{number} {own}\n")
                done.others += not wanted
                done.records += wanted
            end = _anchored(ANCHOR, anchors, anchor) if anchor else f"{HEAD} {GENESIS} {head.line.decode('ascii')}"
            proof.write(end)
            done.days += 1
            progress("days", place, len(days))
    return done


def cells(said: dict[str, Any]) -> list[str]:
    """What a CSV row says of a record, before the record itself."""
    return ["" if said.get(name) is None else _cell(said[name]) for name in COLUMNS]


# ---- inside ------------------------------------------------------------------------------------------


def _private(path: str, flags: int) -> int:
    """Opens a file that is for its owner alone, as the trail is."""
    return os.open(path, flags, PRIVATE)


def _unless_whole(path: Path) -> Callable[..., None]:
    """What ends the writing of a file: it is gone again when it failed."""

    def end(failed: object, *_: object) -> None:
        if failed is not None:
            path.unlink()

    return end


def _anchored(kind: str, anchors: Anchors, anchor: Signed) -> str:
    known = anchors.hashes[anchors.lines.index(anchor)]
    return f"{kind} {known} {anchor.line.decode('ascii')}"


def _show(shown: TextIO, writer: Any, body: bytes, tenant: str | None) -> bool:
    """Write a record where it is of a tenant, None of all; returns whether it is. Raises AuditError for no record."""
    try:
        said = json.loads(body)
        if tenant is not None and (said["kind"], said.get("tenant")) != (REQUEST, tenant):
            return False
        if writer is None:
            shown.write(body.decode("ascii") + "\n")
        else:
            writer.writerow((*cells(said), body.decode("ascii")))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = f"the record that begins {body[:20].decode('ascii', 'replace')!r} is none of Farthing's"
        raise AuditError(f"audit trail: {what}: its form is another") from error
    return True


def _proved(path: Path, previous: str, last: int) -> Iterator[tuple[int, bytes, str]]:
    """Number, JSON and its digest of a day's records up to one, each checked."""
    number = 0
    try:
        with regular(path) as file:
            for place, line in enumerate(lines_of(file), start=1):
                body = line[65:-1]
                own = digest(body)
                hash_ = link(previous, own)
                if line[:64].decode("latin-1") != hash_ or (found := number_of(line)) is None:
                    raise AuditError(f"{path}:{place}: was altered; see farthing audit verify")
                previous, number = hash_, found
                yield number, body, own
                if number == last:
                    return
    except OSError as error:
        raise AuditError(f"audit trail {path}: cannot be read ({error.strerror})") from error
    raise AuditError(f"{path}: ends with record {number}, not {last}; see farthing audit verify")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        # a bare CR would end the row for a spreadsheet, and half a surrogate is in no text; the record has both
        return uncomputed(value).replace("\r", "\n").encode("utf-8", "replace").decode("utf-8")
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
