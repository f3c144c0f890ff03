"""Energy of boots that only Kubernetes tells the GPUs of: each has that of its own pod's, whenever it is read."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, raw_records
from tests.service.devices import device, without_samples

from farthing.collectors.wire import decode_line
from farthing.domain.clock import SECOND
from farthing.domain.records import RawRecord, Started
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import verify
from farthing.replay.recording import load_recording
from farthing.settings import Settings

END = 1_795_000_000 * SECOND
ENGINE = {"name": "h100", "url": "http://127.0.0.1:8000", "probe": True, "pod": "ml/chat-*"}
SETTINGS = Settings.model_validate({"engines": (ENGINE,)})
LIVED_MJ = 50_636_167
"""253 s, as long as the boot lived, at 200 W."""


def _read(uuid: str, before: int, pod: str, watts: int, *, seconds: int) -> list[RawRecord]:
    """A GPU that draws the same all the time, read from so many seconds before ``END`` on, ten samples a record."""
    at = [END - (before - n) * SECOND for n in range(seconds)]
    energy = [10**9 + watts * 1_000 * n for n in range(seconds)]
    return [
        device(at[n : n + 10], energy[n : n + 10], uuid=uuid, pod=pod, sequence=n // 10 + 1)
        for n in range(0, seconds, 10)
    ]


def _timed(records: Sequence[RawRecord], lag: int) -> list[tuple[int, int, RawRecord]]:
    """When records arrive: so many seconds after what they tell last."""
    start = next((one for one in records if one.kind == "started"), None)
    started = None if start is None else decode_line(start.line)
    to_wall = started.anchor.to_wall if isinstance(started, Started) else int
    return [(to_wall(one.event_ns) + lag * SECOND, number, one) for number, one in enumerate(records)]


@pytest.mark.parametrize("lag", [0, 2, 35, 60])
def test_a_boot_has_the_energy_of_its_own_pods_gpu_though_the_old_pods_is_read_first(lag):
    """A rollout whose new GPU is told late: for half a minute the old pod is all that is known of the engine."""
    recording = load_recording("h100-llama8b-vllm0.26")
    boot = without_samples(raw_records(recording, wall_start_ns=END - 600 * SECOND), ())
    old, new = (
        _read("GPU-a", 1_250, "ml/chat-1", 300, seconds=710),
        _read("GPU-b", 620, "ml/chat-2", 200, seconds=620),
    )
    timed = [*_timed(old, 2), *_timed(new, lag), *_timed(boot, 1)]
    arriving = [record for *_, record in sorted(timed, key=lambda one: one[:2])]
    ledger = Ledger.open("sqlite://")
    books = accountant(ledger, SETTINGS)
    for begin in range(0, len(arriving), 50):
        ledger.add(arriving[begin : begin + 50])
        books.advance()
    b = t.boots.c
    ((uuids, energy, closed),) = ledger.select(sa.select(b.gpu_uuids, b.energy_last_mj, b.closed_ns))
    assert json.loads(uuids) == ["GPU-b"]
    assert closed is not None
    ((windows,),) = ledger.select(sa.select(sa.func.sum(t.windows.c.energy_mj)))
    assert (energy, windows) == (LIVED_MJ, LIVED_MJ)
    assert [check for check in verify(ledger.engine) if not check.ok] == []
