"""Reading an exposition by the engine's catalogue: sample names become the signals that costing reads.

Catalogues are data of the core (``farthing.vocabulary``). Of all signals, those marked ``scraped`` are read here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from farthing.collectors.engines.exposition import Exposition, Sample
from farthing.domain.clock import SECOND, nanoseconds
from farthing.domain.conventions import SIGNAL_STARTUP
from farthing.domain.errors import ConfigError, ExpositionError
from farthing.vocabulary import loading
from farthing.vocabulary.catalogue import Catalogue, ModelSource, Signal, Source

__all__ = ["Reading", "load_catalogue", "read_signals", "scraped_metrics", "unknown_metrics"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One exposition in the catalogue's vocabulary."""

    values: dict[str, int]
    """Counters by signal: totals since the boot; seconds as nanoseconds."""
    gauges: dict[str, float]
    model: str
    """Empty when the exposition does not name one."""
    start_ns: int | None
    """Start of the engine's process (else creation of its metrics) by the engine's clock: identity, not time."""
    used: dict[str, str]
    """signal -> the sample name it was read from."""
    degraded: tuple[str, ...]
    """What is unknown or worse, a sentence each."""


def load_catalogue(engine: str = "vllm") -> Catalogue:
    """The shipped catalogue of an engine kind that can be scraped; ConfigError when there is none."""
    scraped = [kind for kind in loading.ENGINES if loading.load_catalogue(kind).scraped]
    if engine not in scraped:
        raise ConfigError(f"engine kind {engine!r} has no catalogue; known kinds: {', '.join(scraped)}")
    return loading.load_catalogue(engine)


def scraped_metrics(catalogue: Catalogue) -> tuple[str, ...]:
    """The names of every sample that ``read_signals`` looks for, sorted."""
    names = {source.metric for signal in catalogue.scraped.values() for source in signal.sources}
    names |= {catalogue.model.metric}
    return tuple(sorted(names | ({catalogue.boot.start_time, catalogue.boot.created} if catalogue.boot else set())))


def unknown_metrics(catalogue: Catalogue, exposition: Exposition) -> list[str]:
    """The metrics that no catalogue of this engine's family reads or ignores, sorted, without samples' suffixes."""
    return loading.unknown_to_family(catalogue, {sample.name for sample in exposition})


def read_signals(catalogue: Catalogue, exposition: Exposition, url: str) -> Reading:
    """The exposition by signal; a signal without any source is absent from the reading, never 0.

    A counter that is negative or not finite counts as absent. Raises ExpositionError when a required signal
    is absent (another kind of engine answered).
    """
    values: dict[str, int] = {}
    gauges: dict[str, float] = {}
    used: dict[str, str] = {}
    worse: list[str] = []
    missing: list[str] = []
    for name, signal in catalogue.scraped.items():
        source, samples = _first_present(signal, exposition)
        problem = _problem(signal, samples)
        if source is None or problem:
            metric = (source or signal.sources[0]).metric
            (missing if signal.required else worse).append(f"{metric} is {problem}: {signal.without or name}")
            continue
        used[name] = source.metric
        if source.degraded:
            worse.append(f"{signal.sources[0].metric} is missing: {source.degraded}")
        numbers = [sample.value for sample in samples]
        if signal.kind == "gauge":
            gauges[name] = max(numbers) if signal.aggregate == "max" else sum(numbers)
        elif signal.unit == "seconds":
            values[name] = nanoseconds(sum(numbers))
        else:
            values[name] = sum(round(number) for number in numbers)
    if missing:
        raise ExpositionError(
            f"{url} is a Prometheus exposition but not {catalogue.title}'s ({'; '.join(missing)}); "
            f"check engines[].kind and url: version {catalogue.versions} is needed"
        )
    start_ns = _earliest(exposition, catalogue.boot.start_time) if catalogue.boot else None
    created_ns = _earliest(exposition, catalogue.boot.created) if catalogue.boot else None
    if start_ns is not None and created_ns is not None and created_ns >= start_ns:
        # by one clock: from the process's start until its metrics exist, which is when the model is loaded
        gauges[SIGNAL_STARTUP] = (created_ns - start_ns) / SECOND
    return Reading(
        values=values,
        gauges=gauges,
        model=_model_of(catalogue.model, exposition),
        start_ns=created_ns if start_ns is None else start_ns,
        used=used,
        degraded=tuple(dict.fromkeys(worse)),
    )


def _first_present(signal: Signal, exposition: Exposition) -> tuple[Source | None, list[Sample]]:
    for source in signal.sources:
        samples = exposition.find(source.metric, source.where)
        if samples:
            return source, samples
    return None, []


def _problem(signal: Signal, samples: Sequence[Sample]) -> str:
    """Why the samples tell nothing; empty when they do.

    A sum of times goes negative where an engine observes "first token minus scheduled" of a request that
    never had a first token.
    """
    if not samples:
        return "missing"
    if not all(math.isfinite(sample.value) for sample in samples):
        return "not finite"
    if signal.kind == "counter" and any(sample.value < 0 for sample in samples):
        return "negative"
    return ""


def _earliest(exposition: Exposition, metric: str) -> int | None:
    moments = [sample.value for sample in exposition.find(metric) if math.isfinite(sample.value) and sample.value > 0]
    return nanoseconds(min(moments)) if moments else None


def _model_of(source: ModelSource, exposition: Exposition) -> str:
    # ranks of one instance serve one model; a server that shows several is named by all of them
    return "+".join(sorted({sample.labels.get(source.label, "") for sample in exposition.find(source.metric)} - {""}))
