"""How much of their interval the generated rules take in one Prometheus that scrapes a thousand engines.

    python -m benchmarks.bench_rules [--engines N] [--models N] [--scrape S] [--seconds S] [--storm] [--nice N]

A real Prometheus scrapes simulated engines (benchmarks/many_engines.py, a process of its own) and Farthing, loads every
rule file that ``farthing generate`` writes, and is asked for its own figures: the duration of each group's evaluation,
over its interval; the slowest rules; the series that rules add. Engines are well; ``--storm`` puts every one in
trouble at once, so that alerts hold for all. What is before the warm-up's end is not in the figures. Durations are by
the clock: on a machine that is busy with other work a negative ``--nice`` lets Prometheus go first. Exit status 1 when
a group needs more than a quarter of its interval, by the median of its evaluations, or misses one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# a script finds only what lies beside it; the private server is the tests'
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import yaml
from benchmarks.many_engines import FARTHING_PATH, Fleet, served, targets
from prometheus_client.parser import text_string_to_metric_families
from tests.alerts.known_metrics import FIXTURES, farthing_exposition
from tests.alerts.live_prometheus import started
from tests.alerts.real_parts import free_port

from farthing.alerts.render import render_rules
from farthing.domain.conventions import JOB_ENGINES, JOB_FARTHING
from farthing.settings import Settings

SHARE: Final = 0.25
"""Of its interval that a group's evaluation may take."""
CAPTURE: Final = FIXTURES / "recordings" / "h100-llama8b-probe" / "metrics_final.txt"
TROUBLE: Final = {"vllm:num_requests_waiting": 50.0, "vllm:kv_cache_usage_perc": 0.99, "farthing_probe_on": 0.0}
WELL: Final = {"farthing_reconciliation_ok": 1.0}
STILL: Final = ('account="starting"', 'account="asleep"', 'account="down"', 'account="unattributed"', "farthing_late")
"""Costs that grow while something is wrong."""
RECORDED: Final = '{__name__=~"[a-z]+:[a-z0-9_]+:[a-z0-9_]+",job=""}'


