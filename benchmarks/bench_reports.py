"""How long reports, spend, the page and a start take on five million requests, beside the same sums by scanning them.

    python -m benchmarks.bench_reports [--requests N] [--days N] [--database sqlite|postgresql|both] [--keep FOLDER]

Fills an empty ledger by SQL: requests of forty tenants, some much larger than others, on eight engines with two models,
one journal line for each, idle time, and the hourly sums that postings would have kept. Every figure is the median of
three, by the clock and of processor time (PostgreSQL's own is not in it); ``scan`` is one query on requests and journal
that finds the same amounts, run once. Memory is the largest that a process of its own ever holds which starts, shows
the page and makes every report. Exit status 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from string import Template
from typing import Final

# a script finds only what lies beside it; the private server is the tests'
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sqlalchemy as sa
from tests.ledger.databases import postgres_programs, running_cluster

from farthing.domain.clock import HOUR, SECOND, utc
from farthing.exporters.web.payload import snapshot_payload
from farthing.ledger.database import transaction
from farthing.ledger.partitions import make_room
from farthing.ledger.repository import Ledger
from farthing.service.accountant import Accountant
from farthing.service.measures import drivers, measure
from farthing.service.pricing import price_book
from farthing.service.reports import GROUPS, report
from farthing.service.scope import Scope
from farthing.service.spend import spend_by
from farthing.service.spend_watch import SpendWatch
from farthing.service.totals import Totals
from farthing.settings import Settings

REPORT_SECONDS: Final = 1.0
PAGE_SECONDS: Final = 0.3
MEMORY_BYTES: Final = 500 * 2**20
TENANTS, ENGINES, MODELS = 40, 8, 2
ROUNDS = 3
START_NS = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) * SECOND
CHUNK = 500_000
SETTINGS = Settings.model_validate({"budgets": [{"tenant": "tenant-000", "monthly_usd": 100}]})

_SERIES = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT $first UNION ALL SELECT i + 1 FROM n WHERE i < $last)",
    "postgresql": "WITH n(i) AS (SELECT generate_series(CAST($first AS bigint), $last))",
}
_TENANT = {"sqlite": "printf('tenant-%03d', t)", "postgresql": "'tenant-' || lpad(CAST(t AS text), 3, '0')"}
_SCANS: Mapping[str, str] = {
    "tenant": "SELECT debit, phase, tenant, method, sum(nano) FROM journal GROUP BY 1, 2, 3, 4; "
    "SELECT tenant, count(*), sum(prompt_computed), sum(prompt_cached), sum(output_tokens), sum(saved_nano) "
    "FROM requests GROUP BY 1",
    "engine": "SELECT engine, debit, method, sum(nano) FROM journal GROUP BY 1, 2, 3",
    "day": "SELECT wall_end_ns / 86400000000000, debit, method, sum(nano) FROM journal GROUP BY 1, 2, 3",
    "account": "SELECT debit, phase, method, reason, sum(nano) FROM journal GROUP BY 1, 2, 3, 4",
}


def fill(ledger: Ledger, requests: int, days: int) -> None:
    """Write requests, a journal line for each, idle time and the hourly sums of both."""
    dialect, span = ledger.engine.dialect.name, days * 24 * HOUR
    values = {
        "start": START_NS,
        "step": span // requests,
        "engines": ENGINES,
        "tenants": TENANTS,
        "models": MODELS,
        "hour": HOUR,
        "tenant": _TENANT[dialect],
    }
    statements = (Path(__file__).parent / "large_ledger.sql").read_text(encoding="utf-8").split("\n---\n")
    with transaction(ledger.engine, write=True) as connection:
        for table in ("requests", "journal"):
            make_room(connection, table, range(START_NS, START_NS + span + 24 * HOUR, 24 * HOUR))
    for first in range(1, requests + 1, CHUNK):
        some = {"first": first, "last": min(first + CHUNK - 1, requests)}
        series = Template(_SERIES[dialect]).substitute(some)
        _write(ledger, [Template(text).substitute(values, series=series, **some) for text in statements[:2]])
    _write(ledger, [Template(text).substitute(values) for text in statements[2:]])
    if dialect == "postgresql":
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def _write(ledger: Ledger, statements: Sequence[str]) -> None:
    with transaction(ledger.engine, write=True) as connection:
        for statement in statements:
            # without parameters, so that a per cent sign is one in both drivers
            connection.execution_options(no_parameters=True).exec_driver_sql(statement)


def accountant(ledger: Ledger, now_ns: int) -> Accountant:
    """The accountant of a service that begins."""
    return Accountant(ledger, SETTINGS, price_book(SETTINGS), clock_ns=lambda: now_ns)


def page(keeper: Accountant) -> None:
    """What the page asks for every two seconds."""
    json.dumps(snapshot_payload(keeper.snapshot()))


def readers(ledger: Ledger, now_ns: int) -> dict[str, Callable[[], object]]:
    """Name -> what is timed."""
    since = utc(START_NS)
    keeper, watch = accountant(ledger, now_ns), SpendWatch(ledger, SETTINGS, lambda: now_ns)
    return {
        **{f"report by {by}": partial(report, ledger, since, by, "USD") for by in GROUPS},
        "report of a tenant by day": partial(report, ledger, since, "day", "USD", filters={"tenant": "tenant-001"}),
        "spend by tenant": partial(spend_by, ledger, "tenant", now_ns),
        "kpis and variance": lambda: (measure(ledger, Scope()), drivers(ledger, Scope())),
        "spend watch, a minute's update": watch.update,
        "start: totals": partial(Totals.load, ledger),
        "page payload": partial(page, keeper),
    }


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Medians of some runs: by the clock, and of this process's processor time, in which SQLite's is."""
    taken, used = [], []
    for _ in range(rounds):
        begun, begun_cpu = time.perf_counter(), time.process_time()
        work()
        taken.append(time.perf_counter() - begun)
        used.append(time.process_time() - begun_cpu)
    return statistics.median(taken), statistics.median(used)


