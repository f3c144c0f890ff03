"""One device's energy out of the samples of everybody who reads it: at each moment one reader counts.

Two programs may read a device at once, by clocks of their own, and a restart begins a new series beside the old one.
So samples are kept by reader, and between two neighbouring samples of anybody one reader tells what was used: by the
best method, then whoever began first. That depends on the samples alone, not on the order in which they came.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from operator import attrgetter
from typing import Final, NamedTuple

from farthing.domain.clock import SECOND
from farthing.domain.gpu import COUNTER, ENERGY_METHODS, NO_ENERGY

__all__ = ["GAP_NS", "WHOLE", "ReadDevice"]

MOST_MILLIWATTS: Final = 10_000_000
"""No device draws more: a counter that rose faster between two samples tells nothing of the time between them."""
LAG_NS: Final = 60 * SECOND
"""How much older than its sample a counter's value may be: exporters ask the driver every half a minute or so."""
LAG_MJ: Final = 120_000_000
"""By how much two readers of one counter may differ: LAG_NS of a device that draws 2 kW."""
GAP_NS: Final = 60 * SECOND
"""A reader that told nothing for longer was away: another that did counts, and a sample beyond stands alone."""

WHOLE: Final = Fraction(1)


@dataclass(slots=True, eq=False)
class _Series:
    """Samples of one run of one reader in the order of time, whatever order they came in."""

    run: str
    method: str
    at: list[int] = field(default_factory=list)
    counter: list[int] = field(default_factory=list)
    total: list[int] = field(default_factory=list)
    """Millijoules since the first sample; a counter that fell goes on from where it was."""
    level: list[int] = field(default_factory=list)
    """Up to where the counter is in ``total``: its value, unless an older one was shown in between."""

    @property
    def preference(self) -> tuple[int, int, str]:
        """The least counts: by the best method, then the run that began first, as its name tells."""
        return ENERGY_METHODS.index(self.method), len(self.run), self.run

    def add(self, at: int, counter: int) -> int:
        """Take a sample, and return from when on it changes anything; one of a moment that is known does not."""
        place = bisect_left(self.at, at)
        if place == len(self.at) or self.at[place] != at:
            self.at.insert(place, at)
            self.counter.insert(place, counter)
        return self.at[max(0, place - 1)]

    def count(self) -> None:
        """Add up what the samples tell."""
        if len(self.total) == len(self.at):
            return
        total, level, before = 0, self.counter[0], self.at[0]
        self.total, self.level = [total], [level]
        for at, counter in zip(self.at[1:], self.counter[1:], strict=True):
            used, level = self._used(level, counter, at - before)
            total, before = total + used, at
            self.total.append(total)
            self.level.append(level)

    def _used(self, level: int, counter: int, elapsed_ns: int) -> tuple[int, int]:
        if self.method == COUNTER:
            return counted(level, counter, elapsed_ns)
        return _believed(max(0, counter - level), elapsed_ns + LAG_NS), counter

    def segment(self, start: int, end: int) -> int | None:
        """Nanoseconds between the two neighbouring samples that hold [start, end); None where none do."""
        after = bisect_right(self.at, start)
        if after == 0 or after == len(self.at) or self.at[after] < end:
            return None
        return self.at[after] - self.at[after - 1]

    def at_moment(self, at: int) -> int:
        """``total`` at a moment between the first sample and the last."""
        return interpolated(self.at, self.total, at)

    def level_at(self, at: int) -> int:
        """``level`` at a moment between the first sample and the last."""
        after = bisect_left(self.at, at)
        return self.level[after] - (self.total[after] - self.at_moment(at))

    def forget(self, before_ns: int) -> None:
        """Keep the last sample up to a moment and what is later."""
        keep = max(0, bisect_right(self.at, before_ns) - 1)
        self.counter[keep] = self.level[keep]
        for column in (self.at, self.counter, self.total, self.level):
            del column[:keep]


class _State(NamedTuple):
    """How far a device is counted: by which series, up to where its counter, and when that was."""

    series: _Series | None = None
    level: int = 0
    at: int = 0
    ahead: int = 0
    """What was counted by another reader already that this one has yet to tell."""


class _Merged(NamedTuple):
    """What a device used, by moments of any sample: columns of equal length."""

    at: list[int]
    total: list[int]
    methods: list[str]
    """Up to each moment from the one before."""
    states: list[_State]


