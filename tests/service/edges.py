"""Closings around which something happens, and what every ledger has to withstand after them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.service.books import accountant, raw_of
from tests.service.closings import SETTINGS, close, documents, identity
from tests.service.test_scraped_engine import counters, scraped_start

from farthing.books.periods import bounds
from farthing.books.policy import Policy
from farthing.domain.clock import SECOND
from farthing.domain.records import RawRecord
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import verify
from farthing.service.closing import Closed
from farthing.service.evidence import export_evidence, verify_evidence
from farthing.service.issued import issued_statements
from farthing.settings import CapacitySettings, EngineSettings, Settings

__all__ = ["CAPACITY", "NODE", "capacity", "counted", "proven", "shifted", "through"]

NODE: dict[str, Any] = {
    "name": "node",
    "gpu": "H100-SXM",
    "gpus": 1,
    "kind": "on_demand",
    "usd_per_hour": "3.6",
    "from": "2026-11-01",
}
"""A GPU for a thousandth of a dollar a second."""
_ENGINE = EngineSettings(name="h100", url="http://127.0.0.1:8000", probe=True, capacity="node")


def capacity(*engines: EngineSettings, terms: Sequence[dict[str, Any]] = (NODE,)) -> Settings:
    """Settings with engines on bought capacity."""
    bought = tuple(CapacitySettings.model_validate(term) for term in terms)
    return SETTINGS.model_copy(update={"engines": engines or (_ENGINE,), "capacity": bought})


CAPACITY = capacity()


def shifted(rows: Sequence[dict[str, Any]], period: str, seconds: float) -> list[RawRecord]:
    """Wire records whose first boot starts so many seconds before a period ends."""
    _, end = bounds(period)
    first = next(row["wall_ns"] for row in rows if row["kind"] == "started")
    later = end - round(seconds * SECOND) - first
    return raw_of({**row, "wall_ns": row["wall_ns"] + later} if row["kind"] == "started" else row for row in rows)


def counted(boot: str, begin: int, count: int, *, engine: str = "h100") -> list[RawRecord]:
    """A scraped boot: its start, and so many scrapes of 100 tokens, 2 s apart; ``begin`` in seconds, UTC."""
    started = {**scraped_start(begin, boot), "engine": engine}
    return raw_of([started, *(counters(n, begin + 2 * n, 100 * n, boot) for n in range(1, count + 1))])


def through(  # noqa: PLR0917 - a ledger, what arrives, when it is closed, and by what
    ledger: Ledger,
    raw: Sequence[RawRecord],
    closings: Sequence[tuple[str, float]],
    folder: Path,
    settings: Settings = SETTINGS,
    policy: Policy | None = None,
) -> list[Closed]:
    """Close period after period, each when a part of all records has arrived, by accountants that were restarted."""
    closed: list[Closed] = []
    at = 0
    for period, part in closings:
        until = round(len(raw) * part)
        ledger.add(raw[at:until])
        at = until
        accountant(ledger, settings).advance()
        before = documents(ledger)
        closed.append(close(ledger, period, settings, policy))
        identity(closed[-1])
        assert documents(ledger).items() >= before.items()
        assert all(boot.closing_wip_nano >= 0 for boot in closed[-1].document.boots)
    for one, two in pairwise(closed):
        assert two.document.facts.opening_wip_nano == one.document.facts.closing_wip_nano
    proven(ledger, folder)
    return closed


def proven(ledger: Ledger, folder: Path) -> None:
    """The ledger verifies, and of every closed period the last statement recomputes from its evidence alone."""
    assert [check for check in verify(ledger.engine) if not check.ok] == []
    last = {one.period: one.number for one in issued_statements(ledger, None, None)}
    assert last
    for number in last.values():
        file = folder / f"{number}.zip"
        export_evidence(ledger, number, file)
        _, verdicts = verify_evidence(file)
        assert [one for one in verdicts if not one.ok] == []
