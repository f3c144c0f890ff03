"""What a Prometheus would have stored of a recorded engine, as its API answers a range selector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from farthing.collectors.engines.catalogue import load_catalogue, read_signals, scraped_metrics
from farthing.collectors.engines.exposition import parse_exposition
from farthing.collectors.fleet.api import Series
from farthing.domain.clock import MILLISECOND, SECOND
from farthing.replay.recording import load_recording

__all__ = ["Replica", "Scraped", "recorded", "stored"]

RECORDING = "h100-llama8b-vllm0.26"
VLLM = load_catalogue()


@dataclass(frozen=True, slots=True)
class Scraped:
    """One scrape that succeeded."""

    true_ns: int
    """When it was, by the one clock that the recording has."""
    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    values: Mapping[str, int]
    """Counters by signal."""


@cache
def recorded() -> tuple[Scraped, ...]:
    """The recorded scrapes, every two seconds, in the catalogue's samples alone."""
    wanted = frozenset(scraped_metrics(VLLM))
    found = []
    for scrape in load_recording(RECORDING).scrapes:
        if scrape.body:
            exposition = parse_exposition(scrape.body.encode(), "text/plain", "recording")
            samples = {(one.name, frozenset(one.labels.items())): one.value for one in exposition if one.name in wanted}
            values = read_signals(VLLM, exposition, "recording").values
            found.append(Scraped(scrape.wall_ns // MILLISECOND * MILLISECOND, samples, values))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Replica:
    """A Prometheus that takes every ``every``-th recorded scrape from the ``first`` on, by a clock of its own."""

    name: str = ""
    skew_ns: int = 0
    first: int = 0
    every: int = 1
    down: range = range(0)
    """Numbers of recorded scrapes at which it was not running."""
    failed: range = range(0)
    """Numbers of recorded scrapes at which it could not reach the engine."""

    def scraped(self) -> list[tuple[Scraped, bool]]:
        """(scrape, whether it failed)."""
        numbers = range(self.first, len(recorded()), self.every)
        return [(recorded()[n], n in self.failed) for n in numbers if n not in self.down]


def stored(
    replicas: Sequence[Replica],
    until_ns: int,
    *,
    lookback_seconds: int = 60,
    instance: str = "e",
    labels: Mapping[str, str] | None = None,
) -> list[Series]:
    """What is stored at a moment of true time, as far as a question reaches back."""
    points: dict[tuple[str, frozenset[tuple[str, str]]], dict[int, float]] = {}
    for replica in replicas:
        own = {"instance": instance, "job": "llm-engines", **(labels or {})}
        if replica.name:
            own["replica"] = replica.name
        for scrape, failed in replica.scraped():
            if until_ns - lookback_seconds * SECOND < scrape.true_ns <= until_ns:
                at_ns = scrape.true_ns + replica.skew_ns
                up = ("up", frozenset(own.items()))
                points.setdefault(up, {})[at_ns] = 0.0 if failed else 1.0
                for (name, of_engine), value in () if failed else scrape.samples.items():
                    points.setdefault((name, of_engine | frozenset(own.items())), {})[at_ns] = value
    return [Series({"__name__": name, **dict(key)}, values) for (name, key), values in points.items()]
