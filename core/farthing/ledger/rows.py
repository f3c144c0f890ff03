"""What is written to the ledger and read from it, beside the results of costing."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from farthing.domain.clock import Anchor
from farthing.domain.model import Adjustment, SettledWindow
from farthing.domain.records import RecordKey

__all__ = ["Boot", "Entry", "Posted", "RequestRow"]


@dataclass(frozen=True, slots=True)
class Boot:
    """One life of an engine instance, as it is billed."""

    boot: str
    engine: str
    kind: str
    model: str
    gpu: str
    gpu_count: int
    price_version: str
    anchor: Anchor
    started_ns: int
    """UTC nanoseconds."""
    closed_ns: int | None = None
    """UTC nanoseconds of its end, once nothing can change any more."""
    bill_nano: int = 0
    """Allocation x price from its start to the end of its last window, computed without the windows."""
    lost: int = 0
    """Records that never arrived, came after its end, or are of a rank or process that it did not announce."""
    energy_first_mj: int | None = None
    energy_last_mj: int | None = None
    refused: int = 0
    """Records that intake refused, and that were not mended since."""
    ranks: int = 1
    """Engine indices that share the bill equally."""
    billed_from_ns: int | None = None
    """UTC nanoseconds; what lay before was billed by the engine's counters."""
    covered_ns: int = 0
    """UTC nanoseconds up to where its windows reach, settled or not."""
    read_id: int = field(default=0, compare=False)
    """Of its last record that the books hold the consequences of; changes with every record and is no news."""
    price_content: str = field(default="", compare=False)
    """What ``price_version`` stands for; kept once for each version."""
    costing: str = field(default="", compare=False)
    """JSON of the settings of costing that its windows are made with; as the books first had them, they stay."""
    gpu_uuids: tuple[str, ...] = ()
    """Of its GPUs, in order, as far as anybody told."""
    ended_ns: int | None = None
    """UTC nanoseconds of its end, once no amount of money can change; its energy may still be awaited."""
    given_up_ns: int | None = None
    """UTC nanoseconds up to where it is in the books, once its records cannot be costed any further."""

    @property
    def energy_mj(self) -> int | None:
        """Millijoules by the devices' counters; None without samples."""
        if self.energy_first_mj is None or self.energy_last_mj is None:
            return None
        return self.energy_last_mj - self.energy_first_mj


@dataclass(frozen=True, slots=True)
class Posted:
    """What a posting added; the rest was in the books already."""

    windows: list[SettledWindow]
    requests: list[RequestRow]
    adjustments: list[Adjustment] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Entry:
    """One posting to the ledger: a boot as it stands, and what is new of it."""

    boot: Boot
    requests: tuple[RequestRow, ...]
    windows: tuple[SettledWindow, ...]
    adjustments: tuple[Adjustment, ...] = ()
    """What late records moved in windows that were posted before."""


class RequestRow(msgspec.Struct, frozen=True, gc=False):
    """One request for the ``requests`` table, without its cost: that grows window by window."""

    key: RecordKey
    engine: str
    request_id: str
    ended_wall_ns: int
    tenant: str
    project: str
    workload: str
    tier: str
    model: str
    outcome: str
    status: int
    seen_by: str
    trace_id: str
    prompt_computed: int | None
    prompt_cached: int | None
    image_tokens: int | None
    output_tokens: int | None
    span_id: str = ""
    """Of its edge span; empty without a trace."""
    parent_span_id: str = ""
    estimate_nano: int | None = None
    """What it would cost by the prices that its probe knew when it ended."""
