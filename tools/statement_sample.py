"""Makes docs/sample: a tenant's statement and the platform's, of an invented month in the shape of recorded costs.

``python tools/statement_sample.py`` writes HTML, CSV and JSON; with ``--pictures`` Chromium photographs the HTML as
well; ``--pdf FOLDER`` prints it there, to look at.

Costs per token, the mix of phases and the errors of the fits are those of the two recordings of an H100
(docs/accuracy.md); tenants, projects and volumes are invented. The statements are built as those of a real period are.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

from farthing.books.facts import Cost, PeriodFacts, Usage
from farthing.books.periods import bounds
from farthing.books.policy import parse_policy
from farthing.books.statement import Statement
from farthing.books.statements import build_statements
from farthing.domain import conventions as c
from farthing.domain.money import NANO, split
from farthing.exporters.statement import render_statement

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "sample"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FORMATS = {"statement": ("html", "csv", "json"), "platform-statement": ("html",)}
PICTURE = (1000, 1500)
"""Width and height of the pictures."""

PERIOD, EARLIER = "2026-11", "2026-10"
TENANT = "acme"
ISSUED_NS = int(datetime(2026, 12, 3, 9, 14, tzinfo=UTC).timestamp()) * NANO
MILLION = 1_000_000
OPENING_WIP, CLOSING_WIP = 1_204_118_336, 884_201_773

LLAMA, QWEN, UNLISTED = "llama-3.1-8b", "qwen2-vl-7b", "mistral-small-24b"
ACTUAL = {
    (LLAMA, c.PREFILL): 22_401_806,
    (LLAMA, c.DECODE): 306_790_751,
    (QWEN, c.PREFILL): 17_183_402,
    (QWEN, c.DECODE): 361_622_917,
    (QWEN, c.VISION): 26_904_118,
    (UNLISTED, c.PREFILL): 61_204_338,
    (UNLISTED, c.DECODE): 811_337_204,
}
"""Nano-dollars per million tokens, as the recordings cost them; of the last model, invented."""

# (tenant, project, model, tier, requests, prompt computed, prompt cached, image, output; all of finished requests)
WORK: tuple[tuple[str, str, str, str, int, int, int, int, int], ...] = (
    ("acme", "search", LLAMA, "interactive", 21_704_118, 31_874_220_118, 18_402_775_040, 0, 3_689_114_907),
    ("acme", "search", LLAMA, "batch", 4_118_204, 9_733_001_452, 1_204_337_152, 0, 1_204_559_381),
    ("acme", "support", LLAMA, "interactive", 3_004_771, 4_018_334_776, 2_118_402_560, 0, 1_377_248_019),
    ("acme", "support", QWEN, "documents", 1_902_336, 2_204_117_360, 310_204_416, 2_160_448_512, 275_841_992),
    ("acme", "support", UNLISTED, "interactive", 4_118, 8_204_119, 0, 0, 1_204_331),
    ("globex", "assistant", LLAMA, "interactive", 30_118_442, 40_330_118_204, 22_118_337_024, 0, 5_204_118_337),
    ("initech", "claims", QWEN, "documents", 8_204_117, 9_118_336_204, 1_402_118_144, 10_118_204_336, 1_204_118_337),
    ("umbrella", "", LLAMA, "batch", 9_330_118, 16_204_118_336, 4_118_204_416, 0, 1_118_204_337),
)
ABORTED_IN = 42
"""One in so many tokens was computed for a request whose client hung up."""
# (account, reason, method, nano-dollars)
POOLS: tuple[tuple[str, str, str, int], ...] = (
    (c.IDLE, "", c.METERED, 1_402_118_774_310),
    (c.STARTING, "", c.METERED, 96_118_334_207),
    (c.DRAINING, "", c.METERED, 4_018_220_114),
    (c.DOWN, "", c.METERED, 58_330_117_846),
    (c.UNATTRIBUTED, c.REASON_LOST, c.MODELLED, 3_118_204_417),
    (c.UNATTRIBUTED, c.REASON_FAILED, c.MODELLED, 11_904_338_216),
    (c.UNALLOCATED, c.POOL_UNASSIGNED, c.METERED, 1_207_334_118_550),
    (c.UNUSED_COMMITMENT, c.POOL_UNASSIGNED, c.METERED, 517_884_113_902),
    (c.SHARED, c.POOL_HOST, c.METERED, 884_520_000_000),
    (c.SHARED, "gateway", c.METERED, 216_000_000_000),
)
# (account, phase, project, reason, nano-dollars): what became known of October after it was closed
LATE: tuple[tuple[str, str, str, str, int], ...] = (
    (c.CHARGED, c.PREFILL, "search", "", 7_133_886_204),
    (c.CHARGED, c.DECODE, "search", "", 12_642_118_337),
    (c.UNATTRIBUTED, "", "", c.REASON_LOST, -19_776_004_541),
)
LATE_TOKENS = (318_442_006, 41_207_118)
POLICY = """
version: 2026-Q4
from: 2026-10-01
mode: chargeback
pricing: rate_card
pools:
  idle: {driver: busy}
  host: {driver: busy}
  gateway: {driver: requests}
  unused_commitment: {driver: reserved, reserved: {acme: 4, globex: 4, initech: 2}}
