"""Recorded requests as a probe reports them that takes part in traces: with ids, a parent, and an estimate."""

from __future__ import annotations

from typing import Any

from tests.service.books import ENGINE

from farthing.replay.recording import Recording
from farthing.replay.wire_records import wire_records

__all__ = ["ids_of", "traced_wire"]


def ids_of(number: int, together: int = 4) -> dict[str, str]:
    """The ids of a request by its number; some in a row are of one trace, as the questions of one document are."""
    return {"trace_id": f"{number // together + 1:032x}", "span_id": f"{number + 1:016x}", "parent_span_id": "f" * 16}


def traced_wire(
    recording: Recording, *, boot: str = "b", engine: str = ENGINE, every: int = 1, together: int = 4, **fields: Any
) -> list[dict[str, Any]]:
    """A recording's records, of which every so many requests were sampled, and so many in a row are of one trace;
    ``fields`` are added to sampled ones.
    """
    found, number = [], 0
    for timed in wire_records(recording, boot=boot, engine=engine):
        record = dict(timed.record)
        if record["kind"] == "usage":
            record |= ids_of(number, together)
            if number % every == 0:
                record |= {"sampled": True, "estimate_nano": 1_000 + number, **fields}
            number += 1
        found.append(record)
    return found
