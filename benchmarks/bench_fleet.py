"""What one poll of a fleet takes: seconds, processor time and memory, of a real Prometheus that scrapes many engines.

    python -m benchmarks.bench_fleet [--engines N] [--models N] [--scrape S] [--polls N]

A real Prometheus scrapes simulated engines (benchmarks/many_engines.py, a process of its own), without buckets, which
costing does not ask for. A fleet reader polls it at the interval of its scrapes, and every record that a poll gives is
made into what the inbox takes, as `farthing serve` does. The first poll is apart: it takes all that a question reaches
back over. Processor time is that of this process alone. Exit status 1 when later polls give
fewer than 95 % of the scrapes that there should be, or one takes more than a third of its interval.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# a script finds only what lies beside it; the private server is the tests'
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import yaml
from benchmarks.many_engines import Fleet, served, targets
from tests.alerts.known_metrics import FIXTURES
from tests.alerts.live_prometheus import started
from tests.alerts.real_parts import free_port

from farthing.collectors.engines.catalogue import load_catalogue
from farthing.collectors.fleet.api import PrometheusApi
from farthing.collectors.fleet.reader import FleetReader
from farthing.domain.conventions import JOB_ENGINES
from farthing.service.scraped_records import raw_record
from farthing.settings_fleet import FleetSettings

SHARE: Final = 1 / 3
"""Of its interval that a poll may take."""
CAPTURE: Final = FIXTURES / "recordings" / "h100-llama8b-probe" / "metrics_final.txt"


@dataclass(frozen=True)
class Poll:
    """What one poll gave and took."""

    seconds: float
    processor: float
    """Seconds of this process."""
    records: int
    engines: int


@contextmanager
def prometheus(folder: Path, fleet: Fleet, scrape: int) -> Iterator[str]:
    """The address of a Prometheus that scrapes the fleet."""
    buckets = {"source_labels": ["__name__"], "regex": ".+_bucket", "action": "drop"}
    with served(fleet, free_port()) as address:
        job = {
            "job_name": JOB_ENGINES,
            "static_configs": targets(fleet, address),
            "metric_relabel_configs": [buckets],
        }
        configuration = {
            "global": {"scrape_interval": f"{scrape}s", "scrape_timeout": f"{min(scrape, 10)}s"},
            "scrape_configs": [job],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        with started(folder) as server:
            yield server.url


async def polled(url: str, scrape: int, polls: int) -> list[Poll]:
    """Some polls, each at its time."""
    gpus = [{"gpu": "H100-SXM"}]
    entry = FleetSettings.model_validate({"name": "bench", "url": url, "interval_seconds": scrape, "gpus": gpus})
    found = []
    async with httpx.AsyncClient(trust_env=False) as client:
        reader = FleetReader(
            entry,
            PrometheusApi(url, client),
            load_catalogue(),
            clock_ns=time.monotonic_ns,
            resume=lambda _: None,
            claim=lambda _: True,
        )
        for _ in range(polls):
            began, used = time.monotonic(), time.process_time()
            outcomes = await reader.poll()
            records = [raw_record(record) for outcome in outcomes for record in outcome.records]
            engines = {outcome.engine for outcome in outcomes if outcome.error is None}
            found.append(Poll(time.monotonic() - began, time.process_time() - used, len(records), len(engines)))
            await asyncio.sleep(max(0.0, began + scrape - time.monotonic()))
    return found


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=1000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--scrape", type=int, default=15)
    parser.add_argument("--polls", type=int, default=6)
    given = parser.parse_args()
    fleet = Fleet(given.engines, given.models, CAPTURE.read_text(), "")
    with (
        tempfile.TemporaryDirectory() as folder,
        prometheus(Path(folder), fleet, given.scrape) as url,
    ):
        # every target has been scraped a few times
        time.sleep(4 * given.scrape)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        polls = asyncio.run(polled(url, given.scrape, given.polls))
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{given.engines} engines, scraped and polled every {given.scrape} s")
    print(f"{'poll':>5}{'seconds':>9}{'processor':>11}{'engines':>9}{'records':>9}")
    for number, poll in enumerate(polls):
        print(f"{number:5}{poll.seconds:9.2f}{poll.processor:11.2f}{poll.engines:9}{poll.records:9}")
    later = polls[1:]
    share = sum(poll.processor for poll in later) / len(later) / given.scrape
    print(f"{share:.1%} of a core; {largest:.0f} MiB at the most, {before:.0f} before the first poll")
    incomplete = sum(poll.records for poll in later) < 0.95 * given.engines * len(later)
    slow = any(poll.seconds > SHARE * given.scrape for poll in later)
    return 1 if incomplete or slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
