"""How many requests shared an engine's steps: whoever ran in company bears a part of what a step takes by itself."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

__all__ = ["Company"]

MOST = 32_768
"""Steps that are remembered at least, some minutes of a busy engine; twice as many at most, in 1 MB."""


class Company:
    """The steps of one engine index; for one thread at a time."""

    def __init__(self) -> None:
        self._at_ns = array("q")
        self._parts = array("d")
        """Of one request that took part in every step up to each: the sum of 1 / requests."""

    def add(self, at_ns: int, requests: int) -> None:
        """A step of so many requests has ended; one of none is nobody's."""
        if not requests:
            return
        self._at_ns.append(at_ns)
        self._parts.append((self._parts[-1] if self._parts else 0.0) + 1 / requests)
        if len(self._at_ns) >= 2 * MOST:
            del self._at_ns[:MOST], self._parts[:MOST]

    def parts(self, first_ns: int, last_ns: int) -> float | None:
        """What a request had of the steps from its first token to its last, both included; None if it is not known."""
        end = bisect_right(self._at_ns, last_ns)
        begin = min(bisect_left(self._at_ns, first_ns), end - 1)
        if begin < 1:  # what went before the first that is remembered is not known
            return None
        return self._parts[end - 1] - self._parts[begin - 1]

    def parts_of(self, entries: Sequence[Mapping[str, int]]) -> float | None:
        """What a request had of the steps, by the entries of its sequences; None if it is not known of each."""
        parts = [self.parts(each.get("first_ns", each["last_ns"]), each["last_ns"]) for each in entries]
        known = [part for part in parts if part is not None]
        return sum(known) if entries and len(known) == len(parts) else None
