"""What panels have to show, by arithmetic on the recordings' own JSON: no PromQL, and no costing of Farthing's."""

from __future__ import annotations

import gzip
import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tests.dashboards.world import SCRAPE_SECONDS, Placed, World

from farthing.replay.recording import PACKAGED

__all__ = ["Truth", "bucket_quantile", "per_second", "truth_of"]

Row = dict[str, Any]
Labels = Mapping[str, str]
_SERIES = re.compile(r"^([\w:]+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Truth:
    """A recording's lines."""

    scrapes: list[Row]
    steps: list[Row]
    requests: list[Row]
    samples: list[Row]

    @cached_property
    def begin(self) -> float:
        """Of any file's first line."""
        sent = min(row["t0"] for row in self.requests)
        return float(min(self.scrapes[0]["t"], self.steps[0]["t"], self.samples[0]["t"], sent))

    @cached_property
    def _scraped(self) -> list[float]:
        return [row["t"] - self.begin for row in self.scrapes]

    @cached_property
    def _sampled(self) -> list[float]:
        return [row["t"] - self.begin for row in self.samples]

    @cached_property
    def seconds(self) -> float:
        """From the first line of any file to the last."""
        ends = (self.scrapes[-1]["t"], self.steps[-1]["t"], self.samples[-1]["t"], max(r["end"] for r in self.requests))
        return float(max(ends)) - self.begin

    @property
    def lap_seconds(self) -> int:
        return math.ceil(self.seconds)

    # ---- the engine's own series --------------------------------------------------------------

    def counter(
        self, lap: int, position: float, name: str, has: Callable[[Labels], bool] | None = None
    ) -> float | None:
        """A counter's sum over the series that are wanted; None while the engine did not answer."""
        row = self._scrape(position)
        if not row["body"]:
            return None
        ends = [one for one in self.scrapes if one["body"]]
        gained = _sum(ends[-1]["body"], name, has) - _sum(ends[0]["body"], name, has)
        return _sum(row["body"], name, has) + lap * gained

    def gauge(self, position: float, name: str) -> float | None:
        """A gauge of the engine; None while it did not answer."""
        body = self._scrape(position)["body"]
        return _sum(body, name, None) if body else None

    def bounds(self, name: str) -> list[str]:
        """The upper bounds of a histogram's buckets."""
        found = {labels["le"] for labels, _ in _parsed(self.scrapes[0]["body"])[f"{name}_bucket"]}
        return sorted(found, key=float)

    def _scrape(self, position: float) -> Row:
        return self.scrapes[bisect_right(self._scraped, position + 1e-6) - 1]

    # ---- the engine's steps, its clients, its device ---------------------------------------------

    def busy_seconds(self) -> float:
        """From step to step while anything runs; the first one after idleness from its earliest request's arrival."""
        shift = self.steps[0]["t"] - self.steps[0]["m"]
        arrivals = sorted(row["t0"] - shift for row in self.requests)
        busy, before = 0.0, None
        for row in self.steps:
            if not (row.get("d") and (row["d"][1] or row["d"][3])):
                before = row if before is not None and (row["run"] or row["wait"]) else before
                continue
            if before is not None and (before["run"] or before["wait"]):
                since = before["m"]
            else:
                waited = arrivals[bisect_right(arrivals, before["m"] if before else -math.inf) :]
                since = min(waited[0], row["m"]) if waited else row["m"]
            busy += row["m"] - since
            before = row
        return float(busy)

    def down_seconds(self) -> float:
        """From when the engine was gone: its device's memory was freed."""
        most = max(row["mem"] for row in self.samples)
        kept = [row["t"] for row in self.samples if row["mem"] * 10 > most]
        return self.begin + self.seconds - float(kept[-1])

    def joules(self) -> float:
        """By the driver's counter."""
        return float(self.samples[-1]["e_mj"] - self.samples[0]["e_mj"]) / 1_000

    def sample(self, position: float, every: int = 5) -> Row:
        """What the device's reader had last seen; it looked every so many seconds."""
        looked = position // every * every
        return self.samples[max(bisect_right(self._sampled, looked) - 1, 0)]


def _sum(body: str, name: str, has: Callable[[Labels], bool] | None) -> float:
    return math.fsum(value for labels, value in _parsed(body).get(name, ()) if has is None or has(labels))


@cache
def _parsed(body: str) -> dict[str, list[tuple[Labels, float]]]:
    """Name -> the series of an exposition."""
    series: dict[str, list[tuple[Labels, float]]] = {}
    for line in body.splitlines():
        if not line.startswith("#"):
            found = _SERIES.match(line)
            assert found, line
            series.setdefault(found[1], []).append((dict(_LABEL.findall(found[2] or "")), float(found[3])))
    return series


@cache
def truth_of(recording: str) -> Truth:
    """The lines of a packaged recording."""
    folder = PACKAGED / recording
    return Truth(
        _lines(folder / "metrics.jsonl.gz"),
        _lines(folder / "steps.jsonl.gz"),
        _lines(folder / "requests.jsonl.gz"),
        _lines(folder / "nvml.jsonl.gz")[1:],
    )


def _lines(file: Path) -> list[Row]:
    with gzip.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


def place(world: World, one: Placed, at: float) -> tuple[int, float]:
    """(lap, seconds into it) of an engine at a moment of the world."""
    lap, position = divmod(at - world.begin + one.shift_seconds, truth_of(str(one.kind.recording)).lap_seconds)
    return int(lap), position


def per_second(
    world: World, one: Placed, at: float, name: str, has: Callable[[Labels], bool] | None = None
) -> float | None:
    """How fast a counter grew between the first and the last scrape within a minute; None where there are not two."""
    truth = truth_of(str(one.kind.recording))
    first, last = math.ceil((at - 60) / SCRAPE_SECONDS), math.floor(at / SCRAPE_SECONDS)
    seen = []
    for slot in range(first, last + 1):
        moment = slot * SCRAPE_SECONDS
        value = truth.counter(*place(world, one, moment), name, has)
        if value is not None:
            seen.append((moment, value))
    if len(seen) < 2:
        return None
    (begin, before), (end, after) = seen[0], seen[-1]
    return (after - before) / (end - begin)


def bucket_quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """Within the bucket that the share falls into, as if its observations were spread evenly.

    ``buckets``: (upper bound, observations up to it), ascending, the last bound infinite.
    """
    wanted = share * buckets[-1][1]
    before = (0.0, 0.0)
    for bound, count in buckets:
        if count >= wanted:
            if math.isinf(bound):
                return before[0]
            return before[0] + (bound - before[0]) * (wanted - before[1]) / (count - before[1])
        before = (bound, count)
    raise AssertionError("no bucket holds all")
