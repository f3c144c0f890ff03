"""Parts of PromQL: selectors, a model's label under our name, bounds of buckets in one unit and one spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

from farthing.domain import conventions as names

__all__ = ["TARGETS", "TARGET_DEBIAN", "Target", "for_target", "in_seconds", "named", "selector", "with_decimals"]

Target: TypeAlias = Literal["debian", "current"]
"""For which Prometheus: Debian 12's (2.42), or 3.x, which spells whole bounds of buckets ``1.0`` when it scrapes."""
TARGETS: Final[tuple[Target, ...]] = get_args(Target)
TARGET_DEBIAN: Final[Target] = "debian"

_WHOLE_BOUND: Final = re.compile(rf'\b{names.LABEL_LE}(=|!=)"([0-9]+)"')


def selector(
    metric: str,
    job: str,
    where: Mapping[str, str] | None = None,
    matching: Mapping[str, str] | None = None,
    excluding: Mapping[str, str] | None = None,
) -> str:
    """The series of one job, or without one of any, whose labels are, match and do not match the given values."""
    matchers = [f'{names.LABEL_JOB}="{job}"'] if job else []
    for sign, labels in (("=", where), ("=~", matching), ("!~", excluding)):
        matchers += [f'{label}{sign}"{value}"' for label, value in (labels or {}).items()]
    return f"{metric}{{{', '.join(matchers)}}}" if matchers else metric


def named(expr: str, label: str) -> str:
    """``expr`` with the engine's model label under our name; an aggregation then drops the engine's.

    Without a label of the engine's the target's own ``model`` counts, and without that the model is unknown.
    """
    if label == names.LABEL_MODEL:
        return expr
    if not label:
        return f'label_replace({expr}, "{names.LABEL_MODEL}", "{names.UNKNOWN}", "{names.LABEL_MODEL}", "")'
    return f'label_replace({expr}, "{names.LABEL_MODEL}", "$1", "{label}", "(.+)")'


def in_seconds(expr: str) -> str:
    """Buckets whose bounds are whole milliseconds, with bounds in seconds: 100 is 0.1, and 2000 is 2.0."""
    padded = _bounds(expr, "000$1", "([0-9]+)(?:[.]0)?")
    divided = _bounds(padded, "$1.$2", "0*([0-9]+)([0-9]{3})")
    return _bounds(divided, "$1", "([0-9]+[.][0-9]+?)0*")


def with_decimals(expr: str, target: Target) -> str:
    """Buckets whose whole bounds end in ``.0``, as most engines write them; 3.x makes them so when it scrapes."""
    return expr if target == "current" else _bounds(expr, "$1.0", "([0-9]+)")


def for_target(expr: str, target: Target) -> str:
    """``expr`` with bounds that it compares spelt as the target keeps them: 3.x has ``1.0`` alone, not ``1``."""
    return expr if target == "debian" else _WHOLE_BOUND.sub(rf'{names.LABEL_LE}\1"\2.0"', expr)


def _bounds(expr: str, replacement: str, pattern: str) -> str:
    return f'label_replace({expr}, "{names.LABEL_LE}", "{replacement}", "{names.LABEL_LE}", "{pattern}")'