def scan(ledger: Ledger, statements: str) -> None:
    """The same amounts from requests and journal."""
    with ledger.engine.connect() as connection:
        for statement in statements.split(";"):
            connection.exec_driver_sql(statement).all()


def largest_memory(url: str, now_ns: int) -> int:
    """Bytes that a process needs which starts, shows the page and makes every report."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return int(pool.apply(_hold, (url, now_ns)))


def _hold(url: str, now_ns: int) -> int:
    ledger = Ledger.open(url)
    for work in readers(ledger, now_ns).values():
        work()
    ledger.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_one(url: str, requests: int, days: int) -> list[str]:
    """Fill a ledger unless it is, print its table, and return which limits were missed."""
    ledger = Ledger.open(url)
    name = ledger.engine.dialect.name
    if not ledger.boots():
        begun = time.perf_counter()
        fill(ledger, requests, days)
        print(f"{name}: filled in {time.perf_counter() - begun:.0f} s")
    tables = ("requests", "journal", "cost_hours", "usage_hours")
    counts = [ledger.select(sa.select(sa.func.count()).select_from(sa.table(table)))[0][0] for table in tables]
    print(f"\n{name}: " + ", ".join(f"{count:,} rows of {table}" for count, table in zip(counts, tables, strict=True)))
    print(f"\n{'':34}{'seconds':>9}{'cpu':>9}{'scan':>9}{'ratio':>8}")
    now_ns, missed = START_NS + days * 24 * HOUR - HOUR // 2, []
    for title, work in readers(ledger, now_ns).items():
        taken, used = seconds(work)
        limit = PAGE_SECONDS if title == "page payload" else REPORT_SECONDS if title.startswith("report") else None
        if limit is not None and taken > limit:
            missed.append(f"{name}: {title} takes {taken:.2f} s, more than {limit:g}")
        statements = _SCANS.get(title.removeprefix("report by "))
        scanned = None if statements is None else seconds(partial(scan, ledger, statements), rounds=1)[0]
        beside = f"{'':>17}" if scanned is None else f"{scanned:9.3f}{scanned / taken:7.0f}x"
        print(f"{title:34}{taken:9.3f}{used:9.3f}{beside}", flush=True)
    ledger.close()
    memory = largest_memory(url, now_ns)
    print(f"{'largest memory':34}{memory / 2**20:8.0f}M")
    if memory > MEMORY_BYTES:
        missed.append(f"{name}: {memory / 2**20:.0f} MiB of memory, more than {MEMORY_BYTES / 2**20:.0f}")
    return missed


@contextmanager
def urls(database: str, keep: Path | None) -> Iterator[list[str]]:
    """URLs of empty ledgers, or in a folder that is kept of the one that an earlier run filled."""
    with tempfile.TemporaryDirectory() as folder:
        sqlite = f"sqlite:///{keep or folder}/ledger.db"
        if database == "sqlite":
            yield [sqlite]
            return
        programs = postgres_programs()
        if programs is None:
            yield [sqlite] if database == "both" else []
            return
        with running_cluster(programs, on_disk=True) as cluster:
            cluster.start()
            yield [sqlite, cluster.database()] if database == "both" else [cluster.database()]


def main() -> int:
    """Exit status: 1 when a limit was missed."""
    parser = argparse.ArgumentParser(description="Time reports on a large ledger.")
    parser.add_argument("--requests", type=int, default=5_000_000)
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--keep", type=Path, help="folder whose SQLite ledger is used again")
    given = parser.parse_args()
    missed = []
    with urls(given.database, given.keep) as found:
        for url in found:
            missed += measure_one(url, given.requests, given.days)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
