"""Seals: what pruned rows added to the tables of sums, each bound to the one before by its hash.

Rows that a seal names are as good as gone: what compares sums with rows takes the seal for them, whether they are
deleted already or not.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farthing.ledger import tables as t

__all__ = ["Seal", "Sealed", "chained", "seal"]


@dataclass(frozen=True, slots=True)
class Seal:
    """What is sealed: all rows of a table that were posted in a period, or those of one boot, which ended in it."""

    table: str
    period: str
    boot: str
    """Empty: all rows of the period."""
    rows: int
    sums: dict[str, Any]
    digest: str
    pruned_ns: int
    """UTC nanoseconds."""


def chained(previous: str, values: Sequence[Any]) -> str:
    """SHA-256 in hexadecimal that binds the values of a row to the hash of the row before it, empty for the first."""
    return hashlib.sha256(json.dumps([previous, *values], separators=(",", ":")).encode()).hexdigest()


def seal(connection: Connection, new: Seal) -> None:
    """Write a seal, in the transaction at hand."""
    s = t.seals.c
    last = connection.execute(sa.select(s.number, s.sha256).order_by(s.number.desc()).limit(1)).first()
    number, previous = (int(last.number), last.sha256) if last else (0, "")
    values = {
        "number": number + 1,
        "table_name": new.table,
        "period": new.period,
        "boot": new.boot,
        "rows": new.rows,
        "sums": json.dumps(new.sums, separators=(",", ":"), sort_keys=True),
        "digest": new.digest,
        "pruned_ns": new.pruned_ns,
    }
    connection.execute(sa.insert(t.seals), {**values, "sha256": chained(previous, list(values.values()))})


class Sealed:
    """What is sealed, and its sums."""

    def __init__(self, connection: Connection) -> None:
        s = t.seals.c
        rows = connection.execute(sa.select(s.table_name, s.period, s.boot, s.sums).order_by(s.number)).all()
        self._sums = [(row.table_name, json.loads(row.sums)) for row in rows]
        self.boots = {name: frozenset(row.boot for row in rows if row.table_name == name) for name, _ in self._sums}
        """Table -> boots whose rows are sealed."""
        periods = [row.period for row in rows if row.table_name == t.journal.name]
        self.journal_periods = frozenset(periods)
        self.journal_through = max(periods, default="")
        """Everything that was posted up to this period is sealed; empty: nothing."""

    def last_hour(self, table: str) -> int:
        """The last hour that has sealed rows of a table; -1: none is sealed."""
        return max((sums["last_hour"] for name, sums in self._sums if name == table), default=-1)

    def sums(self, table: str, part: str, keys: int) -> Counter[tuple[Any, ...]]:
        """The sums of all seals of a table: (key …, place of the amount) -> amount, without zeros."""
        found: Counter[tuple[Any, ...]] = Counter()
        for name, sums in self._sums:
            for row in sums.get(part, ()) if name == table else ():
                add(found, row, keys)
        return nonzero(found)


def add(sums: Counter[tuple[Any, ...]], row: Sequence[Any], keys: int) -> None:
    """Add a row of keys and amounts to sums under (key …, place of the amount)."""
    for place, amount in enumerate(row[keys:]):
        sums[(*row[:keys], place)] += int(amount)


def nonzero(sums: Mapping[tuple[Any, ...], int]) -> Counter[tuple[Any, ...]]:
    """Without zeros."""
    return Counter({key: amount for key, amount in sums.items() if amount})


def digest_of(rows: Iterable[Sequence[Any]]) -> tuple[int, str]:
    """How many rows, and SHA-256 in hexadecimal over them, one JSON array a line."""
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(json.dumps(list(row), separators=(",", ":")).encode() + b"\n")
        count += 1
    return count, digest.hexdigest()
