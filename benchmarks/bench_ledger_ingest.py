"""How many request records a second become durable: in SQLite, in PostgreSQL, and by a bare COPY of the same rows.

    python -m benchmarks.bench_ledger_ingest [--rounds N] [--bodies N] [--lines N]

The records are those of a recorded H100, renumbered, in gzip bodies as a probe posts them. ``posted`` is
``POST /v1/usage`` as the service takes it, four senders at a time: unpack, validate, reduce, store, commit with
everything synced, answer; bodies that wait together share a transaction, as they do in the service. ``store`` is
``Ledger.add`` alone, one body after the other. ``COPY`` is one COPY and one commit for each body, its bytes made
beforehand, into a second table with the columns and indexes of the first. Parts take turns within a round, so that
ratios hold on a busy machine; the table shows medians of rounds. Exit status 1 when a limit is missed. Needs a
PostgreSQL server's programs, and runs a private one.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# a script finds only what lies beside it; the private server is the tests'
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import psycopg
from starlette.applications import Starlette
from tests.ledger.databases import postgres_programs, running_cluster

from farthing.collectors.intake import IntakeCounts, IntakeLimits, intake_routes
from farthing.collectors.wire import decode_raw
from farthing.domain.records import RawRecord
from farthing.ledger.ingest import copy_bytes
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.replay.wire_records import wire_records
from farthing.service.server import calm_collector, switch_seldom
from farthing_probe.wire import USAGE_PATH

SQLITE_RECORDS_PER_SECOND = 20_000
COPY_RATIO = 0.5
SENDERS = 4
NO_LIMIT = IntakeLimits(max_body_bytes=2**26, bodies_per_second=1e9, bytes_per_second=1e12)
RAW = "COPY raw (boot, process, sequence, kind, event_ns, line) FROM STDIN (FORMAT BINARY)"


def bodies(lines: int) -> Iterator[bytes]:
    """Endless bodies of as many recorded requests each, which never repeat a key."""
    timed = wire_records(load_recording("h100-llama8b-vllm0.26"), boot="b", engine="e")
    usage = [item.record for item in timed if item.record["kind"] == "usage"]
    numbers = itertools.count()
    while True:
        batch = []
        for number in itertools.islice(numbers, lines):
            record = dict(usage[number % len(usage)])
            record |= {"seq": number, "request_id": f"{record['request_id']}-{number}"}
            batch.append(json.dumps(record, separators=(",", ":")).encode())
        yield gzip.compress(b"\n".join(batch), 6)


async def post(ledger: Ledger, batch: list[bytes]) -> int:
    """Post bodies to the intake of a ledger, some at a time; returns how many records it took."""
    app = Starlette(routes=intake_routes(ledger, NO_LIMIT, IntakeCounts(), lambda: None))
    waiting = iter(batch)

    async def sender(client: httpx.AsyncClient) -> int:
        accepted = 0
        for body in waiting:
            answer = await client.post(USAGE_PATH, content=body, headers={"Content-Encoding": "gzip"})
            accepted += answer.raise_for_status().json()["accepted"]
        return accepted

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://farthing") as client:
        return sum(await asyncio.gather(*(sender(client) for _ in range(SENDERS))))


class Raw:
    """A second table like the inbox, and nothing but COPY into it."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url)
        self._connection.execute("CREATE TABLE raw (LIKE records INCLUDING ALL)")
        self._connection.commit()

    def copy(self, rows: bytes) -> int:
        """Copy and commit; returns how many rows there were."""
        with self._connection.cursor() as cursor:
            with cursor.copy(RAW) as copy:
                copy.write(rows)
            self._connection.commit()
            return int(cursor.rowcount)

    def close(self) -> None:
        """End its connection."""
        self._connection.close()


def measure(url: str, folder: str, rounds: int, per_round: int, lines: int) -> dict[str, list[float]]:
    """Records a second of each part, round by round."""
    rates: dict[str, list[float]] = defaultdict(list)
    sqlite, postgresql = Ledger.open(f"sqlite:///{folder}/ledger.db"), Ledger.open(url)
    raw, source = Raw(url), bodies(lines)

    def timed(part: str, work: Callable[[], int]) -> None:
        began = time.perf_counter()
        taken = work()
        rates[part].append(taken / (time.perf_counter() - began))
        assert taken == per_round * lines

    for _ in range(rounds):
        posted, given = (list(itertools.islice(source, per_round)) for _ in range(2))
        records = [[decode_raw(line) for line in gzip.decompress(body).split(b"\n")] for body in given]
        rows = [copy_bytes(batch) for batch in records]
        timed("SQLite, posted", partial(_posted, sqlite, posted))
        timed("SQLite, store", partial(_stored, sqlite, records))
        timed("PostgreSQL, COPY alone", partial(_copied, raw, rows))
        timed("PostgreSQL, store", partial(_stored, postgresql, records))
        timed("PostgreSQL, posted", partial(_posted, postgresql, posted))
    raw.close()
    for ledger in (sqlite, postgresql):
        ledger.close()
    return rates


def _posted(ledger: Ledger, batch: list[bytes]) -> int:
    return asyncio.run(post(ledger, batch))


def _copied(raw: Raw, rows: list[bytes]) -> int:
    return sum(map(raw.copy, rows))


def _stored(ledger: Ledger, records: list[list[RawRecord]]) -> int:
    return sum(ledger.add(batch) for batch in records)


def main() -> int:
    """Print the table; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bodies", type=int, default=20, help="bodies in each round and part")
    parser.add_argument("--lines", type=int, default=1_000, help="records in a body")
    chosen = parser.parse_args()
    programs = postgres_programs()
    assert programs, "PostgreSQL is not installed: apt-get install postgresql"
    calm_collector()
    switch_seldom()
    with tempfile.TemporaryDirectory() as folder, running_cluster(programs, on_disk=True) as cluster:
        rates = measure(cluster.database(), folder, chosen.rounds, chosen.bodies, chosen.lines)
    copy = rates["PostgreSQL, COPY alone"]
    print(f"{chosen.rounds} rounds of {chosen.bodies} bodies of {chosen.lines} records")
    print(f"{'':<26}{'records/s':>12}{'slowest':>10}{'of COPY':>9}")
    ratios = {}
    for part, values in rates.items():
        ratios[part] = statistics.median(ours / theirs for ours, theirs in zip(values, copy, strict=True))
        print(f"{part:<26}{statistics.median(values):>12,.0f}{min(values):>10,.0f}{ratios[part]:>9.2f}")
    kept = statistics.median(rates["SQLite, posted"]) >= SQLITE_RECORDS_PER_SECOND
    kept = kept and ratios["PostgreSQL, posted"] >= COPY_RATIO
    limits = f"posted in SQLite {SQLITE_RECORDS_PER_SECOND:,} records/s, in PostgreSQL {COPY_RATIO} of COPY"
    print(f"limits ({limits}): {'kept' if kept else 'MISSED'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
