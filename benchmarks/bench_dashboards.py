"""How long a real Prometheus takes for every query of every panel, over six hours of a fleet of twenty engines.

    python -m benchmarks.bench_dashboards [--rounds N] [--slowest N]

The tests' world (tests/dashboards/world.py) with every series that engines, Farthing and the GPUs' agents expose, and
what the recording rules make of them. Prometheus is started anew before each round, so that nothing is in its memory;
the files may be in the system's. Each query is asked once a round as Grafana asks it when the dashboard opens: All of
every variable, 1,000 points. Its time is the least of the rounds, the request's way included: what else the machine did
is no part of it. The ratio is to a query that selects nothing. Exit status 1 when the 95th percentile over all
queries exceeds 150 ms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

# a script finds only what lies beside it; the world is the tests'
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from tests.dashboards.asking import all_expressions
from tests.dashboards.grafana import Board, Span, Store, boards
from tests.dashboards.world import RANGE_SECONDS, SCRAPE_SECONDS, World, build, world_settings

from farthing.dashboards.render import render_dashboards

LIMIT_SECONDS: Final = 0.150
SHARE: Final = 0.95
NOTHING: Final = "absent_of_all"


def round_of(world: World, found: list[Board]) -> tuple[dict[str, float], float]:
    """Query -> seconds, and the median seconds of asking for nothing, of a server that was just started."""
    end = time.time()
    with world.server() as server, httpx.Client(trust_env=False, timeout=60) as client:
        store = Store(server.url, Span(end - RANGE_SECONDS, end, SCRAPE_SECONDS), client)
        at = {"time": repr(end)}
        nothing = statistics.median(store.query(NOTHING, "query", at).seconds for _ in range(20))
        taken = {}
        for board in found:
            options = store.options(board, {})
            for asked in board.asked:
                taken[asked.id] = store.ask(asked, board, {}, options).seconds
        return taken, nothing


def percentile(values: list[float], share: float) -> float:
    """The smallest value that ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * round(share * 100) // 100) - 1))]


def main() -> int:
    """Print the figures; 1 when the limit is exceeded."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--slowest", type=int, default=10)
    chosen = arguments.parse_args()
    found = boards(render_dashboards(world_settings()))
    with tempfile.TemporaryDirectory() as folder:
        world = build(Path(folder), all_expressions(found), wanted=None)
        spent = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in world.seconds.items())
        print(f"{world.samples:,} samples scraped; built in {sum(world.seconds.values()):.0f} s ({spent})")
        rounds = [round_of(world, found) for _ in range(chosen.rounds)]
    least = {query: min(taken[query] for taken, _ in rounds) for query in rounds[0][0]}
    nothing = min(seconds for _, seconds in rounds)
    print(f"{'dashboard':<22}{'queries':>8}{'p50, ms':>9}{'p95, ms':>9}{'all, s':>8}{'ratio':>7}")
    for board in found:
        own = [least[asked.id] for asked in board.asked]
        middle, high = statistics.median(own), percentile(own, SHARE)
        figures = f"{middle * 1e3:>9.1f}{high * 1e3:>9.1f}{sum(own):>8.2f}{high / nothing:>7.0f}"
        print(f"{board.uid:<22}{len(own):>8}{figures}")
    high = percentile(list(least.values()), SHARE)
    print(f"all {len(least)} queries: p95 {high * 1e3:.1f} ms cold (limit {LIMIT_SECONDS * 1e3:.0f} ms)")
    print("slowest:")
    for query, seconds in sorted(least.items(), key=lambda item: -item[1])[: chosen.slowest]:
        print(f"  {seconds * 1e3:>7.1f} ms  {query}")
    return int(high > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
