"""A fleet on one Farthing: 1,000 engines with probes, 200 tenants, 1,000 records and 200 windows a second.

    python -m benchmarks.bench_scale [--engines N] [--minutes N] [--folder DIR] [--profile SECONDS]

A real ``farthing serve`` on a ledger in SQLite; the load comes from a process of its own (``scale_load``), gzip-
compressed, with a token, and as often as intake asks for. ``/metrics`` is scraped every 15 s as Prometheus does, and
the page's data is asked for every 2 s as the page does. Engines start within the first minute; the minutes after it
count. Prints a row for each minute, and at the end whether anything was lost, and whether the books add up. Exit status
1 when a budget is missed. An interpreter that was built without optimisation takes a quarter more than Debian's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import sqlalchemy as sa

from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger

__all__ = ["Budget", "Minute", "quantile"]

SCRAPE_SECONDS: Final = 15.0
PAGE_SECONDS: Final = 2.0
WARM_UP_MINUTES: Final = 1
TOKEN: Final = "scale-intake-token"  # noqa: S105 - of a ledger that is thrown away
SETTLE_SECONDS: Final = 180.0
CONFIG: Final = """\
ledger: sqlite:///{folder}/ledger.db
serve:
  port: {port}
  token_file: {folder}/token
  intake_bodies_per_second: 5000
prices:
  - gpu: H100-SXM
    usd_per_hour: "2.50"
    from: 2025-01-01
"""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one Farthing may take."""

    cores: float = 0.60
    megabytes: float = 700.0
    lag_seconds: float = 90.0


@dataclass(slots=True)
class Minute:
    """What was seen in a minute."""

    cores: float = 0.0
    megabytes: float = 0.0
    lag_seconds: float = 0.0
    records: int = 0
    windows: int = 0
    load: float = 0.0
    scrape_seconds: list[float] = field(default_factory=list)
    page_seconds: list[float] = field(default_factory=list)
    scrape_bytes: int = 0
    red: set[str] = field(default_factory=set)


