"""Makes docs/sample: a tenant's statement and the platform's, of an invented month in the shape of recorded costs.

``python tools/statement_sample.py`` writes HTML, CSV and JSON; with ``--pictures`` Chromium photographs the HTML as
well; ``--pdf FOLDER`` prints it there, to look at.

Unit costs, the mix of phases and the method errors are those of the two recordings of an H100 (docs/accuracy.md);
tenants, projects and volumes are invented.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from farthing.books.statement import (
    ADJUSTMENT,
    PLATFORM,
    RECOVERY,
    SHARED_COST,
    USAGE,
    Party,
    Statement,
    StatementLine,
)
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
FIRST_DAY, NEXT = date(2026, 11, 1), date(2026, 12, 1)
START_NS = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * NANO
END_NS = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * NANO
ISSUED_NS = int(datetime(2026, 12, 3, 9, 14, tzinfo=UTC).timestamp()) * NANO
MILLION = 1_000_000

LLAMA, VISION, UNLISTED = "llama-3.1-8b-instruct", "qwen2-vl-7b-instruct", "mistral-small-24b"
CARD = {
    (LLAMA, c.PREFILL): 25_000_000,
    (LLAMA, "cached"): 2_500_000,
    (LLAMA, c.DECODE): 340_000_000,
    (VISION, c.PREFILL): 20_000_000,
    (VISION, c.DECODE): 400_000_000,
    (VISION, c.VISION): 30_000_000,
}
"""Nano-units per million tokens; the recordings' unit costs plus a tenth, in round figures."""
WORDS = {c.PREFILL: "prompt tokens computed", "cached": "prompt tokens from cache", c.DECODE: "output tokens"}
WORDS[c.VISION] = "image tokens"
ISSUER = Party(
    name="Northwind AI Platform",
    address=("Platform Engineering, Building 4", "12 Quay Road, Bristol BS1 6XN"),
    contact="ai-platform-billing@northwind.example",
    cost_centre="CC-9100",
)
TENANT = Party(
    name="Acme Search Ltd",
    tenant="acme",
    address=("Finance Operations", "81 Harbour Street, Bristol BS1 4RN"),
    contact="Priya Raman, finance-ops@acme.example",
    cost_centre="CC-4100",
)
CENTRES = {"search": "CC-4110", "support": "CC-4180", "": "CC-4100"}
USAGE_GL, SHARED_GL, ADJUSTMENT_GL, PLATFORM_GL = "6410", "6450", "6490", "6900"

