"""A real Prometheus that holds the recorded phases, each repeated for long and alone in the world, and our rules.

Scrapes are repeated lap by lap: counters go on from lap to lap, gauges begin anew. Phases lie so far apart that no
window of any rule sees two of them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.alerts.live_prometheus import Prometheus, started
from tests.alerts.real_parts import program
from tests.alerts.recorded import SCRAPE_SECONDS, WHOLE, Phase, Picture, Series, labels_text, phases

from farthing.alerts.render import rule_groups
from farthing.alerts.rules import AlertRule, RecordingRule, RuleGroup
from farthing.settings import Settings

__all__ = ["Fired", "RecordedWorld", "recorded_world"]

FIRST_SECONDS = 1_800_000_000 // 7200 * 7200
APART_SECONDS = 40 * 86_400
"""Between the starts of two phases: longer than the longest window (30 days), and whole blocks of Prometheus."""
WITH_CLIENTS = ("h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26")
"""The packaged recordings that hold what clients saw, which says what alerts they deserved."""
CUMULATIVE = ("_total", "_bucket", "_count", "_sum")


@dataclass(frozen=True, slots=True)
class Fired:
    """A series of an alert that fired in a phase."""

    alert: str
    labels: Mapping[str, str]
    after_seconds: float
    """From the phase's start to the evaluation at which it first fired."""


@dataclass(frozen=True, slots=True)
class RecordedWorld:
    """A Prometheus that holds the phases and all that our recording rules make of them."""

    server: Prometheus
    phases: tuple[Phase, ...]
    groups: tuple[RuleGroup, ...]

    def phase(self, recording: str, name: str) -> Phase:
        (found,) = (phase for phase in self.phases if recording in phase.recording and phase.name == name)
        return found

    def value(self, expr: str, at_seconds: float) -> float:
        """The only sample of an expression at a moment."""
        (found,) = self.server.get("query", query=expr, time=str(at_seconds))["result"]
        return float(found["value"][1])

    def fired(self, phase: Phase) -> list[Fired]:
        """The series of alerts that fire within the phase, evaluated at their group's interval."""
        return [
            fired
            for group in self.groups
            for alert in group.alerts
            for fired in self._fired(phase, alert, group.interval_seconds)
        ]

    def _fired(self, phase: Phase, alert: AlertRule, interval: int) -> Iterator[Fired]:
        # Prometheus, rules/alerting.go: active since the first of an unbroken run of evaluations, firing after `for`.
        for series in range_of(self.server, alert.expr, phase, interval):
            since = before = None
            for at, _ in series["values"]:
                if since is None or before is None or at - before > interval:
                    since = at
                before = at
                if at - since >= alert.for_seconds:
                    yield Fired(alert.name, series["metric"], at - phase.start_seconds)
                    break


def range_of(server: Prometheus, expr: str, phase: Phase, step_seconds: int) -> list[dict[str, Any]]:
    """The series of an expression over a phase, each with ``metric`` and ``values`` (pairs of time and text)."""
    span = {"start": str(phase.start_seconds), "end": str(phase.end_seconds), "step": str(step_seconds)}
    return list(server.get("query_range", query=expr, **span)["result"])


@contextmanager
def recorded_world(folder: Path, *, lasts_seconds: Mapping[str, int], usual_seconds: int) -> Iterator[RecordedWorld]:
    """The recordings' phases are in a Prometheus within the block, each repeated for so long."""
    groups = rule_groups(Settings())
    wanted = frozenset(
        re.findall(r"[a-zA-Z_:][\w:]*", "\n".join(rule.expr for group in groups for rule in group.rules))
    )
    placed: list[Phase] = []
    for phase in (phase for name in WITH_CLIENTS for phase in phases(name, wanted)):
        start = FIRST_SECONDS + len(placed) * APART_SECONDS
        whole = (len(phase.engine) - 1) * SCRAPE_SECONDS
        lasts = whole if phase.name == WHOLE else lasts_seconds.get(phase.name, usual_seconds)
        placed.append(replace(phase, start_seconds=start, lasts_seconds=lasts))
    for phase in placed:
        _blocks(folder, _samples(phase))
    for level in _levels(groups):
        with _server(folder) as server:
            texts = [_recorded(server, level, phase) for phase in placed]
        for text in filter(None, texts):
            _blocks(folder, [text])
    with _server(folder) as server:
        yield RecordedWorld(server, tuple(placed), groups)


def _levels(groups: Iterable[RuleGroup]) -> list[list[tuple[RecordingRule, int]]]:
    """The recording rules and how often each is evaluated, each level reading what the levels before it recorded."""
    left = [(rule, group.interval_seconds) for group in groups for rule in group.recordings]
    levels = []
    while left:
        waiting = {rule.record for rule, _ in left}
        levels.append([one for one in left if not waiting & set(re.findall(r"[\w:]+", one[0].expr))])
        assert levels[-1], waiting
        left = [one for one in left if one not in levels[-1]]
    return levels


def _recorded(server: Prometheus, level: Iterable[tuple[RecordingRule, int]], phase: Phase) -> str:
    """The samples that rules record in a phase, as lines of OpenMetrics."""
    lines = []
    for rule, interval in level:
        for series in range_of(server, rule.expr, phase, interval):
            labels = labels_text({**series["metric"], **rule.labels})
            lines += [f"{rule.record}{{{labels}}} {value} {at}\n" for at, value in series["values"]]
    return "".join(lines)


def _samples(phase: Phase) -> Iterator[str]:
    """Every sample of the phase, as lines of OpenMetrics."""
    for scraped in (phase.engine, phase.farthing):
        for at, values in _laps(scraped, phase.lasts_seconds):
            moment = phase.start_seconds + at
            for (name, labels), value in values.items():
                yield f"{name}{{{labels}}} {value!r} {moment}\n"


def _laps(scraped: Sequence[Picture], lasts_seconds: int) -> Iterator[tuple[int, dict[Series, float]]]:
    """(seconds since the start, values): the pictures again and again, counters going on from lap to lap."""
    first, last = scraped[0].values, scraped[-1].values
    gained = {series: last[series] - first.get(series, 0.0) for series in last if series[0].endswith(CUMULATIVE)}
    length = len(scraped) - 1
    for number in range(lasts_seconds // SCRAPE_SECONDS + 1):
        lap, index = divmod(number, length)
        values = dict(scraped[index].values)
        for series, gain in gained.items():
            if lap or series in values:
                # as many decimals as money has: a counter less by a float's last digit would be a reset
                values[series] = round(values.get(series, 0.0) + lap * gain, 9)
        yield number * SCRAPE_SECONDS, values


def _blocks(folder: Path, lines: Iterable[str]) -> None:
    """Put samples where a Prometheus that starts finds them."""
    samples = folder / "samples.txt"
    with samples.open("w") as file:
        file.writelines(lines)
        file.write("# EOF\n")
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(samples), str(folder / "data")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr


@contextmanager
def _server(folder: Path) -> Iterator[Prometheus]:
    (folder / "prometheus.yml").write_text("{}\n")
    with started(folder, "--storage.tsdb.retention.time=100y") as server:
        yield server
