"""Series of a whole fleet, told apart by engine and by the replica that scraped them; and what to ask for them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from farthing.collectors.fleet.api import Series

__all__ = ["NAME", "UP", "Target", "by_target", "census", "engine_name", "packed", "selector"]

UP: Final = "up"
"""What every Prometheus writes of a target itself: 0 where a scrape failed."""
NAME: Final = "__name__"
INSTANCE: Final = "instance"
_LONGEST: Final = 64
"""Characters of an engine's name, as in ``engines[].name``."""
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._:-]")
_BRACKETS: Final = re.compile(r"\[(.+)\]:(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """An engine as its series name it; ``cluster`` is empty where no label tells clusters apart."""

    cluster: str
    instance: str

    @property
    def name(self) -> str:
        """What the engine is called in the books."""
        return engine_name(self.cluster, self.instance)


def engine_name(cluster: str, instance: str) -> str:
    """CLUSTER:INSTANCE, or INSTANCE alone; what no engine may be called is replaced, and a hash keeps names apart."""
    bare = _BRACKETS.sub(r"\1:\2", instance)
    asked = f"{cluster}:{bare}" if cluster else bare
    name = _NOT_IN_NAMES.sub("-", asked)
    if name == asked and len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def by_target(
    series: Iterable[Series], *, cluster_label: str = "", replica_label: str = ""
) -> dict[Target, dict[str, list[Series]]]:
    """Series by engine, and of each by replica; the replica is empty where none is named.

    Series without an instance are of no engine, and left out.
    """
    found: dict[Target, dict[str, list[Series]]] = {}
    targets: dict[tuple[str, str], Target] = {}
    for one in series:
        labels = one.labels
        instance = labels.get(INSTANCE, "")
        if not instance:
            continue
        key = labels.get(cluster_label, ""), instance
        target = targets.get(key)
        if target is None:
            target = targets[key] = Target(*key)
        found.setdefault(target, {}).setdefault(labels.get(replica_label, ""), []).append(one)
    return found


def selector(metrics: Sequence[str], match: str, lookback_seconds: int) -> str:
    """The range selector of some metrics, whose instant query is answered with the samples as they were scraped."""
    return f'{{{NAME}=~"{"|".join(metrics)}",{match}}}[{lookback_seconds}s]'


def census(metrics: Sequence[str], match: str) -> str:
    """A query for how many series each of some metrics has now."""
    return f'count by ({NAME}) ({{{NAME}=~"{"|".join(metrics)}",{match}}})'


def packed(metrics: Sequence[str], series: Mapping[str, int], most: int) -> list[tuple[str, ...]]:
    """The metrics in as few groups as hold at most so many series each, in their order.

    A metric that alone has more is a group of its own.
    """
    groups: list[tuple[str, ...]] = []
    filled = 0
    for metric in metrics:
        count = series.get(metric, 0)
        if groups and filled + count <= most:
            groups[-1] = (*groups[-1], metric)
            filled += count
        else:
            groups.append((metric,))
            filled = count
    return groups
