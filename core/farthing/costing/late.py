"""Records that come after their windows settled: money moves out of ``unattributed``, and nobody else's line changes.

A settled window remembers only what nobody claimed: the units, and the money and energy that went with them. A late
request takes its part of these by the time it overlapped the window. Windows without a remainder are forgotten at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from farthing.costing.settle import ACCOUNT_OF
from farthing.costing.work import WindowWork
from farthing.domain.conventions import DECODE, PREFILL, REASON_FAILED, REASON_LOST, REJECTED, UNATTRIBUTED, VISION
from farthing.domain.model import Adjustment, Posting, SettledWindow
from farthing.domain.records import Usage

__all__ = ["LateBook"]


@dataclass(slots=True)
class _Remainder:
    """What a settled window could not attribute in one phase."""

    units: float
    nano: int
    millijoules: int
    method: str
    model: str
    whole: float = 0.0
    """Units before any late record took its part."""


@dataclass(slots=True)
class _Open:
    window: SettledWindow
    decode_steps: float
    phases: dict[str, _Remainder]


class LateBook:
    """The remainders of one engine index, kept for ``late_ns`` of event time."""

    def __init__(self, late_ns: int) -> None:
        self._late_ns = late_ns
        self._open: deque[_Open] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, window: SettledWindow, work: WindowWork) -> None:
        """Remember what a window left unattributed for want of a record."""
        lost = [posting for posting in window.postings if posting[6] == REASON_LOST]
        phases = {}
        for account, phase, _, _, model, _, _, method, nano, millijoules in lost:
            if account == UNATTRIBUTED and phase and work.unclaimed[phase] > 0:
                units = work.unclaimed[phase]
                phases[phase] = _Remainder(units, nano, millijoules, method, model, units)
        if phases:
            self._open.append(_Open(window, work.totals["decode_steps"], phases))

    def add_energy(self, window: SettledWindow) -> None:
        """Remember the energy of what was left unattributed, once it is known: what late records have not taken yet."""
        for known in self._open:
            if known.window.start_ns != window.start_ns:
                continue
            for posting in window.postings:
                remainder = known.phases.get(posting.phase)
                lost = posting.account == UNATTRIBUTED and posting.reason == REASON_LOST
                # estimated energy has lines of its own, and stays where it is
                if remainder and lost and posting.method == remainder.method:
                    remainder.millijoules = int(posting.millijoules * remainder.units / remainder.whole)

    def forget(self, watermark_ns: int) -> None:
        """Drop what is older than the late horizon."""
        while self._open and self._open[0].window.end_ns + self._late_ns < watermark_ns:
            self._open.popleft()

    def claim(self, usage: Usage, *, since_ns: int = 0, before_ns: int) -> list[Adjustment]:
        """What a late request takes from the windows that it overlapped, of those that began in [since, before).

        ``before_ns`` is where it was measured from, like any other: there it has its claim already.
        """
        adjustments = []
        for settled in self._open:
            if not since_ns <= settled.window.start_ns < before_ns:
                continue
            units = _units(usage, settled)
            postings: list[Posting] = []
            moved: dict[str, int] = {}
            energy = 0
            for phase, remainder in settled.phases.items():
                wanted = min(units.get(phase, 0.0), remainder.units)
                if wanted <= 0:
                    continue
                part = wanted / remainder.units
                nano, millijoules = int(remainder.nano * part), int(remainder.millijoules * part)
                remainder.units -= wanted
                remainder.nano -= nano
                remainder.millijoules -= millijoules
                if nano or millijoules:
                    postings += _moved(usage, phase, remainder, nano, millijoules)
                    moved[phase] = nano
                    energy += millijoules
            if postings:
                window = settled.window
                adjustments.append(
                    Adjustment(
                        boot=window.boot,
                        engine_index=window.engine_index,
                        start_ns=window.start_ns,
                        end_ns=window.end_ns,
                        key=usage.key,
                        postings=tuple(postings),
                        cost_nano=moved,
                        energy_mj=energy,
                        fit_version=window.fit_version,
                    )
                )
        return adjustments


def _moved(usage: Usage, phase: str, remainder: _Remainder, nano: int, millijoules: int) -> list[Posting]:
    """Reversal and repost: the two add up to nothing."""
    account = ACCOUNT_OF[usage.outcome]
    reason = REASON_FAILED if account == UNATTRIBUTED else ""
    method = remainder.method
    return [
        Posting(UNATTRIBUTED, phase, "", "", remainder.model, "", REASON_LOST, method, -nano, -millijoules),
        Posting(
            account, phase, usage.tenant, usage.project, usage.model, usage.tier, reason, method, nano, millijoules
        ),
    ]


def _units(usage: Usage, settled: _Open) -> dict[str, float]:
    """What the request did in a window, by phase: prompts evenly in time, decoding in every step that it was there."""
    start, end = settled.window.start_ns, settled.window.end_ns
    units = {PREFILL: 0.0, DECODE: 0.0, VISION: 0.0}
    image = usage.image_tokens or 0
    for sequence in usage.sequences:
        first = sequence.first_ns if sequence.first_ns is not None else sequence.last_ns
        prefilled = _overlap(sequence.scheduled_ns, first, start, end)
        units[PREFILL] += prefilled * max(0, sequence.prompt_tokens - sequence.cached_tokens)
        units[VISION] += prefilled * image / len(usage.sequences)
        units[DECODE] += min(
            settled.decode_steps * _presence(first, sequence.last_ns, start, end), sequence.output_tokens
        )
    if not usage.sequences and usage.outcome != REJECTED:
        first = usage.first_ns if usage.first_ns is not None else usage.ended_ns
        prefilled = _overlap(usage.arrived_ns, first, start, end)
        prompt = max(0, (usage.prompt_tokens or 0) - (usage.cached_tokens or 0))
        units[PREFILL] += prefilled * prompt
        units[VISION] += prefilled * image
        units[DECODE] += settled.decode_steps * _presence(first, usage.ended_ns, start, end)
    return units


def _presence(begin: int, finish: int, start: int, end: int) -> float:
    """Share of [start, end) in which something that lasted from ``begin`` to ``finish`` was there."""
    return max(0, min(finish, end) - max(begin, start)) / (end - start) if end > start else 0.0


def _overlap(begin: int, finish: int, start: int, end: int) -> float:
    """Share of [begin, finish) that lies in [start, end); an instant lies in the window that holds it."""
    if finish <= begin:
        return 1.0 if start < begin <= end else 0.0
    return max(0, min(finish, end) - max(begin, start)) / (finish - begin)
