"""One boot's account: its stream of costs, its requests, its energy, and the evidence for its checks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from farthing.books.prices import Tariff
from farthing.costing.checks import Evidence
from farthing.costing.energy import Readings
from farthing.costing.stream import CostStream, Options
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.errors import PriceError
from farthing.domain.model import Fit, SettledWindow
from farthing.domain.records import (
    Counters,
    GpuSamples,
    Lifecycle,
    Record,
    RecordKey,
    Started,
    StepBatch,
    StepMarks,
    Usage,
)
from farthing.ledger.repository import Boot, Entry, RequestRow
from farthing.settings import Settings

__all__ = ["BootAccount", "costing_options", "kept_options", "options_text", "request_row"]

_SILENCES = (c.INBOX_SILENT, c.INBOX_ABANDONED)
_NO_MARKS = StepMarks(*([()] * len(StepMarks.__dataclass_fields__)))


class BootAccount:
    """Feeds one boot's records through costing and gathers what is to be posted."""

    def __init__(
        self, started: Started, tariff: Tariff, engine: str, options: Options, *, billed_ns: int | None = None
    ) -> None:
        """``billed_ns`` (UTC): the engine is billed up to here already, by its counters."""
        self.started = started
        self.tariff = tariff
        self.engine = engine
        self._billed_ns = billed_ns
        self.stream = CostStream(started, self._bill, options)
        self.state = c.STARTING
        self.running: int | None = None
        self.waiting: int | None = None
        self._requests: list[RequestRow] = []
        self._windows: list[SettledWindow] = []
        self.records: Counter[str] = Counter()
        """Of usage records, for the checks."""
        self.marks: Counter[str] = Counter()
        self._late = 0
        self._until: dict[tuple[int, int], int] = {}
        """By process and engine index: complete up to here."""
        self.missing = 0
        self.refused = 0
        """Records that never arrived, and that intake refused, as whoever orders them counts."""
        self.unpriced = False
        """It has come to a time without a price: what was settled before stands, and nothing more is costed."""
        self.given_up = False
        """Its records cannot be costed any further: what was settled before stands."""
        self._settled_nano = 0
        self._settled_ns = dict.fromkeys(range(started.ranks), started.at_ns)
        """By rank: up to where the windows reach that were settled and taken."""
        self.read_id = 0
        """Of the last record in the inbox that was read for this boot."""
        self.silent = False
        """Nothing has come for a while, and nobody knows why."""
        self.gpu_uuids: set[str] = set()
        """Of its devices, as far as anybody told."""
        self._is_drained = False
        self._drained_uuids: set[str] = set()

    def feed(self, record: Record) -> None:
        """Take the next record in canonical order; one that comes after the end changes nothing and is counted."""
        self._is_drained = False
        if isinstance(record, Lifecycle) and record.event in _SILENCES:
            self._fall_silent(record)
            return
        if self.unpriced or self.given_up:
            return
        if self.ended:
            self._late += 1
            return
        self.silent = False
        if isinstance(record, Usage):
            row = request_row(record, self.engine, self._wall(record.ended_ns))
            self._requests.append(row)
            _count_usage(self.records, record, row)
        elif isinstance(record, StepBatch):
            marks = record.marks
            if record.engine_index < self.started.ranks:
                self._until[record.key.process, record.engine_index] = record.until_ns
            self.marks.update({"prompt_computed": sum(marks.prompt_computed), "engine_output": sum(marks.generated)})
            if len(marks):
                self.running, self.waiting = marks.running[-1], marks.waiting[-1]
        elif isinstance(record, Lifecycle):
            self.state = record.event
        elif isinstance(record, GpuSamples | Counters | Started):
            pass
        self._take(partial(self.stream.feed, record))

    def feed_device(self, readings: Readings) -> None:
        """Take samples of one of its devices, on its clock and in any order; no amount of money depends on them."""
        self._is_drained = False
        if not self.closed:
            self._gather(self.stream.feed_device(readings))

    def expect_device(self, uuid: str, since_ns: int) -> None:
        """Let windows wait, for the grace period at most, for samples of a device that is known to be read."""
        self.stream.expect_device(uuid, since_ns)

    def release_device(self, uuid: str) -> None:
        """Take back a device that turns out to be another's."""
        self._is_drained = False
        self.gpu_uuids.discard(uuid)
        self._gather(self.stream.release_device(uuid))

    def _take(self, settle: Callable[[], list[SettledWindow]]) -> None:
        try:
            windows = settle()
        except PriceError:
            # it is not costed any further: what was settled before is posted with the energy that is known
            self._gather(self.stream.give_up_energy())
            raise
        self._gather(windows)

    def _gather(self, windows: list[SettledWindow]) -> None:
        self._is_drained = False
        self._windows += windows
        self._settled_nano += sum(window.bill_nano for window in windows)
        for window in windows:
            self._settled_ns[window.engine_index] = window.end_ns

    def end(self) -> None:
        """Settle all that is known: nothing more can come (another boot took this engine's place)."""
        if not self.ended:
            self._take(self.stream.finish)
            self.state, self.silent = "stop", False

    def give_up(self) -> None:
        """Cost nothing of it any further: what was settled before is posted with the energy that is known."""
        self.given_up = True
        self._gather(self.stream.give_up_energy())

    def _fall_silent(self, record: Lifecycle) -> None:
        """Settle what is known. No request is waited for any longer; one that is told of after all is a late one."""
        if self.ended:
            self._gather(self.stream.give_up_energy())
            return
        self.running = self.waiting = None
        if record.event == c.INBOX_ABANDONED:
            self.end()
            self._gather(self.stream.give_up_energy())
            return
        self.silent = True
        for (process, index), until_ns in self._until.items():
            key = RecordKey(record.key.boot, process, record.key.sequence)
            batch = StepBatch(key, index, until_ns, until_ns, _NO_MARKS)
            self._take(partial(self.stream.feed, batch))
        # whoever read its devices may have died with it
        self._gather(self.stream.give_up_energy())

    @property
    def ended(self) -> bool:
        """Nothing more of this boot can come, and no amount of money can change."""
        return self.stream.ended

    @property
    def closed(self) -> bool:
        """Nothing of this boot can change any more: what was settled has its energy, or does without."""
        return self.stream.ended and not self.stream.awaits_energy

    @property
    def bill_nano(self) -> int:
        """Allocation x price from the start to the end of the last closed window, without looking at windows.

        Where a window in progress has come to a time without a price, what is settled: the rest has no amount yet.
        """
        return self._settled_nano if self._is_priceless() else self.stream.billed_nano

    @property
    def energy_mj(self) -> int | None:
        """Millijoules of all its devices, up to where its steps are known or to its end; None without samples."""
        return self.stream.energy_mj

    @property
    def has_news(self) -> bool:
        """Whether there may be something to post since the last ``drain``."""
        return not self._is_drained or self.gpu_uuids != self._drained_uuids

    def note_arrival(self) -> None:
        """A record of it has arrived, whether or not its turn has come."""
        self._is_drained = False

    def drain(self) -> list[Entry]:
        """What is to be posted since the last call."""
        adjustments = tuple(self.stream.adjustments)
        entry = Entry(self.row(), tuple(self._requests), tuple(self._windows), adjustments)
        self._requests.clear()
        self._windows.clear()
        self.stream.adjustments.clear()
        self._is_drained, self._drained_uuids = True, set(self.gpu_uuids)
        return [entry]

    def row(self) -> Boot:
        """The boot as the ledger keeps it."""
        ended_ns = None
        if self.ended and not self.given_up and self.stream.stopped_ns is not None:
            ended_ns = self._wall(self.stream.stopped_ns)
        covered_ns = self._wall(min(self._settled_ns.values()) if self._is_priceless() else self.stream.covered_ns)
        energy = self.energy_mj
        return Boot(
            boot=self.started.key.boot,
            engine=self.engine,
            kind=self.started.kind,
            model=self.started.model,
            gpu=self.tariff.gpu,
            gpu_count=self.tariff.count,
            price_version=self.tariff.version,
            anchor=self.started.anchor,
            started_ns=self._wall(self.started.at_ns),
            closed_ns=ended_ns if self.closed else None,
            bill_nano=self.bill_nano,
            lost=self._lost,
            energy_first_mj=None if energy is None else 0,
            energy_last_mj=energy,
            refused=self.refused,
            ranks=self.started.ranks,
            billed_from_ns=self._billed_ns,
            covered_ns=covered_ns,
            read_id=self.read_id,
            price_content=self.tariff.content,
            costing=options_text(self.stream.options),
            gpu_uuids=tuple(sorted(self.gpu_uuids)),
            ended_ns=ended_ns,
            given_up_ns=covered_ns if self.given_up else None,
        )

    def wip(self) -> dict[str, int]:
        """Provisional nano-dollars of windows that are not settled, by phase or account."""
        return {} if self._is_priceless() else self.stream.provisional()

    def fit(self) -> Fit | None:
        """The fit as it stands."""
        return self.stream.fit()

    def evidence(self, lines: Mapping[str, int], counters: dict[str, int] | None = None) -> Evidence:
        """What the checks compare; ``lines`` are this boot's settled nano-dollars by account, from the ledger."""
        fit = self.stream.fit()
        busy = sum(lines.get(account, 0) for account in (c.CHARGED, c.ABORTED, c.UNATTRIBUTED))
        return Evidence(
            bill_nano=self.bill_nano,
            lines_nano=(*lines.values(), *self.wip().values()),
            busy_nano=busy,
            unattributed_nano=lines.get(c.UNATTRIBUTED, 0),
            fit_gap=self.stream.fit_gap(fit.coefficients) if fit and fit.method != c.ASSUMED else None,
            fit_error=fit.walk_forward_wape if fit else None,
            lost=self._lost,
            one_sided=self.records["one_sided"],
            records=dict(self.records) if self.closed else None,
            marks=dict(self.marks) if self.closed else None,
            counters=counters,
        )

    @property
    def _lost(self) -> int:
        return self.missing + self._late + self.stream.strays

    def _is_priceless(self) -> bool:
        """Whether its windows, settled or in progress, reach into a time without a price, or cannot be costed."""
        return (
            self.unpriced
            or self.given_up
            or not self.tariff.covers(self._wall(self.started.at_ns), self._wall(self.stream.reach_ns))
        )

    def _wall(self, mono_ns: int) -> int:
        return self.started.anchor.to_wall(mono_ns)

    def _bill(self, start_ns: int, end_ns: int) -> int:
        start, end = self._wall(start_ns), self._wall(end_ns)
        if self._billed_ns is not None:
            start, end = max(start, self._billed_ns), max(end, self._billed_ns)
        return self.tariff.bill(start, end)


