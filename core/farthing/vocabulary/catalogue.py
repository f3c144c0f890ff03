"""The model of an engine's catalogue: which of its metrics tells which signal, since when, and how sure that is.

One YAML file per engine in ``engines/``; scraping, recording rules and documentation read the same file.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

__all__ = [
    "BootSources",
    "Catalogue",
    "Evidence",
    "Ignored",
    "InfoSource",
    "ModelSource",
    "Operand",
    "Signal",
    "Source",
    "family_of",
]

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)*$")]
Text = Annotated[str, Field(min_length=1)]
Evidence = Literal["captured", "source-only"]
"""``captured``: seen in an exposition of the engine; ``source-only``: read in its published source, never seen."""

_SUFFIX: Final = re.compile(r"_(total|bucket|sum|count|created)$")


def family_of(sample: str) -> str:
    """A sample's name without the suffix that a client library gives it: ``x_total``, ``x_bucket`` are of ``x``."""
    return _SUFFIX.sub("", sample)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Operand(_Strict):
    """A second metric that a source needs: what the first is added to, multiplied with or divided by."""

    operation: Literal["plus", "times", "over"]
    metric: MetricName
    where: dict[str, str] = {}


class Source(_Strict):
    """A sample name (of a histogram: without its suffix), with the labels it must have, that tells a signal.

    The first one present is read.
    """

    metric: MetricName
    where: dict[str, str] = {}
    """Label -> the value that it must have."""
    matching: dict[str, str] = {}
    """Label -> a regular expression that its whole value must match; an absent label is empty text."""
    excluding: dict[str, str] = {}
    """Label -> a regular expression that its whole value must not match."""
    since: Version
    """First engine version with it."""
    until: Version | None = None
    """Last engine version with it; empty while it is there."""
    degraded: str = ""
    """What is worse when this source is used; empty for the right one."""
    proxy: str = ""
    """What it means instead, where it is not quite the signal."""
    distinct: tuple[str, ...] | None = None
    """Set where ranks repeat one another's numbers: the labels over which to add up; over others the largest counts."""
    silent_at_zero: bool = False
    """A counter that is there, at 0, while a switch of the engine is off: until it has risen it tells nothing."""
    split: str = ""
    """The label by which a split signal's parts are told apart, where it is not called as the signal has it."""
    milliseconds: bool = False
    """A histogram whose bounds are whole milliseconds; they are recorded as seconds."""
    combined: Operand | None = None
    evidence: Evidence | None = None
    """Where it differs from the catalogue's."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that the source names."""
        return (self.metric, self.combined.metric) if self.combined else (self.metric,)


class Signal(_Strict):
    """One quantity, whatever an engine calls it."""

    kind: Literal["counter", "gauge", "histogram"]
    unit: Literal["requests", "tokens", "items", "steps", "events", "ratio", "seconds", "flop", "bytes"]
    """Seconds of a counter are read as integer nanoseconds."""
    aggregate: Literal["sum", "max", "avg"]
    """How its series (data-parallel ranks, reasons) become one value; ``avg`` where each is of one GPU."""
    split: str = ""
    """Label, besides those of the instance and the model, by which its parts stay apart: the reason of a wait."""
    scraped: bool = False
    """Farthing's own scraping reads it for costing, besides whatever rules record."""
    required: bool = False
    """Without it the endpoint is not this kind of engine."""
    without: str = ""
    """What is unknown when no source is present."""
    sources: Annotated[tuple[Source, ...], Field(alias="from", min_length=1)]

    @model_validator(mode="after")
    def _is_sound(self) -> Signal:
        if self.kind != "gauge" and self.aggregate not in {"sum", "avg"}:
            raise ValueError("a counter's series add up; aggregate must be sum")
        if self.scraped and self.kind == "histogram":
            raise ValueError("scraping reads counters and gauges; name a histogram's _sum or _count")
        if self.scraped and not self.required and not self.without:
            raise ValueError("say in 'without' what is unknown when it is absent, or make it required")
        return self


class BootSources(_Strict):
    """What tells one boot of the engine from the next; seconds since the epoch by the engine's own clock."""

    start_time: MetricName
    created: MetricName


class ModelSource(_Strict):
    """Where the served model's name is."""

    metric: MetricName
    label: str
    """Empty where the engine names no model: then it is the target's own ``model`` label, else unknown."""


class InfoSource(_Strict):
    """A metric that tells facts as labels."""

    metric: MetricName
    labels: Annotated[dict[str, str], Field(min_length=1)]
    """Label of the record -> label of the metric."""


class Ignored(_Strict):
    """Metrics that are known and not used, by name or pattern (``*``), without a sample's suffix."""

    names: Annotated[tuple[Text, ...], Field(min_length=1)]
    why: Text


class Catalogue(_Strict):
    """One engine's metrics by signal."""

    engine: Text
    title: Text
    versions: Text
    family: str = ""
    """Engines of one family share names; an instance is read by the first name that it has. Default: itself."""
    job: Literal["engines", "routers"] = "engines"
    """A router sees the same requests as its engines: it is recorded only for models of which no engine is scraped."""
    evidence: Evidence
    made_by: str = ""
    """How the exposition was made, where no running engine gave it."""
    version_path: Annotated[str, StringConstraints(pattern=r"^/")] | None = None
    """Where the engine tells its version, as JSON with the key ``version``."""
    boot: BootSources | None = None
    model: ModelSource
    kv_cache: InfoSource | None = None
    """How large the KV cache of a rank is, and how it is kept."""
    adapters: InfoSource | None = None
    """Which LoRA adapters run and wait: a series for each set of them there was, valued with the time of its latest."""
    whole_bounds: bool = False
    """Whole bucket bounds are written without ``.0``."""
    signals: Annotated[dict[str, Signal], Field(min_length=1)]
    lacking: dict[str, Text] = {}
    """Signal -> why this engine has no series of it."""
    ignored: tuple[Ignored, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Catalogue:
        both = sorted(set(self.signals) & set(self.lacking))
        if both:
            raise ValueError(f"{both[0]} is both a signal and lacking")
        if self.scraped and (self.boot is None or self.version_path is None):
            raise ValueError("an engine that is scraped needs boot and version_path")
        return self

    @property
    def scraped(self) -> dict[str, Signal]:
        """The signals that Farthing's own scraping reads."""
        return {name: signal for name, signal in self.signals.items() if signal.scraped}

    def metric_names(self) -> list[str]:
        """Every metric that the catalogue reads, sorted; histograms without suffix."""
        named = {
            metric for signal in self.signals.values() for source in signal.sources for metric in source.metrics
        } | {self.model.metric}
        named |= {info.metric for info in (self.kv_cache, self.adapters) if info}
        return sorted(named | ({self.boot.start_time, self.boot.created} if self.boot else set()))

    def evidence_of(self, source: Source) -> Evidence:
        """How sure the source's name is."""
        return source.evidence or self.evidence

    def ignores(self, sample: str) -> str:
        """Why the sample's metric is not used; empty when the catalogue does not say."""
        family = family_of(sample)
        for group in self.ignored:
            if any(fnmatchcase(family, pattern) or fnmatchcase(sample, pattern) for pattern in group.names):
                return group.why
        return ""

    def unknown(self, samples: set[str]) -> list[str]:
        """The metrics among the sample names that are neither read nor ignored, sorted, each once."""
        read = {family_of(name) for name in self.metric_names()}
        return sorted({family_of(s) for s in samples if family_of(s) not in read and not self.ignores(s)})
