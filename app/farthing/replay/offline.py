"""A whole recording through costing as fast as it goes: deterministic, and the same path as live records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from farthing.books.prices import PriceBook
from farthing.collectors.engines.catalogue import load_catalogue, read_signals
from farthing.collectors.engines.exposition import parse_exposition
from farthing.collectors.wire import decode_raw
from farthing.costing.checks import reconcile
from farthing.costing.stream import Options
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND, utc
from farthing.domain.errors import RecordingError
from farthing.domain.model import Check, Posting
from farthing.domain.records import RawRecord, Started
from farthing.ledger.repository import Entry, Ledger
from farthing.replay.recording import Recording
from farthing.replay.wire_records import wire_records
from farthing.service.boot_account import BootAccount, costing_options
from farthing.service.ordering import BootOrder
from farthing.service.views import unit_costs
from farthing.settings import Settings

__all__ = ["OfflineRun", "cost_recording", "to_json"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OfflineRun:
    """A costed recording: the account, what it would post, its raw records and its checks."""

    recording: Recording
    accounts: tuple[BootAccount, ...]
    """One for each boot of the engine, in order."""
    entries: tuple[Entry, ...]
    """What each account would post."""
    raw: tuple[RawRecord, ...]
    bill_nano: int
    """The recording's span x price; of a recording with several boots, the spans of its boots."""
    checks: tuple[Check, ...]

    @property
    def account(self) -> BootAccount:
        """The last boot's."""
        return self.accounts[-1]

    @property
    def entry(self) -> Entry:
        """All boots' entries as one, under the last boot."""
        return Entry(
            self.entries[-1].boot,
            tuple(row for entry in self.entries for row in entry.requests),
            tuple(window for entry in self.entries for window in entry.windows),
            tuple(adjustment for entry in self.entries for adjustment in entry.adjustments),
        )

    @property
    def wip(self) -> dict[str, int]:
        """Work in progress of all boots: phase or account -> nano-dollars."""
        total: Counter[str] = Counter()
        for account in self.accounts:
            total.update(account.wip())
        return dict(total)

    @property
    def energy_mj(self) -> int | None:
        """Millijoules of all boots; None without samples."""
        known = [account.energy_mj for account in self.accounts if account.energy_mj is not None]
        return sum(known) if known else None

    def write(self, ledger: Ledger) -> None:
        """Store the records and post the books; what the ledger has already stays as it is."""
        ledger.add(self.raw)
        for entry in self.entries:
            ledger.post(entry.boot, entry.requests, entry.windows, entry.adjustments)


def cost_recording(recording: Recording, settings: Settings, prices: PriceBook) -> OfflineRun:
    """Cost a recording. Equal recordings, settings and prices give equal books."""
    boot = f"recording:{recording.name}:{recording.start_ns}"
    raw = tuple(
        decode_raw(json.dumps(timed.record, separators=(",", ":")).encode())
        for timed in wire_records(recording, boot=boot, engine=recording.name)
    )
    options = costing_options(settings)
    boots: dict[str, list[RawRecord]] = {}
    for record in raw:
        boots.setdefault(record.key.boot, []).append(record)
    accounts = tuple(_account(recording, records, prices, options) for records in boots.values())
    entries = tuple(entry for account in accounts for entry in account.drain())
    bills = _bills(recording, accounts)
    return OfflineRun(
        recording=recording,
        accounts=accounts,
        entries=entries,
        raw=raw,
        bill_nano=sum(bills),
        checks=_checks(recording, accounts, entries, bills),
    )


def _checks(
    recording: Recording, accounts: Sequence[BootAccount], entries: Sequence[Entry], bills: Sequence[int]
) -> tuple[Check, ...]:
    """Every boot's checks by name; of boots that disagree, the red one's."""
    merged: dict[str, Check] = {}
    for account, entry, bill in zip(accounts, entries, bills, strict=True):
        lines: Counter[str] = Counter()
        for posting in _postings(entry):
            lines[posting.account] += posting.nano
        # an engine's counters begin anew with each boot, and the last exposition is the last boot's
        evidence = account.evidence(lines, _counters(recording) if account is accounts[-1] else None)
        for check in reconcile(replace(evidence, bill_nano=bill)):
            if check.name not in merged or merged[check.name].ok:
                merged[check.name] = check
    return tuple(merged.values())


def _account(recording: Recording, records: Iterable[RawRecord], prices: PriceBook, options: Options) -> BootAccount:
    """One boot's account, with all of its records in it."""
    order = BootOrder(options.grace_ns)
    account: BootAccount | None = None
    for raw in records:
        order.add(raw)
    for ordered in order.ready(final=True):
        if account is None:
            if not isinstance(ordered, Started):
                raise RecordingError(f"{recording.name}: its first record is not a start")
            account = BootAccount(ordered, prices.tariff(ordered.gpu, ordered.gpu_count), recording.name, options)
        account.feed(ordered)
    if account is None:
        raise RecordingError(f"{recording.name}: holds no records")
    account.missing = order.missing
    account.end()
    return account


def _bills(recording: Recording, accounts: Sequence[BootAccount]) -> list[int]:
    """Nano-dollars of the span, by boot: not what the accounts have billed, so that a tail that got lost shows."""
    if not recording.boots:
        return [accounts[0].tariff.bill(recording.start_ns, recording.end_ns)]
    bills = []
    for account, records in zip(accounts, recording.boots, strict=True):
        first, last = records[0], max(row["at_ns"] for row in records if row["kind"] == "lifecycle")
        bills.append(account.tariff.bill(first["wall_ns"], first["wall_ns"] + last - first["at_ns"]))
    return bills


