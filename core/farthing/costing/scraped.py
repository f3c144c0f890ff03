"""Costing an engine without the probe: from its own counters alone, every number an estimate.

Two successive scrapes of one boot bound an interval; the interval becomes one settled window whose postings
add up to its bill. Nothing is known per request, so work is charged to the tenant ``unknown``.

**Busy time** is estimated from the running gauge at both ends and the tokens moved between them: the whole
interval when requests run at both ends, half of it when at one end. With nothing running at either end it is
the time that the requests finished in between spent in prefill and decode, at most the interval (half of it
where the engine does not tell); without tokens it is 0. On the two recordings (2 s scrapes) this is within
2.5 % of the busy time metered from the engine's steps.

**Phases** split busy time by an *assumed* weight: an output token counts as 1 + 295/B computed prompt tokens,
B being the mean of the running gauge. Source, the roofline model (Williams, Waterman and Patterson, 2009): a
token of either kind takes 2 FLOP per parameter, and every decode step reads each 2-byte parameter once for all
B requests in it. An H100 SXM does 989 TFLOP/s (dense bf16) and reads 3.35 TB/s, 295 FLOP per byte (NVIDIA's
datasheet); fp8 doubles both sides. For 8B parameters: 16 us per token and 4.8 ms per step. On the 8B recording
it gives prefill 42 % of busy time where the engine's steps say 35-40 %, on the vision recording 34 % where
prefill and encoder together are 42 %. A busy interval in which no token moved is prefill: decoding emits
tokens at every step.

**Vision is not separable without the probe**: an image's encoder runs before its prompt, so it lies in prefill.
Recomputed prefills after preemption and rejected speculation are not separable either.

**Gaps.** An interval across a restart (another boot, or a counter that fell) is ``down`` and then ``starting``,
as long as the new boot says that its start took; what either boot did within it cannot be told. Scrapes that
failed while the counters went on make one longer interval. A ``down`` lifecycle record settles an outage up to
its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from farthing.domain.clock import nanoseconds
from farthing.domain.conventions import (
    ASLEEP,
    ASSUMED,
    CHARGED,
    DECODE,
    DOWN,
    ESTIMATED,
    IDLE,
    PREFILL,
    REASON_UNMETERED,
    SIGNAL_AWAKE,
    SIGNAL_CACHED,
    SIGNAL_COMPUTED,
    SIGNAL_DECODE_TIME,
    SIGNAL_GENERATION,
    SIGNAL_PREFILL_TIME,
    SIGNAL_PROMPT,
    SIGNAL_RUNNING,
    SIGNAL_STARTUP,
    STARTING,
    TOKEN_ENGINE_OUTPUT,
    TOKEN_PROMPT_CACHED,
    TOKEN_PROMPT_COMPUTED,
    UNATTRIBUTED,
    UNKNOWN,
)
from farthing.domain.model import Fit, Posting, SettledWindow
from farthing.domain.money import split
from farthing.domain.records import Counters, Lifecycle, Started

__all__ = ["ROOFLINE_FIT", "ScrapedCoster", "ScrapedRecord", "cost_scrapes", "counters_fell"]

Bill: TypeAlias = Callable[[int, int], int]
"""Nano-dollars of [start_ns, end_ns) in the records' clock; integer, never negative, and telescoping."""
ScrapedRecord: TypeAlias = Started | Counters | Lifecycle

OPS_PER_BYTE: Final = 295
"""FLOP that an H100 SXM does while it reads one byte: 989.4e12 / 3.35e12."""

ROOFLINE_FIT: Final = Fit(
    version="assumed-roofline-h100",
    method=ASSUMED,
    # seconds per unit for 8.03e9 parameters in bf16; only their ratio, OPS_PER_BYTE, enters a split
    coefficients={"steps": 4.79e-3, "prefill_tokens": 1.62e-5, "decode_tokens": 1.62e-5},
    intervals={},
    walk_forward_wape=None,
    windows=0,
)


def cost_scrapes(boot: str, bill: Bill, model: str, records: Iterable[ScrapedRecord]) -> list[SettledWindow]:
    """Every window that the records settle, whatever order they come in: sorted by time, duplicates without effect.

    Their bills add up to ``bill(first, last)``, and each window's postings to its own bill.
    """
    coster = ScrapedCoster(boot, bill, model)
    order = (Started, Lifecycle, Counters)
    ordered = sorted(records, key=lambda record: (record.at_ns, order.index(type(record)), record.key))
    return [window for record in ordered for window in coster.feed(record)]


