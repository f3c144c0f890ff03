"""Recording rules of what is no quantity: an engine's state, how its KV cache is kept, which adapters it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.alerts.rules import RecordingRule
from farthing.alerts.selectors import selector
from farthing.domain import conventions as names
from farthing.vocabulary.catalogue import Catalogue, InfoSource

__all__ = ["ENGINE_FACTS", "engine_facts"]

ENGINE_FACTS: Final = (names.REC_STATE, names.REC_KV_INFO, names.REC_ADAPTERS)
"""What they record, at most one series by engine each; of adapters a new one whenever they change."""


def engine_facts(catalogues: Sequence[Catalogue]) -> tuple[RecordingRule, ...]:
    """Rules that read records of the vocabulary, and therefore come after them."""
    caches = [one.kv_cache for one in catalogues if one.kv_cache]
    adapters = [one.adapters for one in catalogues if one.adapters]
    return (
        RecordingRule(names.REC_STATE, _state()),
        RecordingRule(
            names.REC_KV_INFO, "\nor\n".join((*(_group(info, _select(info)) for info in caches), _counted()))
        ),
        RecordingRule(names.REC_ADAPTERS, "\nor\n".join(_latest(info) for info in adapters)),
    )


def _state() -> str:
    """The state of every target: one that does not answer is down, whether it is gone or still loads its model."""
    by = f"max by ({names.LABEL_INSTANCE})"
    restarted = f"({by} ({names.REC_RESETS}) > 0) * 0 + {names.STATE_RESTARTED}"
    asleep = f"({by} ({names.REC_AWAKE}) == 0) + {names.STATE_ASLEEP}"
    up = f'{by} (up{{{names.LABEL_JOB}="{names.JOB_ENGINES}"}}) * {names.STATE_UP}'
    return f"{by} (\n{restarted}\nor on ({names.LABEL_INSTANCE}) {asleep}\nor on ({names.LABEL_INSTANCE}) {up}\n)"


def _counted() -> str:
    """The size of a KV cache that is told as a number, as text: so a table has those that are told either way."""
    by = f"by ({names.LABEL_INSTANCE})"
    return f'count_values {by} ("{names.LABEL_KV_TOKENS}", max {by} ({names.REC_KV_CAPACITY}))'


def _latest(info: InfoSource) -> str:
    """Of an instance's series the one that was set last: the others are sets of adapters that it had before."""
    series = _select(info)
    return _group(info, f"{series} == on ({names.LABEL_INSTANCE}) group_left () {_newest(series)}", "max")


def _newest(series: str) -> str:
    return f"max by ({names.LABEL_INSTANCE}) ({series})"


def _select(info: InfoSource) -> str:
    return selector(info.metric, names.JOB_ENGINES)


def _group(info: InfoSource, series: str, aggregate: str = "group") -> str:
    """One series per instance and set of facts, ranks and processes that tell the same together."""
    named = series
    for ours, theirs in info.labels.items():
        if ours != theirs:
            named = f'label_replace({named}, "{ours}", "$1", "{theirs}", "(.*)")'
    return f"{aggregate} by ({', '.join((names.LABEL_INSTANCE, *info.labels))}) ({named})"