def to_json(run: OfflineRun) -> Json:
    """The stable JSON of a replay (schema in docs/replay.md)."""
    entry = run.entry
    postings, windows = _postings(entry), entry.windows
    accounts: Counter[str] = Counter()
    phases: dict[str, Counter[str]] = {account: Counter() for account in c.ACCOUNTS}
    reasons: Counter[str] = Counter()
    by_method: Counter[tuple[str, str, str]] = Counter()
    for p in postings:
        accounts[p.account] += p.nano
        phases[p.account][p.phase] += p.nano
        by_method[p.account, p.phase, p.method] += p.nano
        if p.account == c.UNATTRIBUTED:
            reasons[p.reason] += p.nano
    wip = run.wip
    counts: Counter[str] = Counter()
    for window in windows:
        counts.update(window.tokens)
    requests = entry.requests
    energy = run.energy_mj
    return {
        "schema_version": c.REPLAY_SCHEMA_VERSION,
        "policy_version": c.POLICY_VERSION,
        "engine": run.account.engine,
        "window": [_moment(run.recording.start_ns), _moment(run.recording.end_ns)],
        "bill_nano_usd": run.bill_nano,
        "charged_nano_usd": {phase: phases[c.CHARGED][phase] for phase in c.PHASES},
        "aborted_nano_usd": {phase: phases[c.ABORTED][phase] for phase in c.PHASES},
        **{f"{account}_nano_usd": accounts[account] for account in (c.STARTING, c.IDLE, c.ASLEEP, c.DOWN)},
        "unattributed_nano_usd": dict(sorted(reasons.items())),
        "wip_nano_usd": {phase: wip.get(phase, 0) for phase in sorted({*c.PHASES, *wip})},
        "residual_nano_usd": run.bill_nano - sum(accounts.values()) - sum(wip.values()),
        "busy_seconds": sum(window.busy_ns for window in windows) / SECOND,
        "phase_seconds": {p: sum(window.phase_ns.get(p, 0) for window in windows) / SECOND for p in c.PHASES},
        "fit": _fit(run),
        "tokens": {
            c.TOKEN_PROMPT_COMPUTED: counts["prompt_computed"],
            c.TOKEN_PROMPT_CACHED: counts["prompt_cached"],
            c.TOKEN_OUTPUT: sum(row.output_tokens or 0 for row in requests),
            c.TOKEN_IMAGE: sum(row.image_tokens or 0 for row in requests),
            c.TOKEN_ENGINE_OUTPUT: counts["engine_output"],
        },
        "requests": {
            outcome: sum(row.outcome == outcome for row in requests) for outcome in (c.FINISHED, c.ABORTED, c.FAILED)
        },
        "tenants": _tenants(run, postings),
        "usd_per_million": {p: None if n is None else n / 1e9 for p, n in unit_costs(by_method, counts).items()},
        "energy_joules": None if energy is None else energy / 1_000,
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in run.checks],
    }


def _postings(entry: Entry) -> list[Posting]:
    return [posting for window in entry.windows for posting in window.postings]


def _fit(run: OfflineRun) -> Json | None:
    fit = run.account.fit()
    if fit is None:
        return None
    return {
        "method": fit.method,
        "walk_forward_wape": fit.walk_forward_wape,
        "coefficients": fit.coefficients,
        "intervals": {n: [low, None if high == float("inf") else high] for n, (low, high) in fit.intervals.items()},
    }


def _tenants(run: OfflineRun, postings: list[Posting]) -> Json:
    requests = run.entry.requests
    names = sorted({row.tenant for row in requests} | {p.tenant for p in postings if p.account == c.CHARGED})
    tenants: Json = {}
    for name in names:
        phases = dict.fromkeys(c.PHASES, 0)
        aborted = 0
        for posting in postings:
            if posting.tenant == name and posting.account == c.CHARGED:
                phases[posting.phase] += posting.nano
            elif posting.tenant == name and posting.account == c.ABORTED:
                aborted += posting.nano
        rows = [row for row in requests if row.tenant == name]
        tenants[name] = {
            "cost_nano_usd": sum(phases.values()),
            "by_phase": phases,
            "aborted_nano_usd": aborted,
            "requests": len(rows),
            "tokens": {
                c.TOKEN_PROMPT_COMPUTED: sum(row.prompt_computed or 0 for row in rows),
                c.TOKEN_PROMPT_CACHED: sum(row.prompt_cached or 0 for row in rows),
                c.TOKEN_IMAGE: sum(row.image_tokens or 0 for row in rows),
                c.TOKEN_OUTPUT: sum(row.output_tokens or 0 for row in rows),
            },
        }
    return tenants


def _counters(recording: Recording) -> dict[str, int]:
    """The engine's own totals at the last scrape, in the checks' terms."""
    name = f"{recording.name}/metrics.jsonl.gz"
    exposition = parse_exposition(recording.last_exposition().encode(), "text/plain; version=0.0.4", name)
    values = read_signals(load_catalogue("vllm"), exposition, name).values
    found = {
        "first_tokens": values.get(c.SIGNAL_FIRST_TOKENS),
        "prompt_computed": values.get(c.SIGNAL_COMPUTED),
        "engine_output": values.get(c.SIGNAL_GENERATION),
    }
    return {key: value for key, value in found.items() if value is not None}


def _moment(wall_ns: int) -> str:
    """RFC 3339 with nanoseconds."""
    whole = utc(wall_ns) - timedelta(microseconds=utc(wall_ns).microsecond)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{wall_ns % SECOND:09d}Z"
