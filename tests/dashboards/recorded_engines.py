"""What a Prometheus would have scraped of the recorded engines, each as a lap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tests.dashboards.laps import CUMULATIVE, Floats, Lap, Series, lap_of, read_exposition

from farthing.domain.clock import SECOND
from farthing.replay.recording import Recording, load_recording

__all__ = ["CAPTURED", "GONE", "KINDS", "Kind", "captured_series", "engine_lap", "up_lap"]

FIXTURES = Path(__file__).parents[1] / "fixtures"
SCRAPES_SERIES = ("up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling")


@dataclass(frozen=True, eq=False)
class Kind:
    """A recording, and what its engines are called in the world."""

    name: str
    recording: str | Path
    model: str
    engines: int
    tiers: dict[str, str]
    """Workload -> tier that its clients name; others are interactive."""
    anew: bool = False
    """Each lap is a restart of the engine."""
    nameless: str = ""
    """The tenant whose clients do not name it."""
    late_records: int = 0
    """How many requests' records reach Farthing after their windows were settled."""

    @cache  # noqa: B019 - a handful of kinds, for the whole session
    def load(self) -> Recording:
        """The recording."""
        return load_recording(self.recording)

    @property
    def seconds(self) -> int:
        """How long a lap is: whole seconds that hold every scrape."""
        recording = self.load()
        return -(-(recording.end_ns - recording.start_ns) // SECOND)


KINDS = (
    Kind(
        "llama",
        "h100-llama8b-vllm0.26",
        "llama-8b",
        9,
        {"prefill": "documents", "shared": "documents", "c128": "batch"},
    ),
    Kind(
        "vision",
        "h100-qwen2vl7b-vllm0.26",
        "qwen2-vl-7b",
        7,
        {"encoder": "documents", "repeat": "batch", "abort": "batch"},
    ),
    Kind("probed", "h100-llama8b-devices-vllm0.26", "llama-8b", 2, {}, anew=True, late_records=3),
    Kind(
        "pressed", FIXTURES / "recordings" / "h100-llama8b-pressure", "llama-8b", 2, {}, anew=True, nameless="umbrella"
    ),
)
"""Of the engines that were recorded, how many there are in the world: 20."""


CAPTURED = {
    "captured-lora": FIXTURES / "vllm-0.32-cpu" / "metrics-specdecode-lora.txt",
    "captured-moving": FIXTURES / "vllm-written" / "metrics-moved-kv.txt",
    "captured-sglang": FIXTURES / "sglang-0.5.23" / "metrics.txt",
}
"""Instance -> one exposition of an engine that no recorded machine had: with LoRA adapters, with a KV connector, and of
another kind.
"""
GONE = "gone-1"
"""An engine that Prometheus is told to scrape, and that never answers."""
CAPTURED_PER_SECOND = 0.001
"""How fast its counters go on, by what they had come to."""


def captured_series(file: Path, times: Floats, wanted: frozenset[str] | None) -> dict[Series, Floats]:
    """The series of a captured exposition: gauges as they were, counters going on evenly."""
    grown = 1 + CAPTURED_PER_SECOND * (times - times[0])
    found: dict[Series, Floats] = {("up", ()): np.ones_like(times)}
    for series, value in read_exposition(file.read_text(), wanted).items():
        cumulative = series[0].endswith(CUMULATIVE)
        found[series] = np.round(value * grown) if cumulative else np.full_like(times, value)
    return found


def engine_lap(kind: Kind, wanted: frozenset[str] | None) -> Lap:
    """The engine's series and those that Prometheus adds to a scrape, of the ``wanted`` names."""
    recording = kind.load()
    pictures = [
        ((scrape.wall_ns - recording.start_ns) / SECOND, _picture(scrape.body, kind, wanted))
        for scrape in recording.scrapes
    ]
    return lap_of(kind.seconds, pictures, anew=kind.anew)


def up_lap(kind: Kind) -> Lap:
    """What Prometheus says of the scrapes themselves; they are there when the engine is not."""
    recording = kind.load()
    pictures: list[tuple[float, dict[Series, float]]] = []
    for scrape in recording.scrapes:
        count = sum(1 for line in scrape.body.splitlines() if line and not line.startswith("#"))
        said = (float(bool(scrape.body)), 0.01, float(count), float(count))
        pictures.append(
            (
                (scrape.wall_ns - recording.start_ns) / SECOND,
                {(name, ()): value for name, value in zip(SCRAPES_SERIES, said, strict=True)},
            )
        )
    return lap_of(kind.seconds, pictures)


def _picture(body: str, kind: Kind, wanted: frozenset[str] | None) -> dict[Series, float]:
    return {
        (name, tuple((label, kind.model if label == "model_name" else value) for label, value in labels)): value
        for (name, labels), value in read_exposition(body, wanted).items()
    }
