"""Boots against their price and their settled lines, and versions and fits against what they are named for."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from farthing.books.closing import BilledBoot
from farthing.books.tariff import Tariff, parse_tariff
from farthing.costing.energy import ENERGY_FEATURES
from farthing.domain import conventions as c
from farthing.domain.errors import PriceError
from farthing.ledger import tables as t
from farthing.ledger.verify_sums import Found, Scope, stream

__all__ = [
    "boots_are_settled_and_in_progress",
    "boots_used_no_less_than_their_windows",
    "fits_are_kept",
    "versions_are_kept",
]


def boots_are_settled_and_in_progress(scope: Scope) -> Found:
    """Every boot's settled lines and its work in progress, computed from its price, are its bill.

    An engine that is costed from its counters has one bill for all its boots. Without the content of its price a boot
    that is not closed can only be held to settle no more than its bill.
    """
    settled: dict[str, int] = {}
    lines = sa.select(t.boot_lines.c.boot, sa.func.sum(t.boot_lines.c.nano)).group_by(t.boot_lines.c.boot)
    for boot, nano in scope.rows(lines):
        settled[boot] = int(nano)
    reach: defaultdict[str, Counter[int]] = defaultdict(Counter)
    w = t.windows.c
    ends = sa.select(w.boot, w.engine_index, sa.func.max(w.wall_end_ns)).group_by(w.boot, w.engine_index)
    for boot, rank, end in scope.rows(ends):
        reach[boot][int(rank)] = int(end)
    groups: dict[str, list[Any]] = {}
    for row in scope.rows(sa.select(t.boots).order_by(t.boots.c.started_ns, t.boots.c.boot)):
        scraped = row.boot.startswith(c.SCRAPED_BOOT)
        groups.setdefault(f"{c.SCRAPED_BOOT}{row.engine}" if scraped else row.boot, []).append(row)
    tariffs = _tariffs(scope)
    total = sum(len(rows) for rows in groups.values())
    for name, rows in groups.items():
        own = sum(settled.pop(row.boot, 0) for row in rows)
        last: Counter[int] = Counter()
        for row in rows:
            last |= reach[row.boot]
        bad = _boot(rows, own, last, tariffs)
        if bad:
            return Found(total, f"boots: {name}: {bad}")
    for boot, nano in settled.items():
        if nano and not boot.startswith(c.CAPACITY_BOOT):
            return Found(total, f"boots: {boot}: {nano} nano are settled and the boot is not there")
    return Found(total)


def boots_used_no_less_than_their_windows(scope: Scope) -> Found:
    """The energy of a boot's windows is no more than what its devices counted; they may count on after the last."""
    b, w = t.boots.c, t.windows.c
    counted = b.energy_last_mj - b.energy_first_mj
    query = (
        sa.select(b.boot, counted, sa.func.sum(w.energy_mj))
        .join_from(t.boots, t.windows, w.boot == b.boot)
        .group_by(b.boot, b.energy_last_mj, b.energy_first_mj)
        .having(sa.func.coalesce(sa.func.sum(w.energy_mj), 0) > sa.func.coalesce(counted, 0))
    )
    row = scope.connection.execute(query.where(scope.live(t.windows)).order_by(b.boot).limit(1)).first()
    bad = "" if row is None else f"boots: {row[0]}: its devices counted {row[1]} mJ, and its windows have {row[2]}"
    return Found(scope.count(t.boots), bad)


def versions_are_kept(scope: Scope) -> Found:
    """Every version that is cited is kept, and its content is what it was named for."""
    kept = {(row.kind, row.version): row.content for row in scope.rows(sa.select(t.versions))}
    for (kind, version), content in kept.items():
        digest = version.rpartition(":" if kind == "price" else "+")[2]
        # versions of the first ledgers are not named for their content
        if len(digest) == 12 and hashlib.sha256(content.encode()).hexdigest()[:12] != digest:
            return Found(len(kept), f"versions: {kind} {version} is not what it was named for")
    cited = {("price", row[0]) for row in scope.rows(sa.select(t.boots.c.price_version).distinct())}
    j = t.journal.c
    cited |= {("price", row[0]) for row in scope.rows(sa.select(j.price_version).distinct())}
    cited |= {("policy", row[0]) for row in scope.rows(sa.select(j.policy_version).distinct())}
    cited |= {("policy", row[0]) for row in scope.rows(sa.select(t.closings.c.policy_version).distinct())}
    # what settlement does is told by its own name, and a shared cost is priced by the policy that states it
    cited -= {("policy", c.POLICY_VERSION)}
    cited -= {("price", version) for kind, version in kept if kind == "policy"}
    missing = sorted(cited - kept.keys())
    bad = f"versions: {missing[0][0]} {missing[0][1]} is cited, and nothing tells what it stands for" if missing else ""
    return Found(len(kept), bad)


