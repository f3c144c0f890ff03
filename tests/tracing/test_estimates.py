"""Estimates of recorded requests, as a probe in their engine makes them, against what they cost in the end."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import pytest

from farthing.collectors.wire import decode_raw
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.records import RecordKey, Started, StepBatch, Usage
from farthing.replay.recording import load_recording
from farthing.replay.wire_records import wire_records
from farthing.service.boot_account import BootAccount, costing_options
from farthing.service.ordering import BootOrder
from farthing.service.server import price_book
from farthing.service.unit_prices import UnitPrices
from farthing.settings import Settings
from farthing_probe.company import Company
from farthing_probe.edge_span import estimate_nano

TEXT, DEVICES, VISION = "h100-llama8b-vllm0.26", "h100-llama8b-devices-vllm0.26", "h100-qwen2vl7b-vllm0.26"
POSTED_NS = 2 * SECOND
"""Until a post of the probe's has brought back what is settled."""


@dataclass
class Costed:
    """A recording as the service costs it while it goes on."""

    usages: list[Usage] = field(default_factory=list)
    company: Company = field(default_factory=Company)
    cost_nano: Counter[RecordKey] = field(default_factory=Counter)
    told_ns: list[int] = field(default_factory=list)
    prices: list[dict[str, int]] = field(default_factory=list)
    """What intake answers, from each of the moments before."""
    to_mono_ns: int = 0

    def take(self, account: BootAccount, prices: UnitPrices, at_ns: int) -> None:
        """Book what was settled by a moment."""
        for entry in account.drain():
            for window in entry.windows:
                for request in window.requests:
                    self.cost_nano[request.key] += sum(request.cost_nano.values())
            for adjustment in entry.adjustments:
                self.cost_nano[adjustment.key] += sum(adjustment.cost_nano.values())
            if entry.windows:
                prices.observe(account.started, "e", entry.windows)
                self.told_ns.append(at_ns + POSTED_NS)
                self.prices.append(prices.of([account.started.key.boot]).get("e", {}))

    def estimates(self, *, without: frozenset[str] = frozenset()) -> Iterator[tuple[int, int]]:
        """(estimate, cost) of each finished request that ended once there were prices; ``without`` some of them."""
        for usage in self.usages:
            known = bisect_right(self.told_ns, usage.ended_ns + self.to_mono_ns) - 1
            cost = self.cost_nano[usage.key]
            if usage.outcome != c.FINISHED or known < 0 or not self.prices[known] or not cost:
                continue
            told = {name: nano for name, nano in self.prices[known].items() if name not in without}
            fields = asdict(usage)
            parts = [self.company.parts(s.first_ns or s.last_ns, s.last_ns) for s in usage.sequences]
            estimate = estimate_nano(told, fields, sum(part or 0.0 for part in parts))
            assert estimate is not None
            yield estimate, cost


def costed(name: str) -> Costed:
    """A recording, record by record."""
    settings, found, prices, account = Settings(), Costed(), UnitPrices(), None
    recording = load_recording(name)
    options = costing_options(settings)
    order = BootOrder(options.grace_ns)
    for timed in wire_records(recording, boot="b", engine="e"):
        order.add(decode_raw(json.dumps(timed.record, separators=(",", ":")).encode()))
        for record in order.ready():
            if isinstance(record, Started):
                tariff = price_book(settings).tariff(record.gpu, record.gpu_count)
                account = BootAccount(record, tariff, "e", options)
                found.to_mono_ns = record.anchor.to_wall(0)
            assert account is not None
            account.feed(record)
            if isinstance(record, Usage):
                found.usages.append(record)
            elif isinstance(record, StepBatch):
                marks = record.marks
                for at_ns, prefills, decodes in zip(
                    marks.at_ns, marks.prefill_requests, marks.decode_requests, strict=True
                ):
                    found.company.add(at_ns, prefills + decodes)
            found.take(account, prices, timed.wall_ns)
    assert account is not None
    account.end()
    found.take(account, prices, recording.end_ns)
    return found


@pytest.mark.parametrize(("name", "share"), [(TEXT, 0.99), (DEVICES, 0.99), (VISION, 0.5)])
def test_an_estimate_is_within_a_fifth_of_what_the_request_cost(name: str, share: float):
    """While 1 to 128 requests run at once, of which the means of the minutes before know nothing.

    Of pictures nobody tells which were encoded, and which were in a cache.
    """
    found = costed(name)
    shown = list(found.estimates())
    assert len(shown) > 800
    near = sum(abs(estimate - cost) <= cost / 5 for estimate, cost in shown)
    assert near >= share * len(shown)
    estimated, cost = map(sum, zip(*shown, strict=True))
    assert abs(estimated - cost) <= (0.03 if name != VISION else 0.15) * cost
    by_means = list(found.estimates(without=frozenset({"steps"})))
    assert sum(abs(estimate - cost) <= cost / 5 for estimate, cost in by_means) < near / 2