def quantile(values: list[float], share: float) -> float:
    """The value below which a share of all lies, by the nearest rank; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Watch:
    """Reads the service as Prometheus and the page do, and its processor time and memory."""

    def __init__(self, process: psutil.Process, url: str) -> None:
        self._process = process
        self._client = httpx.Client(base_url=url, timeout=60.0)
        self._since_ms = 0
        self.last: dict[str, float] = {}

    def cpu_seconds(self) -> float:
        """User and system time of the service so far."""
        times = self._process.cpu_times()
        return times.user + times.system

    def megabytes(self) -> float:
        """Its resident memory, in millions of bytes."""
        return self._process.memory_info().rss / 1e6

    def scrape(self, minute: Minute) -> None:
        """Read ``/metrics``."""
        began = time.monotonic()
        answer = self._client.get("/metrics").raise_for_status()
        minute.scrape_seconds.append(time.monotonic() - began)
        minute.scrape_bytes = len(answer.content)
        lags, records = [0.0], 0.0
        for line in answer.text.splitlines():
            if line.startswith("farthing_watermark_lag_seconds{"):
                lags.append(float(line.rpartition(" ")[2]))
            elif line.startswith("farthing_check") and line.endswith(" 0.0"):
                minute.red.add(line.partition('check="')[2].partition('"')[0])
            elif line.startswith("farthing_residual") and not line.endswith(" 0.0"):
                minute.red.add("residual")
            elif line.startswith("farthing_intake_records_total{") and 'result="accepted"' in line:
                records += float(line.rpartition(" ")[2])
        minute.lag_seconds = max(minute.lag_seconds, *lags)
        self.last = {"records": records, "lag": max(lags), "lags": len(lags) - 1}

    def page(self, minute: Minute) -> None:
        """What the page reads: the snapshot and the newest points of its plots."""
        began = time.monotonic()
        self._client.get("/api/v1/snapshot").raise_for_status()
        history = self._client.get("/api/v1/history", params={"since": self._since_ms}).raise_for_status().json()
        self._since_ms = history["newest_ms"] or 0
        minute.page_seconds.append(time.monotonic() - began)


@contextmanager
def service(folder: Path, port: int) -> Iterator[psutil.Process]:
    """``farthing serve`` on a new ledger."""
    (folder / "token").write_text(TOKEN)
    (folder / "farthing.yaml").write_text(CONFIG.format(folder=folder, port=port))
    program = Path(sys.executable).with_name("farthing")
    command = [str(program), "serve", "--config", str(folder / "farthing.yaml")]
    with (folder / "serve.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/readyz", process)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, "farthing serve ended; see serve.log"
        time.sleep(0.2)
    raise TimeoutError(url)


def _profiled(pid: int, seconds: float, folder: Path) -> None:
    """Let py-spy, where it is, sample the service for some seconds."""
    command = ["py-spy", "record", "-p", str(pid), "-d", str(int(seconds)), "-r", "100", "-f", "raw"]
    subprocess.Popen([*command, "-o", str(folder / "profile.txt")], stdout=subprocess.DEVNULL)


def observe(watch: Watch, load: subprocess.Popen[bytes], result: Path, on_minute: Any) -> list[Minute]:
    """Watch the service until the load has ended; one entry for each minute."""
    minutes: list[Minute] = []
    minute, begin = Minute(), time.monotonic()
    cpu = watch.cpu_seconds()
    next_scrape, next_page, next_minute = begin + SCRAPE_SECONDS, begin + PAGE_SECONDS, begin + 60.0
    sent_before: dict[str, float] = {}
    while load.poll() is None:
        time.sleep(max(0.0, min(next_scrape, next_page, next_minute) - time.monotonic()))
        now = time.monotonic()
        minute.megabytes = max(minute.megabytes, watch.megabytes())
        if now >= next_page:
            watch.page(minute)
            next_page = max(next_page + PAGE_SECONDS, time.monotonic())
        if now >= next_scrape:
            watch.scrape(minute)
            next_scrape = max(next_scrape + SCRAPE_SECONDS, time.monotonic())
        if now >= next_minute:
            cpu_now, sent = watch.cpu_seconds(), _told(result)
            minute.cores = (cpu_now - cpu) / (time.monotonic() - next_minute + 60.0)
            minute.load = os.getloadavg()[0]
            minute.records = int(sent.get("usage", 0) - sent_before.get("usage", 0))
            minute.windows = int(sent.get("windows", 0) - sent_before.get("windows", 0))
            cpu, sent_before = cpu_now, sent
            minutes.append(minute)
            on_minute(len(minutes), minute)
            minute, next_minute = Minute(), next_minute + 60.0
    return minutes


def _told(result: Path) -> dict[str, float]:
    told: dict[str, float] = json.loads(result.read_text()) if result.exists() else {}
    return told


def _show(number: int, minute: Minute) -> None:
    print(
        f"{number:>3} {minute.cores:>7.1%} {minute.megabytes:>7.0f} {minute.lag_seconds:>6.1f} "
        f"{minute.records / 60:>9.0f} {minute.windows / 60:>9.0f} {quantile(minute.scrape_seconds, 0.95):>8.2f} "
        f"{quantile(minute.page_seconds, 0.95):>8.2f} {minute.scrape_bytes / 1e6:>6.1f} {minute.load:>5.1f}  "
        f"{', '.join(sorted(minute.red)) or '-'}",
        flush=True,
    )


def settled(watch: Watch) -> tuple[Minute, float]:
    """What is seen once no boot has a lag any more, and how long that took after the load's end."""
    began = time.monotonic()
    while True:
        minute = Minute()
        watch.scrape(minute)
        waited = time.monotonic() - began
        if not watch.last["lags"] or waited > SETTLE_SECONDS:
            return minute, waited
        time.sleep(2.0)


def books(folder: Path) -> dict[str, int]:
    """Sums of the ledger."""
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        queries = {
            "records": sa.select(sa.func.count()).select_from(t.records),
            "requests": sa.select(sa.func.count()).select_from(t.requests),
            "windows": sa.select(sa.func.count()).select_from(t.windows),
            "lines": sa.select(sa.func.count()).select_from(t.journal),
            "cost_hours": sa.select(sa.func.count()).select_from(t.cost_hours),
            "lost": sa.select(sa.func.coalesce(sa.func.sum(t.boots.c.lost + t.boots.c.refused), 0)),
            "boots": sa.select(sa.func.count()).select_from(t.boots),
            "closed": sa.select(sa.func.count()).where(t.boots.c.closed_ns.is_not(None)),
            "billed": sa.select(sa.func.coalesce(sa.func.sum(t.boots.c.bill_nano), 0)),
            "booked": sa.select(sa.func.coalesce(sa.func.sum(t.cost_hours.c.nano), 0)),
            "unattributed": sa.select(sa.func.coalesce(sa.func.sum(t.cost_hours.c.nano), 0)).where(
                t.cost_hours.c.account == "unattributed"
            ),
        }
        return {name: int(ledger.select(query)[0][0]) for name, query in queries.items()}