def fits_are_kept(scope: Scope) -> Found:
    """Every fit has the coefficients and the windows that it is named for, and every window's fit is kept."""
    f, w = t.fits.c, t.windows.c
    rows = 0
    for row in stream(scope.connection, sa.select(f.version, f.boot, f.method, f.evidence)):
        rows += 1
        if not _is_named_for(row.version, row.evidence) or row.method not in c.METHODS:
            return Found(rows, f"fits: {row.version} of boot {row.boot} is not what it was named for")
    kept = sa.select(f.version).where(f.version == w.fit_version, f.boot == w.boot, f.engine_index == w.engine_index)
    query = sa.select(w.boot, w.fit_version).where(~kept.exists(), ~w.boot.startswith(c.SCRAPED_BOOT, autoescape=True))
    found = scope.connection.execute(query.limit(1)).first()
    bad = "" if found is None else f"fits: {found.fit_version} of boot {found.boot} is cited and not kept"
    return Found(rows, bad)


def _is_named_for(version: str, evidence: str) -> bool:
    try:
        fit = json.loads(evidence)
        coefficients = [float(fit["coefficients"][name]) for name in ENERGY_FEATURES if name in fit["coefficients"]]
        digest = hashlib.sha256(struct.pack(f"<{len(coefficients)}d", *coefficients)).hexdigest()[:12]
        return version.endswith(f"-{fit['windows']}-{digest}")
    except (ValueError, KeyError, TypeError):
        return False


def _tariffs(scope: Scope) -> Mapping[str, Tariff]:
    v = t.versions.c
    found = {}
    for version, content in scope.rows(sa.select(v.version, v.content).where(v.kind == "price")):
        try:
            found[version] = parse_tariff(content)
        except PriceError:
            continue
    return found


def _boot(rows: list[Any], settled: int, reach: Mapping[int, int], tariffs: Mapping[str, Tariff]) -> str:
    """What is wrong with a boot's bill, or with all boots of an engine that is costed from its counters."""
    if bad := next(filter(None, map(_ends, rows)), ""):
        return bad
    bill = sum(int(row.bill_nano) for row in rows)
    closed = all(row.closed_ns is not None for row in rows)
    last = rows[-1]
    tariff = tariffs.get(last.price_version)
    if settled > bill or (closed and settled != bill):
        return f"{settled} nano are settled of a bill of {bill}{', and it is closed' * closed}"
    if tariff is None:
        return ""
    billed = BilledBoot(
        name=last.boot,
        engine=last.engine,
        tariff=tariff,
        started_ns=min(int(row.started_ns) for row in rows),
        covered_ns=max(int(row.covered_ns) for row in rows),
        ended=closed,
        ranks=int(last.ranks),
        billed_from_ns=last.billed_from_ns,
    )
    try:
        return _priced(billed, bill, settled, reach)
    except PriceError as error:
        return f"its price {tariff.version} does not cover its time: {error}"


def _ends(row: Any) -> str:
    """What is wrong with the moments at which a boot ended."""
    if row.closed_ns is not None and row.closed_ns != row.ended_ns:
        return f"it closed at {row.closed_ns} and ended at {row.ended_ns}"
    if row.given_up_ns is not None and (row.closed_ns is not None or row.given_up_ns != row.covered_ns):
        return f"its costing was given up at {row.given_up_ns}, and it is covered up to {row.covered_ns}"
    return ""


def _priced(boot: BilledBoot, bill: int, settled: int, reach: Mapping[int, int]) -> str:
    priced = sum(boot.share(rank, max(boot.covered_ns, reach.get(rank, 0))) for rank in range(boot.ranks))
    # the windows of a rank that is ahead of the others reach further than all of them do
    if priced != bill and (boot.ended or boot.ranks == 1 or priced > bill):
        return f"its bill is {bill} nano, and {priced} by its price {boot.tariff.version}"
    own = sum(boot.share(rank, end) for rank, end in reach.items())
    if reach and settled != own:
        return f"{settled} nano are settled, and {own} by its price {boot.tariff.version} for the time of its windows"
    if reach and boot.ended and boot.ranks == 1 and reach[0] != boot.covered_ns:
        return f"it is closed and covered up to {boot.covered_ns}, and its windows reach up to {reach[0]}"
    return ""
