"""The cost stream of one boot: records in, settled windows out, on event time alone.

Records of a process come in the order of their sequences. A window settles when every request that arrived
before its end is known to have ended, or when the watermark is a grace period past it; windows settle in
order, so equal records give equal books, whatever was restarted when.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from farthing.costing.energy import EnergyTrack, Readings
from farthing.costing.fit import FitHistory
from farthing.costing.joining import Decided, EnergyJoin, Measured, Moment
from farthing.costing.late import LateBook
from farthing.costing.marks import MarkTrack
from farthing.costing.measure import measure, unclaimed_work
from farthing.costing.settle import by_phase, settle
from farthing.costing.timing import Span, whole_ns, window_time
from farthing.costing.work import SLACK, Work, works_of
from farthing.domain.clock import SECOND
from farthing.domain.conventions import ASLEEP, DOWN, DRAINING, IDLE, STARTING, UNKNOWN
from farthing.domain.errors import PriceError
from farthing.domain.model import Adjustment, Fit, SettledWindow
from farthing.domain.records import Counters, GpuSamples, Lifecycle, Record, Started, StepBatch, Usage

__all__ = ["CostStream", "Options"]

Bill = Callable[[int, int], int]

_STATES = {"ready": IDLE, "awake": IDLE, "asleep": ASLEEP, "down": DOWN, "draining": DRAINING}


@dataclass(frozen=True, slots=True)
class Options:
    """How windows are cut and how long they wait; nanoseconds."""

    window_ns: int = 5 * SECOND
    grace_ns: int = 120 * SECOND
    horizon: int = 720
    warm_up: int = 12
    """Busy windows that a new fit is given before it splits anything; until then windows are work in progress."""
    warm_up_ns: int = 600 * SECOND
    """How long, in event time, a window waits for that at most."""
    late_ns: int = 3_600 * SECOND
    """How long, in event time, a settled window takes in late records."""
    lag: int = 2
    """Windows that are measured after one before it settles: a fit that knows what came next splits better."""


@dataclass(slots=True)
class _Index:
    """One engine index (data-parallel rank): its marks, its open windows."""

    fits: FitHistory
    late: LateBook
    track: MarkTrack = field(default_factory=MarkTrack)
    cut_ns: int = 0
    """End of the last closed window."""
    cut_position: int = 0
    closed: list[Span] = field(default_factory=list)
    """Windows closed whose requests are not all known."""
    measured: list[Measured] = field(default_factory=list)
    """Windows that are known and not settled."""
    works: list[Work] = field(default_factory=list)
    waiting: list[Usage] = field(default_factory=list)
    """Requests whose last mark has not been merged yet."""
    tardy: list[tuple[Usage, int]] = field(default_factory=list)
    """Late requests that may overlap windows which were measured before they came and are not settled, and the start
    of the first window that was not."""

    @property
    def unknown_ns(self) -> int:
        """Start of the first window that still takes in requests by measuring."""
        return self.closed[0].start if self.closed else self.cut_ns

    @property
    def first_open_ns(self) -> int:
        """Start of the first window that is not settled."""
        if self.measured:
            return self.measured[0].span.start
        return self.unknown_ns


class CostStream:
    """Costs one boot; ``feed`` it records, ``finish`` it when no more can come.

    ``bill(a, b)`` gives nano-dollars of monotonic [a, b) for all engine indices together and must telescope;
    data-parallel ranks share it equally.
    """

    def __init__(self, started: Started, bill: Bill, options: Options | None = None) -> None:
        self.started = started
        self.options = options or Options()
        self.stopped_ns: int | None = None
        """The latest stop of any process."""
        self._stopped: set[int] = set()
        self._bill = bill
        self._states: list[tuple[int, str]] = [(started.at_ns, STARTING)]
        self._indices = [self._new_index() for _ in range(started.ranks)]
        self._energy = EnergyTrack(started.at_ns)
        lates = (index.late for index in self._indices)
        self._joining = EnergyJoin(started, self._energy, lates, self.options.horizon, self.options.grace_ns)
        self.strays = 0
        """Records of an engine index that the boot did not announce: nobody can be billed for them."""
        self._until: dict[tuple[int, int], int] = {}
        """By process and engine index: every process reports every index."""
        self._open: dict[int, int] = {}
        self._finished = False
        self._provisional: dict[str, int] | None = None
        """What ``provisional`` says; None once anything that it depends on may have changed."""
        self.adjustments: list[Adjustment] = []
        """What late records moved in settled windows; the caller takes them away."""

    @property
    def watermark_ns(self) -> int:
        """Up to where every process has reported the steps of every index; the boot's end once it has ended."""
        if self.ended:
            return self.stopped_ns or self.started.at_ns
        if len(self._until) < self.started.processes * self.started.ranks:
            return self.started.at_ns
        return min(self._until.values())

    @property
    def ended(self) -> bool:
        """Every process has sent its stop, which is its last record: nothing more of this boot can come."""
        return self._finished or len(self._stopped) >= self.started.processes

    def feed(self, record: Record) -> list[SettledWindow]:
        """Take one record; returns the windows that it settles, in order."""
        if not isinstance(record, Usage):
            # a request takes part once the marks that it ended at have come
            self._provisional = None
        if isinstance(record, Usage):
            if record.engine_index < len(self._indices):
                index = self._indices[record.engine_index]
                if record.arrived_ns < index.unknown_ns:
                    self._adjust(record.engine_index, index.late.claim(record, before_ns=index.unknown_ns))
                    index.tardy.append((record, index.unknown_ns))
                index.waiting.append(record)
            else:
                self.strays += 1
        elif isinstance(record, StepBatch):
            if record.engine_index < len(self._indices):
                self._indices[record.engine_index].track.add(record.marks)
                process = record.key.process
                until = process, record.engine_index
                self._until[until] = max(self._until.get(until, 0), record.until_ns)
                self._open[process] = max(self._open.get(process, 0), record.open_ns)
                return self._advance()
            self.strays += 1
        elif isinstance(record, Lifecycle):
            self._states.append((record.at_ns, _STATES.get(record.event, IDLE)))
            self._states.sort(key=lambda state: state[0])
            if record.event == "stop":
                process = record.key.process
                self._stopped.add(process)
                self.stopped_ns = max(self.stopped_ns or 0, record.at_ns)
                # its process has nothing more to report, even where its last batch of steps got lost
                for number in range(len(self._indices)):
                    until = process, number
                    self._until[until] = max(self._until.get(until, 0), record.at_ns)
                self._open[process] = max(self._open.get(process, 0), record.at_ns)
                return self._advance()
        elif isinstance(record, GpuSamples):
            self._energy.add(record)
            return self._advance()
        elif isinstance(record, Counters | Started):
            pass
        return []

    def feed_device(self, readings: Readings) -> list[SettledWindow]:
        """Take samples of a device that somebody else sent, in any order; no amount of money depends on them."""
        self._energy.add_readings(readings)
        return self._join()

    def begin_energy(self, at_ns: int, before_mj: int) -> None:
        """Go on with energy from a moment up to which so much was used; the windows before it are settled."""
        self._energy.begin(at_ns, before_mj)

    def expect_device(self, device: str, since_ns: int) -> None:
        """Let windows wait for samples of a device that is known to be read, for the grace period at most."""
        self._energy.expect(device, since_ns)

    def release_device(self, device: str) -> list[SettledWindow]:
        """Take back a device that turns out not to be the boot's; what is settled keeps its energy."""
        self._joining.release(device)
        return self._join()

    def give_up_energy(self) -> list[SettledWindow]:
        """Settle what waits for energy alone, with what is known of it."""
        return self._join(wait=False)

    @property
    def awaits_energy(self) -> bool:
        """Whether windows are settled but for their energy."""
        return self._joining.waits

    def finish(self) -> list[SettledWindow]:
        """Settle everything up to the stop, else up to the watermark, as if no more records could come."""
        if self.stopped_ns is None:
            self.stopped_ns = max(self._until.values(), default=self.started.at_ns)
        self._finished = True
        return self._advance()

    def provisional(self) -> dict[str, int]:
        """Nano-dollars of closed windows that are not settled, by phase or account, at the current fit."""
        if self._provisional is None:
            self._provisional = self._in_progress()
        return dict(self._provisional)

    def _in_progress(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for number, index in enumerate(self._indices):
            for decided in self._joining.waiting(number):
                for posting in decided.settlement.postings:
                    name = posting.phase or posting.account
                    total[name] = total.get(name, 0) + posting.nano
            fit = index.fits.current()
            open_windows = [(w.span, w.time, w.work) for w in index.measured]
            for span in index.closed:
                time = window_time(index.track, index.works, self._states, span)[0]
                open_windows.append((span, time, unclaimed_work(index.track, span.lo, span.hi)))
            for span, time, work in open_windows:
                for name, nano in by_phase(self._share(self._billed, number, span), time, work, fit).items():
                    total[name] = total.get(name, 0) + nano
        return total

    def fit(self, engine_index: int = 0) -> Fit:
        """The fit of busy time as it stands."""
        return self._indices[engine_index].fits.current()

    def fit_gap(self, coefficients: dict[str, float], engine_index: int = 0) -> float:
        """How far coefficients are from optimal on the windows of the horizon (see ``optimality_gap``)."""
        return self._indices[engine_index].fits.gap(coefficients)

    @property
    def covered_ns(self) -> int:
        """Up to where every index's windows reach, settled or in progress."""
        return min(index.cut_ns for index in self._indices)

    @property
    def reach_ns(self) -> int:
        """Up to where the windows of any index reach."""
        return max(index.cut_ns for index in self._indices)

    @property
    def billed_nano(self) -> int:
        """Nano-dollars up to the end of each index's last closed window: all of it is settled or in progress."""
        origin = self.started.at_ns
        spans = (Span(origin, index.cut_ns, 0, 0) for index in self._indices)
        return sum(self._share(self._billed, number, span) for number, span in enumerate(spans))

    @property
    def energy_mj(self) -> int | None:
        """Millijoules of the devices from the start, or their first sample, to the watermark; None without any."""
        total = self._energy.since_origin(self.watermark_ns)
        return total if total or self._energy.known else None

    # ---- inside ------------------------------------------------------------------------------------

    def _new_index(self) -> _Index:
        return _Index(FitHistory(self.options.horizon), LateBook(self.options.late_ns), cut_ns=self.started.at_ns)

    def _share(self, cumulative: Callable[[int], int], number: int, span: Span) -> int:
        """An index's equal share of [start, end): integer, and adding up over indices and windows.

        Source: Hermite's identity, the sum over i of floor((x + i) / n) is floor(x).
        """
        count = len(self._indices)
        return (cumulative(span.end) + number) // count - (cumulative(span.start) + number) // count

    def _billed(self, at_ns: int) -> int:
        return self._bill(self.started.at_ns, at_ns)

    def _advance(self) -> list[SettledWindow]:
        self._provisional = None
        waiting, adjusted = self._joining.sizes(), len(self.adjustments)
        try:
            self._settle()
        except PriceError:
            # windows of this turn are not there, and nothing can be moved within them
            self._joining.forget_after(waiting)
            del self.adjustments[adjusted:]
            raise
        return self._join()

    def _settle(self) -> None:
        final = self.ended
        watermark = self.watermark_ns
        known = watermark if final else min(self._open.values(), default=self.started.at_ns)
        for number, index in enumerate(self._indices):
            index.track.advance(watermark)
            self._close(index, watermark, final=final)
            self._place(index, watermark, final=final)
            # a request whose last step another process has not reported yet is known, but not placed
            placed = min([known, *[usage.arrived_ns for usage in index.waiting]]) if index.waiting else known
            while index.closed:
                span = index.closed[0]
                if not final and placed < span.end and watermark < span.end + self.options.grace_ns:
                    break
                end = whole_ns(index.track, index.works, span)
                if end < span.end:
                    # the rest belongs to the next window, which has to be there to take it
                    if len(index.closed) == 1:
                        break
                    index.closed[1] = index.closed[1]._replace(start=end)
                    span = span._replace(end=end)
                index.closed.pop(0)
                if end > span.start or span.hi > span.lo:
                    self._measure(number, index, span)
            while index.measured and (final or self._fit_is_ready(index, watermark)):
                decided = self._decide(number, index, index.measured.pop(0))
                start = decided.measured.span.start
                index.late.add(self._joining.decided(number, decided), decided.measured.work)
                for usage, before in index.tardy:
                    self._adjust(number, index.late.claim(usage, since_ns=start, before_ns=before))
            if index.tardy:
                index.tardy = [(usage, before) for usage, before in index.tardy if before > index.first_open_ns]
            index.late.forget(watermark)
            self._forget(index)

    def _close(self, index: _Index, watermark: int, *, final: bool) -> None:
        """Cut windows at the grid when idle, else at the first step after the grid line: steps stay whole."""
        step, origin = self.options.window_ns, self.started.at_ns
        track = index.track
        while True:
            grid = origin + ((index.cut_ns - origin) // step + 1) * step
            if grid > watermark:
                break
            position = track.position_after(grid - 1)
            cut = grid
            if position > track.base and track.runs(position - 1):
                if position >= track.end:
                    break
                cut = track.at(position)
                # marks of one moment belong together
                position = track.position_after(cut)
            self._cut(index, cut, position)
        if final and (index.cut_ns < watermark or index.cut_position < track.end):
            # marks on the line of the last cut belong after it, where a window without length tells of them
            self._cut(index, watermark, track.end)

    def _cut(self, index: _Index, end: int, position: int) -> None:
        index.closed.append(Span(index.cut_ns, end, index.cut_position, position))
        index.cut_ns, index.cut_position = end, position

    def _place(self, index: _Index, watermark: int, *, final: bool) -> None:
        """Turn requests into work once the marks that they end at are merged."""
        track, unknown = index.track, index.unknown_ns
        if not len(track):
            return
        merged = max(watermark, track.at(track.end - 1))
        later = []
        for usage in index.waiting:
            if len(usage.sequences) == 1:
                ends = usage.sequences[0].last_ns
            else:
                ends = max((s.last_ns for s in usage.sequences), default=usage.ended_ns)
            if ends > merged and not final:
                later.append(usage)
            elif ends >= unknown:
                index.works += works_of(usage, track)
        index.waiting = later

    def _forget(self, index: _Index) -> None:
        lo = index.closed[0].lo if index.closed else index.cut_position
        needed = lo - SLACK
        index.works = [work for work in index.works if work.last >= needed]
        index.track.drop_before(min([lo, *[work.first for work in index.works]]))

    def _fit_is_ready(self, index: _Index, watermark: int) -> bool:
        """Whether the first measured window may settle: the fit has seen enough, or it waited long enough."""
        options = self.options
        if index.fits.windows >= options.warm_up and len(index.measured) > options.lag:
            return True
        return watermark - index.measured[0].span.end >= options.warm_up_ns

    def _measure(self, number: int, index: _Index, span: Span) -> None:
        """What was done in a window, added to the fit of its time."""
        time, busy_ns = window_time(index.track, index.works, self._states, span)
        work = measure(index.track, index.works, span.lo, span.hi, start_ns=span.start, busy_ns=busy_ns)
        index.fits.add(work.rows, work.busy)
        index.measured.append(Measured(span, time, work))
        self._joining.measured(number, index.measured[-1])

    def _decide(self, number: int, index: _Index, measured: Measured) -> Decided:
        """A window's money, by all that is known now; energy that comes later changes nothing of it."""
        fit = index.fits.current()
        bill = self._share(self._billed, number, measured.span)
        model = self.started.model or UNKNOWN
        return Decided(measured, settle(bill, measured.time, measured.work, fit=fit, model=model), bill, fit)

    def _adjust(self, number: int, adjustments: list[Adjustment]) -> None:
        self.adjustments += self._joining.adjusted(number, adjustments)

    def _join(self, *, wait: bool = True) -> list[SettledWindow]:
        self._provisional = None
        measured_ns = min(index.unknown_ns for index in self._indices)
        windows, adjustments = self._joining.join(Moment(self.watermark_ns, measured_ns, self.ended), wait=wait)
        self.adjustments += adjustments
        return windows
