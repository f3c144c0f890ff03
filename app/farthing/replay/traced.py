"""What a probe adds at the edge and a recording does not have: each request's trace, and what it would cost."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, Final

from farthing_probe.company import Company
from farthing_probe.edge_span import estimate_nano

__all__ = ["TracedRequests"]

Row = Mapping[str, Any]

UNKNOWN: Final[Row] = {
    **dict.fromkeys(("prompt_tokens", "cached_tokens", "image_tokens", "output_tokens", "delivered_tokens")),
    "sequences": (),
}
"""What a usage record leaves out."""


class TracedRequests:
    """Of the records of one replay. Ids follow from a record's key, so that one sent twice is the same."""

    def __init__(self, records: Iterable[Row], engine: str) -> None:
        self._engine = engine
        self._company: dict[tuple[str, int], Company] = defaultdict(Company)
        for record in records:
            if record["kind"] == "steps":
                _take(self._company[record["boot"], record["engine_index"]], record)

    def of(self, record: Row, unit_prices: Mapping[str, Any]) -> Row:
        """The record with a trace that begins at the edge, if it is a request's that has none.

        ``unit_prices`` are what intake answered last: without them there is no estimate.
        """
        if record["kind"] != "usage" or record.get("trace_id"):
            return record
        key = f"{record['boot']} {record['proc']} {record['seq']}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        added: dict[str, Any] = {"trace_id": digest[:32], "span_id": digest[32:48], "sampled": True}
        steps = self._company[record["boot"], record["engine_index"]].parts_of(record.get("sequences", ()))
        estimate = estimate_nano(unit_prices.get(self._engine), {**UNKNOWN, **record}, steps)
        if estimate is not None:
            added["estimate_nano"] = estimate
        return {**record, **added}


def _take(company: Company, record: Row) -> None:
    """The steps of one record; columns that are zero throughout are left out of it, and times are differences."""
    marks = record["marks"]
    moments = accumulate(marks["at_ns"], initial=record["base_ns"])
    next(moments)
    nobody = [0] * len(marks["at_ns"])
    counts = (marks.get(f"{kind}_requests", nobody) for kind in ("prefill", "decode"))
    for at_ns, *requests in zip(moments, *counts, strict=True):
        company.add(at_ns, sum(requests))