class ScrapedCoster:
    """Costs one engine index from records in the order of their time; equal records give equal windows.

    ``boot`` and ``model`` are of the first boot; later ones are learnt from their ``Started`` records (a boot
    that has none serves ``unknown``). The books begin with the first ``Started`` or ``Counters`` record.
    """

    def __init__(self, boot: str, bill: Bill, model: str, *, engine_index: int = 0) -> None:
        self.ignored = 0
        """Records that told nothing new: duplicates, and ones older than what is settled."""
        self._bill = bill
        self._boot = boot
        self._models = {boot: model or UNKNOWN}
        self._index = engine_index
        self._last: Counters | None = None
        self._settled_ns: int | None = None

    @property
    def boot(self) -> str:
        """The boot that was seen last."""
        return self._boot

    @property
    def settled_ns(self) -> int | None:
        """Before this moment nothing changes any more; None before the first record."""
        return self._settled_ns

    def feed(self, record: ScrapedRecord) -> list[SettledWindow]:
        """Take one record; returns the windows that it settles, in order."""
        if isinstance(record, Counters):
            return self._count(record)
        if isinstance(record, Lifecycle):
            return self._change(record)
        self._models[record.key.boot] = record.model or UNKNOWN
        if self._settled_ns is None:
            self._boot, self._settled_ns = record.key.boot, record.at_ns
        return []

    # ---- inside ------------------------------------------------------------------------------------

    def _count(self, record: Counters) -> list[SettledWindow]:
        if self._settled_ns is None:
            self._boot, self._last, self._settled_ns = record.key.boot, record, record.at_ns
            return []
        if record.at_ns < self._settled_ns or (record.at_ns == self._settled_ns and self._last is not None):
            self.ignored += 1
            return []
        before, self._last = self._last, record
        if before is None or before.key.boot != record.key.boot or counters_fell(before.values, record.values):
            return self._restart(record)
        return self._closed([self._work(before, record)], record.at_ns)

    def _change(self, record: Lifecycle) -> list[SettledWindow]:
        # an outage belongs to the boot that was seen last; the other events show in the counters' gauges
        if self._settled_ns is None or record.event not in {"down", "stop"} or record.key.boot != self._boot:
            return []
        return self._closed([self._whole(record.at_ns, DOWN)], record.at_ns)

    def _restart(self, record: Counters) -> list[SettledWindow]:
        """[settled, record): down under the old boot, then starting under the new one."""
        begin = self._settled_ns or 0
        startup = nanoseconds(max(0.0, _finite(record, SIGNAL_STARTUP) or 0.0))
        ready = max(begin, record.at_ns - startup)
        windows = self._closed([self._whole(ready, DOWN)], ready)
        self._boot = record.key.boot
        return windows + self._closed([self._whole(record.at_ns, STARTING)], record.at_ns)

    def _closed(self, windows: list[SettledWindow], until_ns: int) -> list[SettledWindow]:
        """The windows that have a length; the books now reach ``until_ns``."""
        begin = self._settled_ns or 0
        self._settled_ns = max(begin, until_ns)
        return [window for window in windows if window.end_ns > window.start_ns]

    def _window(
        self,
        end_ns: int,
        bill: int,
        postings: tuple[Posting, ...],
        *,
        phase_ns: dict[str, int] | None = None,
        features: dict[str, float] | None = None,
        tokens: dict[str, int] | None = None,
        busy_ns: int = 0,
    ) -> SettledWindow:
        return SettledWindow(
            boot=self._boot,
            engine_index=self._index,
            start_ns=self._settled_ns or 0,
            end_ns=end_ns,
            bill_nano=bill,
            busy_ns=busy_ns,
            phase_ns=phase_ns or {},
            features=features or {},
            tokens=tokens or {},
            postings=tuple(posting for posting in postings if posting.nano),
            requests=(),
            fit_version=ROOFLINE_FIT.version,
        )

    def _billed(self, end_ns: int) -> int:
        begin = self._settled_ns or 0
        bill = self._bill(begin, end_ns) if end_ns > begin else 0
        if bill < 0:
            raise ValueError(f"the bill of [{begin}, {end_ns}) is {bill} nano-dollars; a price is never negative")
        return bill

    def _whole(self, end_ns: int, account: str) -> SettledWindow:
        """[settled, end) in one account."""
        bill = self._billed(end_ns)
        return self._window(end_ns, bill, (self._line(account, bill),))

    def _line(self, account: str, nano: int, *, phase: str = "", reason: str = "") -> Posting:
        who = UNKNOWN if account == CHARGED else ""
        model = self._models.get(self._boot, UNKNOWN)
        return Posting(account, phase, who, "", model, who, reason, ESTIMATED, nano)

    def _work(self, before: Counters, after: Counters) -> SettledWindow:
        """[settled, after) of one boot whose counters went on."""
        end = after.at_ns
        bill = self._billed(end)
        tokens = _tokens(before, after)
        computed, output = tokens.get(TOKEN_PROMPT_COMPUTED), tokens.get(TOKEN_ENGINE_OUTPUT)
        # after an outage that is settled already, the gauge from before it says nothing about the rest
        ends = _running(before if before.at_ns == self._settled_ns else after, after)
        if computed is None or output is None or not ends:
            line = self._line(UNATTRIBUTED, bill, reason=REASON_UNMETERED)
            return self._window(end, bill, (line,), tokens=tokens)
        length = end - (self._settled_ns or 0)
        busy = _busy(length, ends, moved=computed + output > 0, spent_ns=_spent(before, after))
        weights, batch = _weights(computed, output, ends)
        prefill_ns, decode_ns = split(busy, weights)
        asleep_ns = (length - busy) * _asleep_ends(before, after) // 2
        rest_ns = length - busy - asleep_ns
        prefill, decode, asleep, idle = split(bill, [prefill_ns, decode_ns, asleep_ns, rest_ns]) if length else [0] * 4
        return self._window(
            end,
            bill,
            (
                self._line(CHARGED, prefill, phase=PREFILL),
                self._line(CHARGED, decode, phase=DECODE),
                self._line(ASLEEP, asleep),
                self._line(IDLE, idle),
            ),
            phase_ns={PREFILL: prefill_ns, DECODE: decode_ns},
            features={"prefill_tokens": float(computed), "decode_tokens": float(output), "running": batch},
            tokens=tokens,
            busy_ns=busy,
        )