def costing_options(settings: Settings) -> Options:
    """How windows are cut and settled, from farthing.yaml."""
    costing = settings.costing
    return Options(costing.window_seconds * SECOND, costing.grace_seconds * SECOND, costing.horizon_windows)


def options_text(options: Options) -> str:
    """How a boot's windows are cut and settled, as the books keep it: canonical JSON."""
    kept = {"window_ns": options.window_ns, "grace_ns": options.grace_ns, "horizon": options.horizon}
    return json.dumps(kept, separators=(",", ":"), sort_keys=True)


def kept_options(text: str, default: Options) -> Options:
    """The options of such a text; ``default`` where the books keep none, as of boots of the first versions."""
    return Options(**json.loads(text)) if text else default


def request_row(usage: Usage, engine: str, ended_wall_ns: int) -> RequestRow:
    """A usage record as a row: the engine's counts where it gave them, else the client's, else unknown."""
    sequences = usage.sequences
    if sequences:
        computed: int | None = sum(max(0, s.prompt_tokens - s.cached_tokens) for s in sequences)
        cached: int | None = sum(s.cached_tokens for s in sequences)
        output: int | None = sum(s.output_tokens for s in sequences)
    else:
        cached = usage.cached_tokens
        computed = None if usage.prompt_tokens is None else max(0, usage.prompt_tokens - (cached or 0))
        output = usage.output_tokens if usage.output_tokens is not None else usage.delivered_tokens
    return RequestRow(
        key=usage.key,
        engine=engine,
        request_id=usage.request_id,
        ended_wall_ns=ended_wall_ns,
        tenant=usage.tenant,
        project=usage.project,
        workload=usage.workload,
        tier=usage.tier,
        model=usage.model,
        outcome=usage.outcome,
        status=usage.status,
        seen_by=usage.seen_by,
        trace_id=usage.trace_id,
        prompt_computed=computed,
        prompt_cached=cached,
        image_tokens=usage.image_tokens,
        output_tokens=output,
        span_id=usage.span_id,
        parent_span_id=usage.parent_span_id,
        estimate_nano=usage.estimate_nano,
    )


def _count_usage(counts: Counter[str], usage: Usage, row: RequestRow) -> None:
    started = [s for s in usage.sequences if s.first_ns is not None]
    first_tokens = len(started) if usage.sequences else int(usage.first_ns is not None)
    counts["sequences"] += first_tokens
    if first_tokens:  # the engine counts a prompt when its prefill ends
        counts["prompt_computed"] += row.prompt_computed or 0
    counts["output"] += row.output_tokens or 0
    counts["longest_prompt"] = max(counts["longest_prompt"], row.prompt_computed or 0)
    if usage.outcome == c.ABORTED:
        counts["aborted_output"] += row.output_tokens or 0
    if row.prompt_computed is None and usage.outcome != c.REJECTED:
        counts["unknown_prompts"] += 1
    if usage.outcome == c.FINISHED and usage.seen_by != "both":
        counts["one_sided"] += 1