class ReadDevice:
    """A device as all of its readers tell it; ``share`` is the part of it that a boot has to itself."""

    def __init__(self, since_ns: int = 0) -> None:
        self.share = WHOLE
        self._since_ns = since_ns
        """What is expected of it is known up to here while it has no sample."""
        self._series: dict[tuple[str, str], _Series] = {}
        self._merged: _Merged | None = None
        self._changed_ns: int | None = None
        """From when on ``_merged`` is out of date."""
        self._anchor_ns: int | None = None
        """The moment whose total is ``_anchor_mj``: of the first sample that came, or up to where all is settled."""
        self._anchor_mj = 0
        self._settled = False
        self._start = _State()
        self._worst = COUNTER

    def add(self, run: str, method: str, at_ns: Sequence[int], energy_mj: Sequence[int]) -> None:
        """Take samples of a reader; nothing is taken of a time that is settled."""
        series = self._series.get((run, method)) or _Series(run, method)
        for at, counter in zip(at_ns, energy_mj, strict=True):
            if self._anchor_ns is None:
                self._anchor_ns = at
            if not self._settled or at > self._anchor_ns:
                since = series.add(at, counter)
                self._changed_ns = since if self._changed_ns is None else min(self._changed_ns, since)
        if series.at:
            self._series[run, method] = series

    @property
    def known(self) -> bool:
        """Whether it was ever sampled."""
        return self._anchor_ns is not None

    @property
    def first_ns(self) -> int:
        """Of its first sample, or of what is not settled."""
        return self._all().at[0]

    @property
    def method(self) -> str:
        """The weakest that anything of it was ever counted by."""
        told = self._all().methods[1:] if self.known else []
        found = [self._worst, *(one for one in told if one != NO_ENERGY)]
        return max(found, key=ENERGY_METHODS.index)

    def method_between(self, start_ns: int, end_ns: int) -> str:
        """The weakest that its energy in [start, end) is counted by; COUNTER where there is none."""
        at, methods = self._all().at, self._all().methods
        first, last = bisect_right(at, start_ns), bisect_left(at, end_ns)
        found = [one for one in methods[max(1, first) : last + 1] if one != NO_ENERGY]
        return max(found, key=ENERGY_METHODS.index, default=COUNTER)

    def through_ns(self, until_ns: int) -> int:
        """Up to when it is known, as far as samples hang together that begin up to a moment.

        One that is alone and later than that is of a clock which is ahead, or of a time that is still to come. Who has
        not been heard of for a minute, or was followed by another, is not waited for.
        """
        newest = self.last_ns(until_ns)
        if newest is None:
            return self._since_ns
        lasts = [newest]
        for one in self._readers():
            last = one.at[max(0, bisect_right(one.at, newest) - 1)]
            followed = any(
                last <= other.at[0] <= until_ns and len(other.at) > 1 for other in self._readers() if other is not one
            )
            if newest - GAP_NS <= last <= newest and not followed:
                lasts.append(last)
        return min(lasts)

    def last_ns(self, until_ns: int) -> int | None:
        """The last of the samples that hang together with some up to a moment; None without any."""
        at = self._all().at if self.known else []
        end = bisect_right(at, until_ns)
        while 0 < end < len(at) and at[end] - at[end - 1] <= GAP_NS:
            end += 1
        return at[end - 1] if end else None

    def value(self, at_ns: int) -> int:
        """Millijoules of the share up to a moment: flat outside the samples, never decreasing."""
        if not self.known:
            return 0
        merged = self._all()
        return interpolated(merged.at, merged.total, at_ns) * self.share.numerator // self.share.denominator

    def holds_before(self, at_ns: int) -> bool:
        """Whether there are samples that no later moment than this needs."""
        if self._settled:
            return any(
                bisect_right(one.at, at_ns) > bisect_right(one.at, self._anchor_ns or 0) for one in self._readers()
            )
        return sum(bisect_right(one.at, at_ns) for one in self._readers()) > 1

    def forget(self, before_ns: int) -> None:
        """Forget samples that no later moment needs."""
        if not self.holds_before(before_ns):
            return
        merged = self._all()
        keep = bisect_right(merged.at, before_ns) - 1
        self._worst = self.method
        self._anchor_ns, self._anchor_mj, self._settled = merged.at[keep], merged.total[keep], True
        self._start = merged.states[keep] if merged.states else self._only_state(self._anchor_ns)
        for one in self._readers():
            one.forget(self._anchor_ns)
        # of a reader that was gone before, all that is needed is how far it counted
        self._series = {key: one for key, one in self._series.items() if one.at[-1] >= self._anchor_ns}
        self._merged = None

    # ---- inside ------------------------------------------------------------------------------------

    def _readers(self) -> Collection[_Series]:
        return self._series.values()

    def _all(self) -> _Merged:
        if self._merged is None or self._changed_ns is not None:
            self._merged = self._merge()
            self._changed_ns = None
        return self._merged

    def _only_state(self, at: int) -> _State:
        (only,) = self._readers()
        return _State(only, only.level_at(at), at)

    def _merge(self) -> _Merged:
        anchor_ns = self._anchor_ns or 0
        ordered = sorted(self._readers(), key=attrgetter("preference"))
        for one in ordered:
            one.count()
        if len(ordered) == 1 and self._start.series in {None, ordered[0]} and not self._start.ahead:
            (only,) = ordered
            if not self._settled or only.at[0] == anchor_ns:
                lift = self._anchor_mj - only.at_moment(anchor_ns)
                methods = [NO_ENERGY, *[only.method] * (len(only.at) - 1)]
                return _Merged(only.at, [value + lift for value in only.total], methods, [])
        found = self._kept()
        since = found.at[-1] if found.at else None
        moments = {at for one in ordered for at in (one.at if since is None else one.at[bisect_right(one.at, since) :])}
        if not found.at:
            found.at.append(anchor_ns if self._settled else min(moments))
            found.total.append(0)
            found.methods.append(NO_ENERGY)
            found.states.append(self._start)
        for end in sorted(at for at in moments if at > found.at[-1]):
            used, method, state = _step(ordered, found.states[-1], found.at[-1], end)
            found.at.append(end)
            found.total.append(found.total[-1] + used)
            found.methods.append(method)
            found.states.append(state)
        lift = self._anchor_mj - interpolated(found.at, found.total, anchor_ns)
        return found if not lift else found._replace(total=[value + lift for value in found.total])

    def _kept(self) -> _Merged:
        """What was merged before and has not changed since."""
        if self._merged is None or self._changed_ns is None or not self._merged.states:
            return _Merged([], [], [], [])
        keep = bisect_left(self._merged.at, self._changed_ns)
        for column in self._merged:
            del column[keep:]
        return self._merged