def judge(minutes: list[Minute], budget: Budget) -> list[str]:
    """What of the budgets was missed."""
    cores = [minute.cores for minute in minutes]
    mean, p95 = sum(cores) / max(1, len(cores)), quantile(cores, 0.95)
    memory = max((minute.megabytes for minute in minutes), default=0.0)
    lag = max((minute.lag_seconds for minute in minutes), default=0.0)
    print(f"CPU mean {mean:.1%}, p95 {p95:.1%} of a core; memory {memory:.0f} MB; lag {lag:.1f} s at most")
    missed = []
    if max(mean, p95) > budget.cores:
        missed.append(f"CPU above {budget.cores:.0%}")
    if memory > budget.megabytes:
        missed.append(f"memory above {budget.megabytes:.0f} MB")
    if lag >= budget.lag_seconds:
        missed.append(f"lag not below {budget.lag_seconds:.0f} s")
    return missed


def run(chosen: argparse.Namespace, folder: Path) -> list[str]:
    """Run the fleet; returns what was missed."""
    url, result = f"http://127.0.0.1:{chosen.port}", folder / "sent.json"
    with service(folder, chosen.port) as process:
        watch = Watch(process, url)
        command = [sys.executable, "-m", "benchmarks.scale_load", url, str(folder / "token"), str(result)]
        command += ["--engines", str(chosen.engines), "--minutes", str(chosen.minutes), "--tenants", "200"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as load:
            assert load.stdout is not None
            load.stdout.readline()
            if chosen.profile:
                _profiled(process.pid, chosen.profile, folder)
            print("min     CPU      MB  lag s  records/s  windows/s scrape s  page s    MB  load  red")
            minutes = observe(watch, load, result, _show)
        last, waited = settled(watch)
        told = _told(result)
    print(f"settled {waited:.0f} s after the last record; red then: {', '.join(sorted(last.red)) or 'nothing'}")
    print(f"load: {json.dumps(told)}")
    ledger = books(folder)
    ledger["bytes"] = sum(path.stat().st_size for path in folder.glob("ledger.db*"))
    print(f"ledger: {json.dumps(ledger)}")
    missed = judge(minutes[WARM_UP_MINUTES : chosen.minutes], Budget())
    if last.red:
        missed.append("a check is red")
    if not told["records"] == told["accepted"] == ledger["records"] or ledger["lost"] or told["refused"]:
        missed.append("records were lost")
    if ledger["requests"] != told["usage"] or ledger["closed"] != chosen.engines:
        missed.append("requests or boots are missing")
    if ledger["billed"] != ledger["booked"]:
        missed.append(f"residual {ledger['billed'] - ledger['booked']} nano-dollars")
    return missed


def _go_before_others(nice: int) -> None:
    """Raise the priority of this session; Linux heeds that of a process only among those of its own session."""
    os.nice(nice)
    group = Path("/proc/self/autogroup")
    if nice and group.exists():
        group.write_text(str(nice))


def main() -> int:
    """Print the tables; 1 when a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--engines", type=int, default=1_000)
    parser.add_argument("--minutes", type=int, default=WARM_UP_MINUTES + 15, help="of each engine")
    parser.add_argument("--port", type=int, default=9474)
    parser.add_argument("--folder", type=Path, help="keep the ledger and logs here")
    parser.add_argument("--nice", type=int, default=0, help="below 0: before other work of a busy machine; needs root")
    parser.add_argument("--profile", type=float, default=0.0, help="seconds of py-spy, where it is installed")
    chosen = parser.parse_args()
    _go_before_others(chosen.nice)
    print(f"Python {platform.python_version()}, {platform.python_compiler()}, {Path(sys.executable).resolve()}")
    if chosen.folder:
        chosen.folder.mkdir(parents=True, exist_ok=True)
        if (chosen.folder / "ledger.db").exists():
            parser.error(f"{chosen.folder} has a ledger, which would know all records already; give another folder")
        missed = run(chosen, chosen.folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            missed = run(chosen, Path(folder))
    print(f"budgets: {'; '.join(missed) + ': MISSED' if missed else 'kept'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
