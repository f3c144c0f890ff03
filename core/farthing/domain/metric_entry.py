"""What the reference says of one metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Metric", "MetricType"]

MetricType: TypeAlias = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One exported metric; ``name`` is the series' name as Prometheus shows it (a histogram's without its suffix)."""

    name: str
    type: MetricType
    unit: str
    """Base unit of the value; ``1`` for counts and flags."""
    labels: tuple[str, ...]
    help: str

    def __post_init__(self) -> None:
        if (self.type == "counter") != self.name.endswith("_total"):
            raise ValueError(f"{self.name}: exactly the counters end in _total, and this is a {self.type}")