def _step(ordered: Sequence[_Series], state: _State, begin: int, end: int) -> tuple[int, str, _State]:
    """Millijoules between two neighbouring moments, the method that tells them, and how far that counts."""
    lengths = [(length, one) for one in ordered if (length := one.segment(begin, end)) is not None]
    near = next((one for length, one in lengths if length <= GAP_NS), None)
    if near is None and not lengths:
        return _bridge(ordered, state, begin, end)
    series = near or lengths[0][1]
    ahead = state.ahead
    if series is not state.series:
        ahead = 0
        if state.series is not None and state.at == begin and state.series.method == COUNTER == series.method:
            # one counter, of which one reader's value is older than the other's
            apart = state.level - series.level_at(begin)
            ahead = apart if abs(apart) <= LAG_MJ else 0
    used = series.at_moment(end) - series.at_moment(begin) - ahead
    ahead = max(0, -used)
    return max(0, used), series.method, _State(series, series.level_at(end) + ahead, end, ahead)


def _bridge(ordered: Sequence[_Series], state: _State, begin: int, end: int) -> tuple[int, str, _State]:
    """Between two readers while nobody read: a counter has counted on, an integral has not.

    A sample that nobody follows within a minute ends nothing: its clock may be ahead.
    """
    if state.series is None:
        begun = next((one for one in ordered if one.at[-1] == begin), None)
        state = state if begun is None else _State(begun, begun.level[-1], begin)
    after = next((one for one in ordered if one.at[0] == end and len(one.at) > 1), None)
    if after is None or after.at[1] - end > GAP_NS:
        return 0, NO_ENERGY, state
    shown = after.counter[0]
    # one that begins a nanosecond later is the same reader, which has told what was used up to there
    goes_on = end - state.at <= 1
    if state.series is None or goes_on or not state.series.method == COUNTER == after.method:
        return 0, NO_ENERGY, _State(after, shown, end)
    used, level = counted(state.level, shown, end - state.at)
    return used, COUNTER, _State(after, level, end, level - shown)


def counted(level: int, shown: int, elapsed_ns: int) -> tuple[int, int]:
    """Millijoules since a counter was counted up to a level, and up to where it is now.

    Nothing where it tells more than a device can use in that time. One that fell began anew, when the driver was
    loaded: its new value is what was used since. One that fell by little, to a value that cannot have been used since,
    is an older value, of which all is counted.
    """
    if shown >= level:
        return _believed(shown - level, elapsed_ns + LAG_NS), shown
    if used := _believed(shown, elapsed_ns):
        return used, shown
    return 0, level if shown and level - shown <= LAG_MJ else shown


def _believed(used: int, elapsed_ns: int) -> int:
    return used if used * SECOND <= elapsed_ns * MOST_MILLIWATTS else 0


def interpolated(at: Sequence[int], total: Sequence[int], at_ns: int) -> int:
    """A column between its moments, rounded down; flat outside of them."""
    after = bisect_right(at, at_ns)
    if after == 0:
        return total[0]
    if after == len(at):
        return total[-1]
    begin, end = at[after - 1], at[after]
    return total[after - 1] + (total[after] - total[after - 1]) * (at_ns - begin) // (end - begin)