shared_costs:
  - {name: gateway, kind: host, usd_per_hour: 0.30, from: 2026-10-01}
rate_card:
  - model: llama-3.1-8b
    usd_per_million_prompt_tokens: 0.025
    usd_per_million_cached_prompt_tokens: 0.0025
    usd_per_million_output_tokens: 0.34
  - model: llama-3.1-8b
    tier: batch
    usd_per_million_prompt_tokens: 0.02
    usd_per_million_cached_prompt_tokens: 0.0025
    usd_per_million_output_tokens: 0.28
  - model: qwen2-vl-7b
    usd_per_million_prompt_tokens: 0.02
    usd_per_million_output_tokens: 0.4
    usd_per_million_image_tokens: 0.03
organisation:
  - tenant: acme
    name: Acme Search Ltd
    contact: Priya Raman, finance-ops@acme.example
    address: [Finance Operations, "81 Harbour Street, Bristol BS1 4RN"]
    cost_centre: CC-4100
  - {tenant: acme, project: search, cost_centre: CC-4110}
  - {tenant: acme, project: support, cost_centre: CC-4180}
gl:
  charged: "6410"
  aborted: "6420"
  shared: "6450"
  adjustment: "6490"
  platform: "6900"
  recovery: "6950"
issuer:
  name: Northwind AI Platform
  contact: ai-platform-billing@northwind.example
  address: ["Platform Engineering, Building 4", "12 Quay Road, Bristol BS1 6XN"]
  cost_centre: CC-9100
