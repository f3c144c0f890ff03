"""Where a key stands in a YAML file that people write, and how its moments are read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import yaml

__all__ = ["line_of", "utc_moment"]

_DATES = "enter a date (2026-11-01) or a UTC time (2026-11-01T13:00:00Z)"


def line_of(node: Any, location: tuple[Any, ...]) -> int:
    """1-based line of the deepest existing node on the way from a composed document to ``location``."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if str(part) not in pairs:
                break
            key, node = pairs[str(part)]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)


def utc_moment(value: Any) -> Any:
    """A date as its midnight UTC, a datetime without an offset as UTC (as YAML 1.1 defines its timestamps).

    Raises ValueError, which says what to enter, for anything else.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(_DATES) from None
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError(_DATES)