# (project, model, tier, account, kind of tokens, reason, tokens)
WORK: tuple[tuple[str, str, str, str, str, str, int], ...] = (
    ("search", LLAMA, "interactive", c.CHARGED, c.PREFILL, "", 31_874_220_118),
    ("search", LLAMA, "interactive", c.CHARGED, "cached", "", 18_402_775_040),
    ("search", LLAMA, "interactive", c.CHARGED, c.DECODE, "", 3_689_114_907),
    ("search", LLAMA, "interactive", c.ABORTED, c.PREFILL, "", 902_118_336),
    ("search", LLAMA, "interactive", c.ABORTED, c.DECODE, "", 35_090_224),
    ("search", LLAMA, "interactive", c.CHARGED, c.PREFILL, c.REASON_PREEMPTION, 11_482_003),
    ("search", LLAMA, "batch", c.CHARGED, c.PREFILL, "", 9_733_001_452),
    ("search", LLAMA, "batch", c.CHARGED, c.DECODE, "", 1_204_559_381),
    ("support", LLAMA, "interactive", c.CHARGED, c.PREFILL, "", 4_018_334_776),
    ("support", LLAMA, "interactive", c.CHARGED, "cached", "", 2_118_402_560),
    ("support", LLAMA, "interactive", c.CHARGED, c.DECODE, "", 1_377_248_019),
    ("support", VISION, "documents", c.CHARGED, c.PREFILL, "", 2_204_117_360),
    ("support", VISION, "documents", c.CHARGED, c.DECODE, "", 275_841_992),
    ("support", VISION, "documents", c.CHARGED, c.VISION, "", 2_160_448_512),
    ("support", VISION, "documents", c.ABORTED, c.DECODE, "", 6_204_331),
    ("support", VISION, "documents", c.ABORTED, c.VISION, "", 21_882_004),
)
# (pool, account, reason, driver in words, weight of the tenant in millionths, pool in nano-units)
POOLS: tuple[tuple[str, str, str, str, int, int], ...] = (
    ("Idle time of shared engines", c.IDLE, "", "busy cost", 341_207, 1_402_118_774_310),
    ("Hosts: processors, memory, disks", c.SHARED, c.POOL_HOST, "busy cost", 341_207, 884_520_000_000),
    ("Gateway and monitoring", c.SHARED, "gateway", "requests", 288_440, 216_000_000_000),
    ("Reserved GPUs that no engine had", c.UNUSED_COMMITMENT, "", "reserved share", 400_000, 517_884_113_902),
)
OTHERS = (("globex", 4_982_107_336_118), ("initech", 3_310_442_917_806), ("umbrella", 1_204_551_073_344))
"""What the other tenants' statements come to."""
KEPT: tuple[tuple[str, str, str, int], ...] = (
    ("Idle time of engines that no pool shares", c.IDLE, "", 688_204_117_009),
    ("Starting engines: loading models", c.STARTING, "", 96_118_334_207),
    ("Draining engines before a restart", c.DRAINING, "", 4_018_220_114),
    ("Down: crashes and outages", c.DOWN, "", 58_330_117_846),
    ("Busy time that no record explains", c.UNATTRIBUTED, c.REASON_LOST, 3_118_204_417),
    ("Work for requests that failed on the platform", c.UNATTRIBUTED, c.REASON_FAILED, 11_904_338_216),
    ("GPUs that no engine had", c.UNALLOCATED, "", 1_207_334_118_550),
    ("Reserved GPUs that no engine had, kept share", c.UNUSED_COMMITMENT, "", 129_471_028_476),
)
MODELS_ACTUAL = ((LLAMA, -812_440_118_204), (VISION, 96_204_117_336))
"""Actual cost less rate card: negative where the card brought in more."""
OPENING_WIP, CLOSING_WIP = 1_204_118_336, 884_201_773


def tenant_statement() -> Statement:
    """A chargeback by rate card: two projects, shared pools, an unpriced model, adjustments both ways."""
    draft = [*_usage(), *_unlisted(), *_shared(), *_adjustments()]
    lines = _numbered(draft)
    return _statement(
        number=f"{PERIOD}-0001",
        recipient=TENANT,
        lines=lines,
        notes=(
            "Usage is priced by the platform's rate card 2026-Q4: tokens times the published price, rounded once per "
            "line to a billionth of a dollar.",
            "Tokens are counted by the engine. Prompt tokens that came from a prefix cache have a price of their own.",
            "Requests that the client gave up on are charged as far as they were computed; requests that failed on the "
            "platform are not charged.",
            "Shared costs are divided by the driver that each line names, by largest remainder, so that the parts add "
            "up to the pool exactly.",
            "Adjustments are work of October 2026 that became known after that period was closed.",
        ),
        unpriced=(f"model {UNLISTED}: not on rate card 2026-Q4",),
        days=_days(lines),
    )