def counters_fell(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Whether a count fell between two readings, which only a restart does.

    Sums of times are left out: vLLM observes a negative time for a request that never had a first token.
    """
    return any(
        after[name] < value
        for name, value in before.items()
        if name in after and name not in {SIGNAL_PREFILL_TIME, SIGNAL_DECODE_TIME}
    )


def _delta(before: Counters, after: Counters, signal: str) -> int | None:
    if signal in before.values and signal in after.values:
        return after.values[signal] - before.values[signal]
    return None


def _tokens(before: Counters, after: Counters) -> dict[str, int]:
    """Tokens moved by kind; a kind that the engine does not tell is absent."""
    computed = _delta(before, after, SIGNAL_COMPUTED)
    cached = _delta(before, after, SIGNAL_CACHED)
    if computed is None and (prompt := _delta(before, after, SIGNAL_PROMPT)) is not None:
        computed = max(0, prompt - (cached or 0))
    found = {
        TOKEN_PROMPT_COMPUTED: computed,
        TOKEN_PROMPT_CACHED: cached,
        TOKEN_ENGINE_OUTPUT: _delta(before, after, SIGNAL_GENERATION),
    }
    return {kind: count for kind, count in found.items() if count is not None}


def _running(before: Counters, after: Counters) -> list[int]:
    """Requests running at both ends; one known end stands for both, none known is empty."""
    known = [gauge for end in (before, after) if (gauge := _finite(end, SIGNAL_RUNNING)) is not None]
    ends = [max(0, round(gauge)) for gauge in known]
    return ends if len(ends) == 2 else ends * 2


def _finite(record: Counters, signal: str) -> float | None:
    gauge = record.gauges.get(signal)
    return gauge if gauge is not None and math.isfinite(gauge) else None


def _spent(before: Counters, after: Counters) -> int | None:
    """Request-nanoseconds of prefill and decode of the requests that finished; None where not told."""
    prefill = _delta(before, after, SIGNAL_PREFILL_TIME)
    decode = _delta(before, after, SIGNAL_DECODE_TIME)
    if prefill is None or decode is None or prefill + decode <= 0:
        return None
    return prefill + decode


def _busy(length: int, ends: list[int], *, moved: bool, spent_ns: int | None) -> int:
    """Estimated busy nanoseconds of an interval (see the module's docstring)."""
    occupied = sum(1 for running in ends if running)
    if occupied == 2:
        return length
    if occupied == 1:
        return length // 2
    if not moved:
        return 0
    return length // 2 if spent_ns is None else min(length, spent_ns)


def _weights(computed: int, output: int, ends: list[int]) -> tuple[list[int], float]:
    """Integer weights of prefill and decode, and the batch size B that they assume.

    Prompt token : output token = 1 : 1 + 295/B, times B's denominator; an idle end does not lower B.
    """
    occupied = [running for running in ends if running] or [1]
    batch, count = sum(occupied), len(occupied)
    weights = [computed * batch, output * (batch + OPS_PER_BYTE * count)]
    return weights if any(weights) else [1, 0], batch / count


def _asleep_ends(before: Counters, after: Counters) -> int:
    return sum(1 for end in (before, after) if end.gauges.get(SIGNAL_AWAKE) == 0)
