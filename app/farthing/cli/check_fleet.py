"""What ``farthing check`` says of the APIs that fleets are read from."""

from __future__ import annotations

from collections.abc import Iterator

from farthing.collectors.engines.catalogue import load_catalogue
from farthing.collectors.fleet.survey import FleetSurvey, survey_fleet
from farthing.settings import FleetSettings

__all__ = ["fleet_findings"]

_SHOWN = 5
"""Engines that a line names."""


def fleet_findings(entry: FleetSettings) -> Iterator[tuple[str, str]]:
    """(level, detail) of all that one API has; raises FarthingError where it has nothing to say."""
    catalogue = load_catalogue()
    found = survey_fleet(entry, catalogue)
    if not found.engines and not found.failing:
        yield (
            "degraded",
            f"{entry.url} has no counters of {catalogue.title} of the last {entry.lookback} s with {entry.match}; "
            "check fleet[].match, and that it scrapes engines",
        )
        return
    yield "ok", _summary(entry, found)
    if found.failing:
        names = _listed(tuple(found.failing))
        yield "degraded", f"not scraped now: {names}; the first: {next(iter(found.failing.values()))}"
    if found.without_gpu:
        yield (
            "degraded",
            f"engines without a GPU to price: {_listed(found.without_gpu)}; enter fleet[].gpus, or give their series "
            f"the label {entry.gpu_label}",
        )
    yield from (("degraded", sentence) for sentence in found.degraded)


def _summary(entry: FleetSettings, found: FleetSurvey) -> str:
    models = ", ".join(found.models[:_SHOWN]) + (" …" if len(found.models) > _SHOWN else "")
    return f"{entry.url}: engines: {len(found.engines)}, of models: {models or 'none'}; cost is estimated per model"


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