"""


@cache
def sample_statements() -> tuple[Statement, Statement]:
    """The tenant's and the platform's, of one period."""
    policy = parse_policy(POLICY, "sample policy")
    made = build_statements(_facts(), policy, signed_by="Dana Whitlock, platform controller", issued_ns=ISSUED_NS)
    by_tenant = {statement.recipient.tenant: statement for statement in made}
    return by_tenant[TENANT], by_tenant[""]


def _facts() -> PeriodFacts:
    start_ns, end_ns = bounds(PERIOD)
    costs = (*_work_costs(), *_pool_costs(), *_late_costs())
    return PeriodFacts(
        period=PERIOD,
        start_ns=start_ns,
        end_ns=end_ns,
        currency="USD",
        opening_wip_nano=OPENING_WIP,
        bill_nano=sum(cost.nano for cost in costs) - OPENING_WIP + CLOSING_WIP,
        closing_wip_nano=CLOSING_WIP,
        costs=costs,
        usage=(*_usage(), _late_usage()),
        days=tuple(_days(costs)),
        price_versions=tuple(f"H100-SXM:{_digest(f'price {part}')[:12]}" for part in range(2)),
        fit_errors=(
            ("llama-a", c.MODELLED, 0.026258359501407626),
            ("llama-b", c.MODELLED, 0.0311),
            ("vision-a", c.MODELLED, 0.0302),
        ),
        unpriced=("edge-l4-02",),
        lost_records=14,
        evidence={f"{name}-{_digest(name)[:8]}": _digest(f"records of {name}") for name in ENGINES},
    )


ENGINES = ("llama-a", "llama-b", "vision-a")


def _work_costs() -> Iterator[Cost]:
    for tenant, project, model, tier, _, computed, _, image, output in WORK:
        for phase, tokens in ((c.PREFILL, computed), (c.DECODE, output), (c.VISION, image)):
            if not tokens:
                continue
            nano = tokens * ACTUAL[model, phase] // MILLION
            for account, part in ((c.CHARGED, nano), (c.ABORTED, nano // ABORTED_IN)):
                yield Cost(PERIOD, account, phase, tenant, project, model, tier, "", c.MODELLED, part)


def _usage() -> Iterator[Usage]:
    for tenant, project, model, tier, *counts in WORK:
        aborted = [count // ABORTED_IN for count in counts]
        for outcome, counted in ((c.FINISHED, counts), (c.ABORTED, aborted)):
            yield Usage._make((PERIOD, tenant, project, model, tier, outcome, *counted, 0, 0))


def _pool_costs() -> Iterator[Cost]:
    for account, reason, method, nano in POOLS:
        yield Cost(PERIOD, account, "", "", "", "", "", reason, method, nano)


def _late_costs() -> Iterator[Cost]:
    for account, phase, project, reason, nano in LATE:
        tenant, model, tier = (TENANT, LLAMA, "batch") if project else ("", "", "")
        yield Cost(EARLIER, account, phase, tenant, project, model, tier, reason, c.MODELLED, nano)


def _late_usage() -> Usage:
    computed, output = LATE_TOKENS
    return Usage(EARLIER, TENANT, "search", LLAMA, "batch", c.FINISHED, 134_118, computed, 0, 0, output, 0)


def _days(costs: tuple[Cost, ...]) -> Iterator[tuple[str, str, str, int]]:
    """Sums of the period over its days: weekdays are busy, weekends idle, and growth is slow."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for cost in costs:
        if cost.service_period == PERIOD:
            sums[cost.tenant, cost.account] += cost.nano
    dates = [date(2026, 11, 1) + timedelta(days=index) for index in range(30)]
    for (tenant, account), nano in sums.items():
        busy = account in (c.CHARGED, c.ABORTED)
        weights = [_weight(at, busy, index) for index, at in enumerate(dates)]
        for at, part in zip(dates, split(nano, weights), strict=True):
            yield at.isoformat(), tenant, account, part


def _weight(at: date, busy: bool, index: int) -> int:
    weekend = at.weekday() >= 5
    noise = int(_digest(at.isoformat())[:4], 16) % 160
    if busy:
        return (420 if weekend else 1000) + 6 * index + noise
    return (700 if weekend else 500) + noise


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sample_files() -> dict[str, bytes]:
    """Every rendered file of the sample by its name; pictures apart."""
    documents = dict(zip(FORMATS, sample_statements(), strict=True))
    return {
        f"{name}.{kind}": render_statement(documents[name], kind) for name, kinds in FORMATS.items() for kind in kinds
    }


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """A picture of the page on a screen of that size; RuntimeError when Chromium takes none."""
    size = f"--window-size={width},{height}"
    _chromium(size, "--hide-scrollbars", f"--screenshot={picture}", page.resolve().as_uri())
    if not picture.is_file():
        raise RuntimeError(f"Chromium took no picture of {page}")


def print_pdf(page: Path, target: Path) -> None:
    """The page on paper, as its own style says; RuntimeError when Chromium prints nothing."""
    _chromium("--no-pdf-header-footer", f"--print-to-pdf={target}", page.resolve().as_uri())
    if not target.is_file():
        raise RuntimeError(f"Chromium did not print {page}")


def _chromium(*arguments: str) -> None:
    browser = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if browser is None:
        raise RuntimeError("Chromium is not on PATH; install it with: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
        command = (browser, *options, f"--user-data-dir={profile}", *arguments)
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> int:
    """Exit status: 0 when all was written."""
    parser = argparse.ArgumentParser(description="Write docs/sample.")
    parser.add_argument("--pictures", action="store_true", help="photograph the HTML with Chromium")
    parser.add_argument("--pdf", type=Path, metavar="FOLDER", help="print the HTML into FOLDER")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in sample_files().items():
        (FOLDER / name).write_bytes(content)
    for name in FORMATS:
        page = FOLDER / f"{name}.html"
        if options.pictures:
            photograph(page, FOLDER / f"{name}.png", *PICTURE)
        if options.pdf:
            print_pdf(page, options.pdf / f"{name}.pdf")
    return 0


if __name__ == "__main__":
    sys.exit(main())