def platform_statement() -> Statement:
    """What stays with the platform: idle and lost time, unsold capacity, recovery of the card, and the identity."""
    draft = [
        StatementLine(
            line=0,
            section=PLATFORM,
            description=description,
            service_period=PERIOD,
            account=account,
            reason=reason,
            method=c.METERED,
            cost_centre="CC-9100",
            gl_account=PLATFORM_GL,
            amount_nano=nano,
            basis={"rule": "kept"},
        )
        for description, account, reason, nano in KEPT
    ]
    draft += [
        StatementLine(
            line=0,
            section=RECOVERY,
            description=f"{'Over' if nano < 0 else 'Under'}-recovery of the rate card: actual cost less charges",
            service_period=PERIOD,
            account=c.CHARGED,
            model=model,
            method=f"{c.MODELLED},{c.ESTIMATED}",
            cost_centre="CC-9100",
            gl_account="6950",
            amount_nano=nano,
            basis={"rule": "recovery"},
        )
        for model, nano in MODELS_ACTUAL
    ]
    lines = _numbered(draft)
    own = sum(line.amount_nano or 0 for line in lines)
    charged = ((TENANT.tenant, tenant_statement().total_nano), *OTHERS)
    bill = sum(nano for _, nano in charged) + own - OPENING_WIP + CLOSING_WIP
    return replace(
        _statement(
            number=f"{PERIOD}-0000",
            recipient=replace(ISSUER, tenant=""),
            lines=lines,
            notes=(
                "The bill is what GPUs, hosts and shared services cost in the period: allocation times price, computed "
                "without looking at the work that was done.",
                "Busy time is metered and divided over phases and tenants by a fit; its error on windows it had not "
                "seen is under Versions and evidence.",
                "Of the cost of finished and aborted requests, 4.2 % is estimated and the rest modelled.",
                "Work in progress is the cost of windows that were not settled when the period was closed. It opens "
                "the next period.",
                "Lost records: 14 of 41,882,107, all of one engine on 19 November.",
            ),
            unpriced=(f"engine edge-l4-02 ({UNLISTED}): no price for GPU L4 from 24 November 2026",),
            days=_days(lines),
        ),
        identity=(
            ("Opening work in progress", OPENING_WIP),
            ("GPU allocation × price, and what is bought beyond engines", bill),
            ("Closing work in progress", -CLOSING_WIP),
            *((f"Charged to {tenant}", nano) for tenant, nano in charged),
            ("Borne by the platform", sum(line.amount_nano or 0 for line in lines if line.section == PLATFORM)),
            ("Under-recovery less over-recovery", sum(nano for _, nano in MODELS_ACTUAL)),
        ),
    )


def _statement(**parts: Any) -> Statement:
    lines: tuple[StatementLine, ...] = parts["lines"]
    total = sum(line.amount_nano or 0 for line in lines)
    cent = 10**7
    payable = _half_even(total, cent) * cent
    return Statement(
        period=PERIOD,
        start_ns=START_NS,
        end_ns=END_NS,
        kind="chargeback",
        pricing="rate_card",
        currency="USD",
        issuer=ISSUER,
        issued_ns=ISSUED_NS,
        signed_by="Dana Whitlock, platform controller",
        total_nano=total,
        rounding_nano=payable - total,
        payable_nano=payable,
        decimals=2,
        policy_version=f"2026-Q4+{_digest('policy')[:12]}",
        settlement_policy=c.POLICY_VERSION,
        price_versions=tuple(f"H100-SXM:{_digest(f'price {part}')[:12]}" for part in range(2)),
        fit_errors=(
            ("llama-a", c.MODELLED, 0.026258359501407626),
            ("llama-b", c.MODELLED, 0.031),
            ("vision-a", c.MODELLED, 0.0302),
            ("edge-l4-02", c.ESTIMATED, None),
        ),
        evidence={f"{engine}-{_digest(engine)[:8]}": _digest(f"records of {engine}") for engine in ENGINES},
        **parts,
    )


ENGINES = ("llama-a", "llama-b", "vision-a")


def _usage() -> list[StatementLine]:
    lines = []
    for project, model, tier, account, kind, reason, tokens in WORK:
        price = CARD[model, kind]
        words = WORDS[kind]
        if account == c.ABORTED:
            words = f"Aborted requests: {words}"
        elif reason == c.REASON_PREEMPTION:
            words = f"Share of recomputed work: {words}"
        lines.append(
            StatementLine(
                line=0,
                section=USAGE,
                description=words[0].upper() + words[1:],
                service_period=PERIOD,
                account=account,
                phase=c.PREFILL if kind == "cached" else kind,
                tenant=TENANT.tenant,
                project=project,
                cost_centre=CENTRES[project],
                model=model,
                tier=tier,
                reason=reason,
                method=c.METERED if account == c.CHARGED and not reason else c.ESTIMATED,
                quantity=tokens,
                unit="tokens",
                unit_price_nano=price,
                unit_size=MILLION,
                amount_nano=_half_even(tokens * price, MILLION),
                gl_account=USAGE_GL,
                basis={"rule": "rate_card", "units": tokens, "price_nano": price, "per": MILLION},
            )
        )
    return lines


