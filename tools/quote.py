"""Writes what README.md and docs/ quote of the recorded runs, after a change to costing or prices.

``python tools/quote.py`` rewrites the marked blocks; with ``--check`` it names those that are not current. The tests
compute the same numbers by themselves, so a block is never right merely because this program wrote it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from farthing.domain import conventions as c
from farthing.domain.money import from_nano
from farthing.exporters.report import render
from farthing.ledger.repository import Ledger
from farthing.replay.offline import Json, OfflineRun, cost_recording, to_json
from farthing.replay.recording import load_recording
from farthing.service.reports import report
from farthing.service.server import price_book
from farthing.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (ROOT / "README.md", ROOT / "docs" / "concepts.md")
TEXT, VISION = "h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26"
LEFT_OUT: Final = "vision"
"""A column of the report that is empty for a text model, and that the page has no room for."""
_BLOCK: Final = re.compile(r"(<!-- quoted: (?P<name>[a-z-]+) -->\n).*?(\n<!-- end of quote -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Runs:
    """Both recordings, costed."""

    text: OfflineRun
    vision: OfflineRun

    @property
    def result(self) -> Json:
        """The text model's result."""
        return to_json(self.text)


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 1 when a block was not current and only to be checked."""
    blocks = quotes(_cost(TEXT), _cost(VISION))
    status = 0
    for page in PAGES:
        there = page.read_text(encoding="utf-8")
        text = quoted(there, blocks)
        if text == there:
            continue
        name = page.relative_to(ROOT)
        if "--check" in arguments:
            sys.stderr.write(f"{name} quotes old numbers; run python tools/quote.py\n")
            status = 1
        else:
            page.write_text(text, encoding="utf-8", newline="\n")
            sys.stdout.write(f"wrote {name}\n")
    return status


def quoted(text: str, blocks: Mapping[str, str]) -> str:
    """The page with every marked block replaced; KeyError for a block that nobody makes."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{blocks[match['name']].strip()}\n{match[3]}", text)


def quotes(text: OfflineRun, vision: OfflineRun) -> dict[str, str]:
    """Name -> text of every block."""
    runs = Runs(text, vision)
    makers: Mapping[str, Callable[[Runs], str]] = {
        "report": _report,
        "identity": _identity,
        "error": _error,
        "peers": _peers,
        "company": _company,
    }
    return {name: make(runs) for name, make in makers.items()}


def _cost(name: str) -> OfflineRun:
    settings = Settings()
    return cost_recording(load_recording(name), settings, price_book(settings))


def _report(runs: Runs) -> str:
    """The report by tenant, indented as code."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
        try:
            runs.text.write(ledger)
            table = report(ledger, datetime(1970, 1, 1, tzinfo=UTC), "tenant", Settings().currency)
        finally:
            ledger.close()
    keep = [i for i, column in enumerate(table.columns) if column.key != LEFT_OUT]
    short = replace(
        table,
        columns=tuple(table.columns[i] for i in keep),
        rows=tuple(tuple(row[i] for i in keep) for row in table.rows),
        total=tuple(table.total[i] for i in keep) if table.total else None,
        title="",
        notes=(),
    )
    lines = [line.rstrip() for line in render(short, "table", color=False).splitlines()]
    body = [line for line in lines if line and not line.startswith("Amounts are in")]
    return "```text\n" + "".join(f"{line.removeprefix(' ')}\n" for line in body) + "```"


def _identity(runs: Runs) -> str:
    result = runs.result
    charged, unattributed = result["charged_nano_usd"], sum(result["unattributed_nano_usd"].values())
    aborted = result["requests"]["aborted"]
    rows = (
        ("**bill**", result["bill_nano_usd"], "first to last record × price"),
        ("prefill", charged[c.PREFILL], ""),
        ("decode", charged[c.DECODE], ""),
        ("vision", charged[c.VISION], "a text model"),
        (
            "aborted",
            sum(result["aborted_nano_usd"].values()),
            f"{aborted} requests whose clients hung up; the engine's statistics of finished requests leave them out",
        ),
        ("starting, asleep", result["starting_nano_usd"] + result["asleep_nano_usd"], ""),
        ("idle", result["idle_nano_usd"], ""),
        ("down", result["down_nano_usd"], "the engine was gone at the end"),
        (
            "unattributed",
            unattributed,
            f"{100 * unattributed / _busy(result):.3f} % of the busy cost: engine work that no record claims",
        ),
        ("work in progress", sum(result["wip_nano_usd"].values()), "the run is over"),
        ("**residual**", result["residual_nano_usd"], "bill minus all the lines"),
    )
    head = "| line | USD | |\n|---|---:|---|\n"
    return head + "".join(_identity_row(*row) for row in rows)


def _identity_row(name: str, nano: int, note: str) -> str:
    amount = f"{from_nano(nano):.9f}"
    bold = f"**{amount}**" if name.startswith("*") else amount
    return f"| {name} | {bold} | {note}{' ' if note else ''}|\n"


def _error(runs: Runs) -> str:
    text, vision = (to_json(run)["fit"]["walk_forward_wape"] * 100 for run in (runs.text, runs.vision))
    return (
        "Which parts are measured: the bill, busy time and idle time are *metered*. The split of busy time into phases "
        "is *modelled*: a non-negative fit that predicts each next window of busy time from those before it with an "
        f"error of {text:.1f} % on this run, {vision:.1f} % on the recorded vision model."
    )


def _peers(runs: Runs) -> str:
    """Prompts' share of the cost by the engine's counters of request times, and by its steps."""
    exposition = runs.text.recording.last_exposition()
    prefill, decode, means = (
        _sum_of(exposition, name)
        for name in (
            "request_prefill_time_seconds",
            "request_decode_time_seconds",
            "request_time_per_output_token_seconds",
        )
    )
    steps = runs.result["phase_seconds"][c.PREFILL] / runs.result["busy_seconds"]
    return (
        "OpenCost's inference costing (pull request 3845), for one, weighs prefill time against "
        "`request_time_per_output_token_seconds_sum`, which is a sum of per-request means. On the run above that books "
        f"{100 * prefill / (prefill + means):.0f} % of the cost to prompts; with the sum of decode times in its place, "
        f"{100 * prefill / (prefill + decode):.0f} %. The steps say {100 * steps:.0f} %."
    )


def _company(runs: Runs) -> str:
    alone, together = (_decode_price(runs.text, workload) for workload in ("c1", "c128"))
    return (
        "It depends on company: on the recorded H100 a million output tokens cost "
        f"${alone:.2f} to decode for one request alone and ${together:.2f} among 128."
    )


def _busy(result: Json) -> int:
    accounts = (c.CHARGED, c.ABORTED, c.UNATTRIBUTED)
    return sum(sum(result[f"{account}_nano_usd"].values()) for account in accounts)


def _sum_of(exposition: str, metric: str) -> float:
    found = re.search(rf"^vllm:{metric}_sum\{{[^}}]*\}} (\S+)$", exposition, re.MULTILINE)
    if found is None:
        raise ValueError(f"the recording's last exposition has no vllm:{metric}_sum")
    return float(found[1])


def _decode_price(run: OfflineRun, workload: str) -> float:
    """Dollars per million output tokens of decoding, over the requests of one workload."""
    rows = {row.key: row for row in run.entry.requests if row.workload == workload}
    shares = (share for window in run.entry.windows for share in window.requests if share.key in rows)
    nano = sum(share.cost_nano.get(c.DECODE, 0) for share in shares)
    return nano / sum(row.output_tokens or 0 for row in rows.values()) / 1_000


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
