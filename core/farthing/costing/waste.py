"""Work that served nobody, by cause: what it cost in settled windows. Information beside the books, not their lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from farthing.costing import fit as f
from farthing.domain.conventions import ABORTED, IDLE, REASON_FAILED, REASON_PREEMPTION
from farthing.domain.model import SettledWindow

__all__ = ["CAUSES", "wasted"]

SPECULATION = "rejected_speculation"
CAUSES = (ABORTED, REASON_PREEMPTION, REASON_FAILED, SPECULATION, IDLE)


def wasted(windows: Iterable[SettledWindow]) -> dict[str, int]:
    """Nano-dollars by cause: aborted requests, work computed again after preemptions, requests that the platform
    failed, draft tokens that were rejected, and idle time.

    Rejected drafts are what was scheduled to decode beyond what was emitted, at the window's modelled cost per token;
    they stay in their tenants' decode, so causes may overlap with charges but not with one another.
    """
    total: Counter[str] = Counter(dict.fromkeys(CAUSES, 0))
    for window in windows:
        for posting in window.postings:
            if posting.account in (ABORTED, IDLE):
                total[posting.account] += posting.nano
            elif posting.reason in (REASON_PREEMPTION, REASON_FAILED):
                total[posting.reason] += posting.nano
        total[SPECULATION] += _rejected(window)
    return dict(total)


def _rejected(window: SettledWindow) -> int:
    if window.fit is None or not window.busy_ns:
        return 0
    scheduled, emitted = window.features.get(f.DECODE_TOKENS, 0.0), window.tokens.get("engine_output", 0)
    # without speculation a step schedules one token a request, and emits it, or the first token of a prefill
    beyond = scheduled - emitted
    if beyond <= 0:
        return 0
    seconds = beyond * window.fit.coefficients[f.DECODE_TOKENS]
    busy_nano = sum(posting.nano for posting in window.postings if posting.phase)
    return round(busy_nano * min(1.0, seconds * 1e9 / window.busy_ns))