def _unlisted() -> list[StatementLine]:
    return [
        StatementLine(
            line=0,
            section=USAGE,
            description="Output tokens",
            service_period=PERIOD,
            account=c.CHARGED,
            phase=c.DECODE,
            tenant=TENANT.tenant,
            project="support",
            cost_centre=CENTRES["support"],
            model=UNLISTED,
            tier="interactive",
            method=c.METERED,
            quantity=1_204_331,
            unit="tokens",
            amount_nano=None,
            gl_account=USAGE_GL,
            basis={"rule": "rate_card", "units": 1_204_331},
        )
    ]


def _shared() -> list[StatementLine]:
    lines = []
    for description, account, reason, driver, weight, pool in POOLS:
        share = split(pool, [weight, MILLION - weight])[0]
        lines.append(
            StatementLine(
                line=0,
                section=SHARED_COST,
                description=f"{description}: {weight // 10_000}.{weight // 100 % 100:02d} % by {driver}",
                service_period=PERIOD,
                account=account,
                tenant=TENANT.tenant,
                cost_centre=CENTRES[""],
                reason=reason,
                method=c.METERED,
                amount_nano=share,
                gl_account=SHARED_GL,
                basis={"rule": "pool", "pool_nano": pool, "weight": weight, "weights": MILLION},
            )
        )
    return lines


def _adjustments() -> list[StatementLine]:
    corrections = (
        (c.DECODE, 41_207_118, "Late records: output tokens"),
        (c.PREFILL, 318_442_006, "Late records: prompt tokens"),
        (c.DECODE, -6_118_204, "Charged twice in October, taken back: output tokens"),
    )
    return [
        StatementLine(
            line=0,
            section=ADJUSTMENT,
            description=words,
            service_period=EARLIER,
            account=c.CHARGED,
            phase=phase,
            tenant=TENANT.tenant,
            project="search",
            cost_centre=CENTRES["search"],
            model=LLAMA,
            tier="batch",
            method=c.METERED,
            quantity=tokens,
            unit="tokens",
            unit_price_nano=CARD[LLAMA, phase],
            unit_size=MILLION,
            amount_nano=_half_even(tokens * CARD[LLAMA, phase], MILLION),
            gl_account=ADJUSTMENT_GL,
            basis={"rule": "rate_card", "units": tokens, "price_nano": CARD[LLAMA, phase], "per": MILLION},
        )
        for phase, tokens, words in corrections
    ]


def _numbered(lines: list[StatementLine]) -> tuple[StatementLine, ...]:
    """In reading order: by section as they come, by project within a section."""
    places = list(dict.fromkeys((line.section, line.project) for line in lines))
    ordered = sorted(lines, key=lambda line: places.index((line.section, line.project)))
    return tuple(replace(line, line=number) for number, line in enumerate(ordered, start=1))


def _days(lines: tuple[StatementLine, ...]) -> tuple[tuple[str, str, int], ...]:
    """Each account's sum over the period's days: weekdays are busy, weekends idle, and growth is slow."""
    sums: dict[str, int] = defaultdict(int)
    for line in lines:
        if line.amount_nano and line.section in (USAGE, SHARED_COST, PLATFORM):
            sums[line.account] += line.amount_nano
    dates = [FIRST_DAY + timedelta(days=index) for index in range((NEXT - FIRST_DAY).days)]
    rows = []
    for account, total in sums.items():
        busy = account in (c.CHARGED, c.ABORTED)
        weights = [_weight(at, busy, index) for index, at in enumerate(dates)]
        shares = split(total, weights)
        rows += [(at.isoformat(), account, nano) for at, nano in zip(dates, shares, strict=True)]
    return tuple(sorted(rows))


def _weight(at: date, busy: bool, index: int) -> int:
    weekend = at.weekday() >= 5
    noise = int(_digest(at.isoformat())[:4], 16) % 160
    if busy:
        return (420 if weekend else 1000) + 6 * index + noise
    return (700 if weekend else 500) + noise


def _half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sample_files() -> dict[str, bytes]:
    """Every rendered file of the sample by its name; pictures apart."""
    documents = {"statement": tenant_statement(), "platform-statement": platform_statement()}
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
