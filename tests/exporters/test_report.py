"""Report rows for people and for programs: rounded once on display, exact everywhere else."""

import csv
import io
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.exporters.report import Column, ReportTable, render

COLUMNS = (
    Column("tenant", "Tenant"),
    Column("cost", "Cost", "money"),
    Column("tokens", "Output tokens", "integer"),
    Column("share", "Share", "ratio"),
    Column("method", "Method"),
)
TABLE = ReportTable(
    columns=COLUMNS,
    rows=(
        ("acme-search", 1_234_567_891_234_567, 12_345_678, 0.9876, "modelled"),
        ("globex", 3, None, None, "estimated"),
        ("initech", None, 0, 0.0, "metered"),
    ),
    total=("Total", 1_234_567_891_234_570, 12_345_678, 1.0, ""),
    notes=("Unattributed is 0.2 % of the bill.",),
    title="Statement",
)


def test_the_table_is_legible_for_a_finance_person():
    """Aligned, with thousands separators, cents, a total, the method and the notes."""
    assert render(TABLE, "table").splitlines() == [
        "Statement",
        "",
        " Tenant                Cost   Output tokens    Share   Method",
        " ───────────────────────────────────────────────────────────────",
        " acme-search   1,234,567.89      12,345,678    98.8%   modelled",
        " globex               <0.01               —        —   estimated",
        " initech                  —               0     0.0%   metered",
        " ───────────────────────────────────────────────────────────────",
        " Total         1,234,567.89      12,345,678   100.0%",
        "",
        "Unattributed is 0.2 % of the bill.",
        "Amounts are in USD, rounded to the last digit shown; the total is rounded once, from the exact sum. "
        "The json and csv outputs are exact to 0.000000001.",
    ]


def test_small_amounts_show_more_than_cents():
    """A table whose largest amount is a few cents would say nothing in cents."""
    for nano, shown in ((4_200_000_000, "4.2000"), (31_234_567, "0.031235"), (10_000_000_000, "10.00")):
        table = ReportTable((Column("cost", "Cost", "money"),), ((nano,),))
        assert f" {shown}\n" in render(table, "table")


def test_unknown_is_a_dash_and_zero_is_zero():
    """The two are never the same in any output."""
    table = ReportTable((Column("cost", "Cost", "money"),), ((None,), (0,)))
    assert [line.strip() for line in render(table, "table").splitlines()[3:5]] == ["—", "0.00"]
    assert json.loads(render(table, "json"))["rows"] == [
        {"cost": None},
        {"cost": {"nano_usd": 0, "usd": "0.000000000"}},
    ]
    assert render(table, "csv") == 'cost_usd\n""\n0.000000000\n'


def test_negative_amounts_keep_their_sign():
    """An adjustment that rounds to nothing still shows which way it went."""
    table = ReportTable((Column("cost", "Cost", "money"),), ((-12_345_000_000,), (-1,)))
    assert [line.strip() for line in render(table, "table").splitlines()[3:5]] == ["-12.34", ">-0.01"]


@given(st.lists(st.integers(-(10**24), 10**24), min_size=1))
def test_money_is_exact_in_json_and_csv(amounts):
    """Integers and decimal strings give back every nano-dollar, however large."""
    table = ReportTable((Column("cost", "Cost", "money"),), tuple((nano,) for nano in amounts))
    cells = [row["cost"] for row in json.loads(render(table, "json"))["rows"]]
    assert [cell["nano_usd"] for cell in cells] == amounts
    assert [Decimal(cell["usd"]) * 10**9 for cell in cells] == amounts
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert [Decimal(row["cost_usd"]) * 10**9 for row in rows] == amounts


def test_json_names_its_columns_total_and_notes():
    """A program gets everything that the table shows."""
    document = json.loads(render(TABLE, "json"))
    assert document["rows"][0] == {
        "tenant": "acme-search",
        "cost": {"nano_usd": 1_234_567_891_234_567, "usd": "1234567.891234567"},
        "tokens": 12_345_678,
        "share": 0.9876,
        "method": "modelled",
    }
    assert document["total"]["cost"]["nano_usd"] == 1_234_567_891_234_570
    assert document["notes"] == ["Unattributed is 0.2 % of the bill."]
    assert document["currency"] == "USD"


def test_csv_holds_rows_only():
    """A sum over the file counts every dollar once, so the total is left out."""
    lines = render(TABLE, "csv").splitlines()
    assert lines[0] == "tenant,cost_usd,tokens,share,method"
    assert len(lines) == 4


def test_a_tenant_cannot_break_a_row_of_the_csv():
    """A carriage return in a name is no end of a row, whoever reads it."""
    table = ReportTable(columns=(Column("tenant", "Tenant"), Column("n", "N", "integer")), rows=(("a\rb\r\nc", 1),))
    rows = list(csv.reader(io.StringIO(render(table, "csv"), newline="")))
    assert rows == [["tenant", "n"], ["a\nb\nc", "1"]]


def test_a_tenant_cannot_run_a_formula_in_a_spreadsheet():
    """Text that would be evaluated is marked as text; numbers keep their sign."""
    table = ReportTable(
        (Column("tenant", "Tenant"), Column("cost", "Cost", "money")), (('=HYPERLINK("x")', -1), ("@a", 0))
    )
    rows = list(csv.reader(io.StringIO(render(table, "csv"))))
    assert rows[1:] == [['\'=HYPERLINK("x")', "-0.000000001"], ["'@a", "0.000000000"]]


def test_a_tenant_cannot_colour_or_move_the_terminal():
    """Control characters and rich markup in a name are shown, not obeyed."""
    table = ReportTable((Column("tenant", "Tenant"),), (("\x1b[31mred[/] [bold]x",),))
    text = render(table, "table")
    assert "\x1b" not in text
    assert "[31mred[/] [bold]x" in text


def test_colour_is_used_only_when_asked_for():
    """A pipe gets plain text; a terminal gets bold heads."""
    assert "\x1b[" not in render(TABLE, "table")
    assert "\x1b[1m" in render(TABLE, "table", color=True)


def test_a_narrow_terminal_folds_names_and_never_numbers():
    """Lines fit the width; amounts stay in one piece."""
    table = ReportTable(COLUMNS[:2], (("a-tenant-with-a-very-long-name" * 2, 1_234_567_891_234_567),))
    text = render(table, "table", width=40)
    assert all(len(line) <= 40 for line in text.splitlines())
    assert "1,234,567.89" in text


@pytest.mark.parametrize(
    ("rows", "total", "message"),
    [
        ((("a",),), None, "1 cells for 2 columns"),
        ((("a", 1.5),), None, "'cost' holds 1.5; it counts in integers"),
        ((("a", 1),), ("Total",), "1 cells for 2 columns"),
    ],
)
def test_rows_that_do_not_fit_their_columns_are_refused(rows, total, message):
    """A float can never slip into a money column."""
    with pytest.raises(ValueError, match=message):
        ReportTable((Column("tenant", "Tenant"), Column("cost", "Cost", "money")), rows, total)


def test_an_unknown_output_names_the_known_ones():
    """The message says what is possible."""
    with pytest.raises(ValueError, match="'xml' is not one of table, json, csv"):
        render(TABLE, "xml")  # type: ignore[arg-type]
