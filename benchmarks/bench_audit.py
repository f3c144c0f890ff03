"""How long a trail of a million records takes to write and to verify, in one process.

    python benchmarks/bench_audit.py [RECORDS] [DAYS]

The target is 20 s for verifying 1,000,000 records; it is checked for any number of records in proportion.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from farthing.audit.records import AuditedRequest, request
from farthing.audit.verify import verify
from farthing.audit.writer import AuditWriter

TARGET_SECONDS = 20.0
BATCH = 2_000
START_NS = 1_792_000_000 * 1_000_000_000
DAY_NS = 86_400 * 1_000_000_000


def _content(number: int, at_ns: int) -> dict[str, object]:
    one = AuditedRequest(
        boot="0f1c3a5e-7b9d-4e2f-8a6c-1d3b5f7a9c0e",
        process=number % 4,
        sequence=number,
        engine="llama-8b",
        request_id=f"chatcmpl-{number:032x}",
        trace_id=f"{number:032x}",
        ended_ns=at_ns - 8_000_000_000,
        tenant=f"tenant-{number % 50}",
        project="search",
        workload="",
        tier="interactive",
        user=f"{number % 1000:016x}",
        key=f"{number % 50:016x}",
        model="meta-llama/Llama-3.1-8B-Instruct",
        outcome="finished",
        status=200,
        prompt_computed=180 + number % 100,
        prompt_cached=1_024,
        image_tokens=0,
        output_tokens=number % 512,
        cost_nano=(1_893 + number % 97, 40_211, 0),
        methods=("modelled",),
    )
    return request(one, at_ns, "USD")


def main() -> None:
    """Print a table; an AssertionError when the target is missed or anything does not verify."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    days = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    numbers = count()
    with tempfile.TemporaryDirectory() as folder:
        trail = Path(folder) / "trail"
        now = START_NS
        writer = AuditWriter(trail, clock_ns=lambda: now, keys=(b"a key that is long enough",))
        began = time.perf_counter()
        for day in range(days):
            now = START_NS + day * DAY_NS
            left = records // days
            while left:
                size = min(BATCH, left)
                writer.append([_content(next(numbers), now) for _ in range(size)])
                left -= size
        writer.close()
        wrote = time.perf_counter() - began
        size = sum(path.stat().st_size for path in trail.glob("*.audit"))
        began, used = time.perf_counter(), time.process_time()
        found = verify(trail, keys=(b"a key that is long enough",))
        took, used = time.perf_counter() - began, time.process_time() - used
    assert found.problems == [], found.problems
    assert found.signed
    load = os.getloadavg()[0]
    print(f"{found.records:,} records of {found.days} days, {size / 1e6:,.0f} MB, {size / found.records:,.0f} B each")
    print(f"written in {wrote:,.1f} s ({found.records / wrote:,.0f} a second, synced every {BATCH:,})")
    speed = found.records / took
    print(f"verified in {took:,.2f} s, {used:,.2f} s of a processor, {speed:,.0f} a second; load {load:.1f}")
    limit = TARGET_SECONDS * found.records / 1_000_000
    assert took < limit, f"{took:.1f} s, and {limit:.1f} s is the target"


if __name__ == "__main__":
    main()