@dataclass(frozen=True)
class Server:
    """A running Prometheus."""

    url: str
    client: httpx.Client

    def own(self, name: str) -> dict[str, float]:
        """Its own metric, by rule group (without one, under '')."""
        text = self.client.get(f"{self.url}/metrics").text
        return {
            sample.labels.get("rule_group", "").rpartition(";")[2]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def number(self, expr: str) -> int:
        """The value of an instant query of one series; 0 without one, for counts only."""
        reply = self.client.get(f"{self.url}/api/v1/query", params={"query": expr}).json()
        found = reply["data"]["result"]
        return int(float(found[0]["value"][1])) if found else 0

    def rules(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every rule with its group, as evaluated last."""
        for group in self.client.get(f"{self.url}/api/v1/rules").json()["data"]["groups"]:
            yield from ((group["name"], rule) for rule in group["rules"])


@contextmanager
def prometheus(folder: Path, fleet: Fleet, scrape: int, nice: int) -> Iterator[Server]:
    """Prometheus with every rule, scraping the fleet."""
    (folder / "rules").mkdir()
    for name, text in render_rules(Settings()).items():
        (folder / "rules" / name).write_text(text)
    with served(fleet, free_port()) as address:
        ours = {"targets": [address], "labels": {"instance": JOB_FARTHING, "__metrics_path__": FARTHING_PATH}}
        configuration = {
            "global": {"scrape_interval": f"{scrape}s", "scrape_timeout": f"{min(scrape, 10)}s"},
            "rule_files": ["rules/*.yml"],
            "scrape_configs": [
                {"job_name": JOB_ENGINES, "static_configs": targets(fleet, address)},
                {"job_name": JOB_FARTHING, "static_configs": [ours]},
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        prefix = ["nice", "-n", str(nice)] if nice else []
        with started(folder, prefix=prefix) as server, httpx.Client(timeout=60) as client:
            yield Server(server.url, client)


def measured(server: Server, seconds: int) -> tuple[dict[str, list[float]], dict[tuple[str, str], list[float]]]:
    """Durations of each group, and of each rule, in seconds, looked at every five."""
    groups: dict[str, list[float]] = defaultdict(list)
    rules: dict[tuple[str, str], list[float]] = defaultdict(list)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for group, duration in server.own("prometheus_rule_group_last_duration_seconds").items():
            groups[group].append(duration)
        for group, rule in server.rules():
            rules[group, rule["name"]].append(rule["evaluationTime"])
        time.sleep(5)
    return groups, rules


def report(server: Server, fleet: Fleet, seconds: int) -> list[str]:
    """Print the figures; returns what missed its limit."""
    before = server.own("process_cpu_seconds_total")[""]
    missed_before = server.own("prometheus_rule_group_iterations_missed_total")
    groups, rules = measured(server, seconds)
    used = (server.own("process_cpu_seconds_total")[""] - before) / seconds
    intervals = server.own("prometheus_rule_group_interval_seconds")
    after = server.own("prometheus_rule_group_iterations_missed_total")
    iterations = {group: count - missed_before.get(group, 0) for group, count in after.items()}
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    up = server.number(f'count(up{{job="{JOB_ENGINES}"}} == 1)')
    print(f"{fleet.engines} engines ({up} up) of {fleet.models} models; load {load} on {os.cpu_count()} cores")
    resident = server.own("process_resident_memory_bytes")[""] / 2**20
    head = server.own("prometheus_tsdb_head_series")[""]
    print(f"Prometheus: {used:.2f} cores, {resident:.0f} MiB resident, {head:,.0f} series")
    print(f"\n{'group':24}{'interval':>9}{'median':>9}{'largest':>9}{'share':>8}{'missed':>8}")
    missed = []
    for group, durations in sorted(groups.items(), key=lambda item: -statistics.median(item[1])):
        share = statistics.median(durations) / intervals[group]
        print(
            f"{group:24}{intervals[group]:8.0f}s{statistics.median(durations):9.3f}{max(durations):9.3f}"
            f"{share:8.1%}{iterations[group]:8.0f}"
        )
        if share >= SHARE or iterations[group]:
            missed.append(f"{group}: {share:.1%} of its interval, {iterations[group]:.0f} evaluations missed")
    print(f"\n{'slowest rules':64}{'median s':>9}")
    for (_, name), durations in sorted(rules.items(), key=lambda item: -statistics.median(item[1]))[:12]:
        print(f"{name:64}{statistics.median(durations):9.3f}")
    holding = {rule["name"] for _, rule in server.rules() if rule.get("alerts")}
    print(f"alerts that hold: {', '.join(sorted(holding))}")
    for what, count in added(server, fleet).items():
        print(f"{what:48}{count:>10}")
    return missed


def added(server: Server, fleet: Fleet) -> Mapping[str, int]:
    """Series that rules add, counted in the server."""
    one_engine = fleet.engine_names[0]
    one_model = fleet.model_names[0]
    return {
        "recorded, all": server.number(f"count({RECORDED})"),
        "recorded, of one engine": server.number(f'count({{__name__=~"[a-z]+:.+:.+",instance="{one_engine}",job=""}})'),
        "recorded, of one model": server.number(
            f'count({{__name__=~"[a-z]+:.+:.+",model="{one_model}",instance="",job=""}})'
        ),
        "scraped of one engine": server.number(f'count({{instance="{one_engine}",job="{JOB_ENGINES}"}})'),
        "alerts, pending or firing": server.number("count(ALERTS)"),
    }


def main() -> int:
    """Exit status: 1 when a limit was missed."""
    parser = argparse.ArgumentParser(description="Measure what the generated rules cost one Prometheus.")
    parser.add_argument("--engines", type=int, default=1000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--scrape", type=int, default=15, help="seconds between scrapes of an engine")
    parser.add_argument("--warm", type=int, default=120, help="seconds before the figures")
    parser.add_argument("--seconds", type=int, default=120, help="seconds that figures are of")
    parser.add_argument("--nice", type=int, default=0, help="priority of Prometheus; below 0 needs root")
    parser.add_argument("--storm", action="store_true", help="every engine in trouble at once")
    given = parser.parse_args()
    state: dict[str, Any] = {"gauges": TROUBLE} if given.storm else {"gauges": WELL, "still": STILL}
    fleet = Fleet(given.engines, given.models, CAPTURE.read_text(), farthing_exposition(), **state)
    with tempfile.TemporaryDirectory() as folder, prometheus(Path(folder), fleet, given.scrape, given.nice) as server:
        time.sleep(given.warm)
        missed = report(server, fleet, given.seconds)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
