"""Of which series a question is asked, and how its answer is grouped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["FLEET", "Scope", "any_of", "by", "equals"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Some of the series of a metric: those that ``matchers`` select, less what ``less`` takes away."""

    matchers: tuple[str, ...] = ()
    """Label matchers, such as ``model=~"$model"``."""
    less: str = ""
    """A set operation behind every instant vector, such as ``unless on (engine) x{...}``."""

    def series(self, metric: str, *more: str) -> str:
        """A selector of ``metric``; ``more`` are matchers of the question's own. Without any, the bare name."""
        matchers = (*more, *self.matchers)
        return f"{metric}{{{', '.join(matchers)}}}" if matchers else metric

    def now(self, metric: str, *more: str) -> str:
        """The instant vector of ``metric``."""
        return self._taken(self.series(metric, *more))

    def over(self, function: str, over: str, metric: str, *more: str, ago: str = "") -> str:
        """``function`` (``rate``, ``increase``, ``avg_over_time`` ...) of the last ``over`` of ``metric``, or of what
        those were some time ``ago``.
        """
        back = f" offset {ago}" if ago else ""
        return self._taken(f"{function}({self.series(metric, *more)}[{over}]{back})")

    def _taken(self, vector: str) -> str:
        return f"{vector} {self.less}" if self.less else vector


FLEET: Final = Scope()
"""Everything."""


def equals(label: str, value: str) -> str:
    """The matcher of series whose label is this value."""
    return f'{label}="{value}"'


def any_of(label: str, values: Sequence[str]) -> str:
    """The matcher of series whose label is one of some values."""
    return equals(label, values[0]) if len(values) == 1 else f'{label}=~"{"|".join(values)}"'


def by(labels: Sequence[str]) -> str:
    """``by`` clause of an aggregation, empty without labels."""
    return f" by ({', '.join(labels)}) " if labels else ""
