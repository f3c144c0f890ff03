"""The engine catalogue: data that says which of an engine's metrics tells which signal, and the reading of it.

One YAML file per engine in ``catalogue/``. Adding an engine is one file and a captured exposition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from farthing.collectors.engines.exposition import Exposition, Sample
from farthing.domain.clock import SECOND, nanoseconds
from farthing.domain.conventions import SIGNAL_STARTUP
from farthing.domain.errors import ConfigError, ExpositionError

__all__ = [
    "BootSources",
    "Catalogue",
    "ModelSource",
    "Reading",
    "Signal",
    "Source",
    "load_catalogue",
    "parse_catalogue",
    "read_signals",
]

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """A sample name, with the labels it must have, that tells a signal; the first one present is read."""

    metric: MetricName
    where: dict[str, str] = {}
    since: Version
    """First engine version with it."""
    degraded: str = ""
    """What is worse when this source is used; empty for the right one."""


class Signal(_Strict):
    """One quantity, whatever an engine calls it."""

    kind: Literal["counter", "gauge"]
    unit: Literal["requests", "tokens", "items", "steps", "events", "ratio", "seconds"]
    """Seconds of a counter are read as integer nanoseconds."""
    aggregate: Literal["sum", "max"]
    """How its series (data-parallel ranks, reasons) become one value."""
    required: bool = False
    """Without it the endpoint is not this kind of engine."""
    without: str = ""
    """What is unknown when no source is present."""
    sources: Annotated[tuple[Source, ...], Field(alias="from", min_length=1)]

    @model_validator(mode="after")
    def _is_sound(self) -> Signal:
        if self.kind == "counter" and self.aggregate != "sum":
            raise ValueError("a counter's series add up; aggregate must be sum")
        if not self.required and not self.without:
            raise ValueError("say in 'without' what is unknown when it is absent, or make it required")
        return self


class BootSources(_Strict):
    """What tells one boot of the engine from the next; seconds since the epoch by the engine's own clock."""

    start_time: MetricName
    created: MetricName


class ModelSource(_Strict):
    """Where the served model's name is."""

    metric: MetricName
    label: Annotated[str, Field(min_length=1)]


class Catalogue(_Strict):
    """One engine's metrics by signal."""

    engine: Annotated[str, Field(min_length=1)]
    title: Annotated[str, Field(min_length=1)]
    versions: Annotated[str, Field(min_length=1)]
    version_path: Annotated[str, StringConstraints(pattern=r"^/")]
    """Where the engine tells its version, as JSON with the key ``version``."""
    boot: BootSources
    model: ModelSource
    signals: Annotated[dict[str, Signal], Field(min_length=1)]

    def metric_names(self) -> list[str]:
        """Every sample name that the catalogue reads, sorted."""
        named = {source.metric for signal in self.signals.values() for source in signal.sources}
        return sorted(named | {self.boot.start_time, self.boot.created, self.model.metric})


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
    """The shipped catalogue of an engine kind; ConfigError when there is none, or it is malformed."""
    folder = files("farthing.collectors.engines").joinpath("catalogue")
    name = f"{engine}.yaml"
    known = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in known:
        shipped = ", ".join(entry.removesuffix(".yaml") for entry in known)
        raise ConfigError(f"engine kind {engine!r} has no catalogue; known kinds: {shipped}")
    return parse_catalogue(folder.joinpath(name).read_text(encoding="utf-8"), name)


def parse_catalogue(text: str, name: str) -> Catalogue:
    """A catalogue from YAML text; ConfigError names ``name``, the key and the problem in one line."""
    try:
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: the top level must be a mapping, not {type(data).__name__}")
    try:
        return Catalogue.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        message = "unknown key" if first["type"] == "extra_forbidden" else str(first["msg"])
        raise ConfigError(f"{name}: {key}: {message.removeprefix('Value error, ')}") from error


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
    for name, signal in catalogue.signals.items():
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
    start_ns = _earliest(exposition, catalogue.boot.start_time)
    created_ns = _earliest(exposition, catalogue.boot.created)
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
