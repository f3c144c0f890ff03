"""``farthing prices``: every entry with its dates and source, exact for programs, and gaps as unpriced."""

import csv
import io
import json
from datetime import date

import pytest
from tests.cli.commands import farthing, one_line
from tests.docs.pages import ROOT, blocks

from farthing.domain.errors import ConfigError, PriceError

PAGE = (ROOT / "docs" / "prices.md").read_text()
CONTRACT, SPOT, EUROS, NODE, RESERVED, COMMITTED, OWNED = (
    block.body for block in blocks(PAGE) if block.language == "yaml"
)


@pytest.fixture
def run(tmp_path):
    """The command on settings, and the rows that it wrote."""

    def rows(settings, *arguments, output="csv"):
        (tmp_path / "farthing.yaml").write_text(settings)
        ran = farthing("prices", "--output", output, *arguments, cwd=tmp_path)
        assert (ran.code, ran.err) == (0, "")
        if output == "csv":
            return [row for row in csv.DictReader(io.StringIO(ran.out)) if "Runpod" not in row["source"]]
        return ran.out

    return rows


def test_a_gap_is_shown_as_unpriced(run):
    """In its place, between the entries around it."""
    shown = [(row["per_hour_usd"], row["start"], row["end"]) for row in run(CONTRACT) if row["gpu"] == "H100-SXM"]
    assert shown == [
        ("2.490000000", "2026-01-01", "2026-07-01"),
        ("unpriced", "2026-07-01", "2026-08-01"),
        ("2.290000000", "2026-08-01", ""),
    ]
    assert "unpriced" in run(CONTRACT, output="table")


@pytest.mark.parametrize(
    ("moment", "spot"),
    [
        ("2026-11-01", "unpriced"),
        ("2026-11-01T12:30:00Z", "0.410000000"),
        ("2026-11-01T13:00:00+00:00", "0.570000000"),
        ("2026-11-01T15:00:00+01:00", "unpriced"),
    ],
)
def test_at_a_moment_what_applies_then_is_shown(run, moment, spot):
    """One row of each name."""
    rows = [row for row in run(SPOT, "--at", moment) if row["gpu"] == "L40S"]
    assert [(row["name"], row["per_hour_usd"]) for row in rows] == [("", "1.330000000"), ("spot", spot)]


def test_a_foreign_price_is_shown_in_the_ledgers_currency_with_its_rates(run):
    """Each exchange rate makes a row of the price, and is one itself."""
    rows = [row for row in run(EUROS) if row["gpu"] in {"L40S", ""} and row["source"].startswith(("invoice", "ECB"))]
    assert [(row["entry"], row["per_hour_usd"], row["rate"], row["start"]) for row in rows] == [
        ("price", "1.188000000", "", "2026-10-01"),
        ("price", "1.203950000", "", "2026-11-01"),
        ("exchange", "", "1.08", "2026-10-01"),
        ("exchange", "", "1.0945", "2026-11-01"),
    ]


def test_a_capacity_is_shown_by_the_gpu_hour_with_what_of_it_is_amortised(run):
    """As JSON, exactly."""
    document = json.loads(run(RESERVED, "--at", "2026-06-01", output="json"))
    (row,) = (row for row in document["rows"] if row["entry"] == "capacity")
    assert (row["name"], row["gpus"], row["kind"], row["source"]) == ("reserved-1", 8, "reserved", "order 2025-118")
    assert (row["per_hour"], row["amortised"]) == (
        {"nano_usd": 1_750_000_000, "usd": "1.750000000"},
        {"nano_usd": 1_250_000_000, "usd": "1.250000000"},
    )
    assert (row["start"], row["end"]) == ("2026-01-01", "2027-01-01")


@pytest.mark.parametrize("settings", [NODE, COMMITTED, OWNED], ids=["node", "committed", "owned"])
def test_every_kind_of_capacity_has_its_row(run, settings):
    """Whoever pays for it finds it."""
    (row,) = (row for row in run(settings, "--at", "2026-06-01") if row["entry"] == "capacity")
    assert date.fromisoformat(row["start"]) <= date(2026, 6, 1)
    assert float(row["per_hour_usd"]) > 0


def test_a_table_has_no_column_in_which_nothing_stands(run):
    """Ordinary prices look as they always did."""
    head = run("", output="table").splitlines()[2]
    assert head.split() == ["Entry", "GPU", "Kind", "Per", "GPU-hour", "From", "Source"]


def test_a_moment_that_is_none_is_refused(tmp_path):
    """In one line, with what to give."""
    line = one_line(farthing("prices", "--at", "yesterday", cwd=tmp_path), ConfigError.exit_code)
    assert line == "--at 'yesterday': give a UTC date or time such as 2026-11-01 or 2026-11-01T13:00:00Z"


def test_prices_that_overlap_end_the_command(tmp_path):
    """In one line that names both."""
    (tmp_path / "farthing.yaml").write_text(CONTRACT.replace("2026-08-01", "2026-06-01"))
    line = one_line(farthing("prices", cwd=tmp_path), PriceError.exit_code)
    assert "two prices at once" in line
    assert "contract 4711" in line
    assert "contract 4712" in line


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            SPOT.replace("2026-11-01", "2026-01-02"),
            "GPU 'L40S' (price 'spot') has no price from 2026-01-02T14:00:00Z on",
        ),
        (SPOT.replace("price: spot", "price: sport"), "no price for GPU 'L40S' (price 'sport')"),
        (NODE.replace("from: 2026-01-01,", "from: 2026-01-01, to: 2026-02-01,"), "capacity 'node-a' has no price from"),
        (NODE.replace("gpu_count: 4", "gpu_count: 8"), "has gpus: 8, and its engines take 9 of them (chat, small)"),
    ],
)
def test_check_tells_which_engine_has_no_price_now(tmp_path, settings, says):
    """Before a window runs into it."""
    (tmp_path / "farthing.yaml").write_text(settings)
    findings = json.loads(farthing("check", "--output", "json", cwd=tmp_path).out)
    (found,) = (finding for finding in findings if finding["subject"] == "prices")
    assert found["level"] == "failed"
    assert says in found["detail"]


def test_check_counts_what_is_priced(tmp_path):
    """A node of one's own is as good as a price of one's own."""
    (tmp_path / "farthing.yaml").write_text(NODE)
    findings = json.loads(farthing("check", "--output", "json", cwd=tmp_path).out)
    (found,) = (finding for finding in findings if finding["subject"] == "prices")
    assert (found["level"], found["detail"]) == ("ok", "entries of prices: 7, of capacity: 1")
