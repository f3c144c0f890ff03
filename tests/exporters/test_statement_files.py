"""A statement for programs: CSV, Parquet and JSON hold every line, exactly and safely."""

import csv
import io
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exporters.statement_cases import line, recorded, statement
from tools.statement_sample import FOLDER, FORMATS, sample_files, sample_statements

from farthing.books.statement import Party, decode_statement, encode_statement, sha256_of
from farthing.domain.errors import FarthingError
from farthing.domain.spreadsheets import FORMULA_STARTS
from farthing.exporters.statement import FORMATS as ALL_FORMATS
from farthing.exporters.statement import MEDIA_TYPES, render_statement
from farthing.exporters.statement.csv import COLUMNS
from farthing.exporters.statement.rows import PRICED, UNPRICED

ROOT = Path(__file__).parents[2]
TENANTS, PLATFORMS = SAMPLES = sample_statements()
AMOUNTS = st.none() | st.integers(-(2**63), 2**63 - 1)


def read_csv(document):
    return list(csv.DictReader(io.StringIO(render_statement(document, "csv").decode(), newline="")))


def read_parquet(document):
    return pyarrow.parquet.read_table(io.BytesIO(render_statement(document, "parquet")))


@pytest.mark.parametrize("recording", ["h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26"])
def test_the_files_of_a_recordings_statements_add_up_to_its_bill(recording):
    """Every tenant's and the platform's, read back from CSV and from Parquet, are the H100's bill to the nano."""
    facts, documents = recorded(recording)
    assert len(documents) == 5
    assert facts.opening_wip_nano == facts.closing_wip_nano == 0
    rows = [row for document in documents for row in read_csv(document)]
    assert sum(int(row["billed_cost_nano"]) for row in rows) == facts.bill_nano
    assert sum(Decimal(row["billed_cost"]) for row in rows) == Decimal(facts.bill_nano).scaleb(-9)
    columns = [read_parquet(document).column("billed_cost_nano").to_pylist() for document in documents]
    assert sum(sum(column) for column in columns) == facts.bill_nano


def test_the_csv_has_a_row_a_line_and_says_what_is_unpriced():
    """An amount that nobody knows is empty, never 0."""
    document = TENANTS
    rows = read_csv(document)
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["line"]) for row in rows] == [one.line for one in document.lines]
    assert sum(int(row["billed_cost_nano"] or 0) for row in rows) == document.total_nano
    unpriced = [row for row in rows if row["pricing_status"] == UNPRICED]
    assert [(row["model"], row["billed_cost"], row["billed_cost_nano"]) for row in unpriced] == [
        ("mistral-small-24b", "", "")
    ] * 2
    assert {row["pricing_status"] for row in rows} == {PRICED, UNPRICED}
    assert (rows[0]["billing_period_start"], rows[0]["billing_period_end"]) == (
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    )
    assert (rows[0]["consumed_quantity"], rows[0]["unit_price"], rows[0]["unit_price_per"]) == (
        "9733001452",
        "0.020000000",
        "1000000",
    )


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_no_text_of_the_csv_is_a_formula(start):
    """Whoever names the tenant, the project or the recipient; numbers keep their minus sign."""
    evil = f"{start}HYPERLINK(1)"
    document = statement(
        line(tenant=evil, project=evil, model=evil, description=evil, amount_nano=-5),
        recipient=Party(evil, tenant=evil),
    )
    (row,) = read_csv(document)
    texts = [row[name] for name in ("tenant", "project", "model", "charge_description", "recipient")]
    assert texts == [f"'{evil}"] * 5
    assert (row["billed_cost"], row["billed_cost_nano"]) == ("-0.000000005", "-5")


@given(st.lists(AMOUNTS, max_size=12))
def test_csv_and_parquet_give_back_every_amount(amounts):
    """To the nano, of any size that 64 bits hold, with what is unpriced."""
    document = statement(*(line(amount_nano=nano) for nano in amounts))
    rows = read_csv(document)
    assert [int(row["billed_cost_nano"]) if row["billed_cost_nano"] else None for row in rows] == amounts
    exact = [int(Decimal(row["billed_cost"]).scaleb(9)) if row["billed_cost"] else None for row in rows]
    assert exact == amounts
    assert read_parquet(document).column("billed_cost_nano").to_pylist() == amounts


@given(st.text(max_size=40), st.text(max_size=40))
def test_csv_and_parquet_give_back_every_text(name, project):
    """Commas, quotes, line ends, any script; of the CSV with its apostrophe before a formula."""
    document = statement(line(description=name, project=project))
    (row,) = read_csv(document)
    for told, text in ((row["charge_description"], name), (row["project"], project)):
        assert told == (f"'{text}" if text.startswith(FORMULA_STARTS) else text)
    table = read_parquet(document)
    assert (table.column("charge_description").to_pylist(), table.column("project").to_pylist()) == ([name], [project])


def test_parquet_has_types_and_the_head_of_the_document():
    """Integers are integers, words dictionaries, moments in UTC; the metadata says whose statement this is."""
    document = TENANTS
    table = read_parquet(document)
    schema = table.schema
    assert table.num_rows == len(document.lines)
    for name in ("billed_cost_nano", "consumed_quantity", "unit_price_nano", "unit_price_per"):
        assert schema.field(name).type == pyarrow.int64()
    for name in ("tenant", "model", "account", "billing_currency"):
        assert schema.field(name).type == pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    assert schema.field("billing_period_start").type == pyarrow.timestamp("ns", tz="UTC")
    assert table.column("billing_period_end").cast(pyarrow.int64())[0].as_py() == document.end_ns
    assert table.column("billed_cost_nano").null_count == 2
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert metadata["farthing.sha256"] == sha256_of(encode_statement(document))
    assert metadata["farthing.payable_nano"] == str(document.payable_nano)
    head = decode_statement(metadata["farthing.statement"].encode())
    assert (head.number, head.recipient, head.lines) == (document.number, document.recipient, ())


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch):
    """One line; nothing else needs the extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        FarthingError, match=r"^Parquet needs pyarrow; install it with: pip install 'farthing\[parquet\]'$"
    ):
        render_statement(TENANTS, "parquet")
    assert render_statement(TENANTS, "csv")


def test_a_number_beyond_64_bits_is_refused_by_parquet_alone():
    """CSV and JSON have room for it."""
    document = statement(line(amount_nano=2**63))
    with pytest.raises(FarthingError, match="2026-11-0001 holds a number that is too large for Parquet"):
        render_statement(document, "parquet")
    assert read_csv(document)[0]["billed_cost_nano"] == str(2**63)
    assert decode_statement(render_statement(document, "json")) == document


def test_json_is_the_canonical_document():
    """So its digest is the one that the HTML names."""
    document = PLATFORMS
    assert render_statement(document, "json") == encode_statement(document)
    assert sha256_of(render_statement(document, "json")).encode() in render_statement(document, "html")


def test_an_unknown_format_is_refused_with_the_known_ones():
    """By name."""
    assert tuple(MEDIA_TYPES) == ALL_FORMATS
    with pytest.raises(FarthingError, match="'docx' is not one of html, csv, parquet, json"):
        render_statement(TENANTS, "docx")


def test_equal_documents_give_equal_bytes_in_any_process_and_time_zone():
    """Another process, another hash seed, a time zone on the other side of the date line."""
    program = (
        "import hashlib\n"
        "from tools.statement_sample import sample_statements\n"
        "from farthing.exporters.statement import FORMATS, render_statement\n"
        "for made in sample_statements():\n"
        "    for kind in FORMATS:\n"
        "        print(hashlib.sha256(render_statement(made, kind)).hexdigest())\n"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "TZ": zone, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "LC_ALL": locale},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for zone, seed, locale in (("Pacific/Kiritimati", "1", "C"), ("America/Los_Angeles", "2", "C.UTF-8"))
    ]
    here = [sha256_of(render_statement(document, kind)) for document in SAMPLES for kind in ALL_FORMATS]
    assert told == [here, here]


def test_the_sample_in_the_documentation_is_current():
    """After a change to rendering run tools/statement_sample.py."""
    files = sample_files()
    assert set(files) == {f"{name}.{kind}" for name, kinds in FORMATS.items() for kind in kinds}
    for name, content in files.items():
        assert (FOLDER / name).read_bytes() == content, f"docs/sample/{name} is not current"
    for name in FORMATS:
        picture = (FOLDER / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 400_000


def test_the_samples_add_up():
    """Total and rounding to what is payable, identity's left side to its right."""
    for document in SAMPLES:
        assert document.total_nano == sum(one.amount_nano or 0 for one in document.lines)
        assert document.total_nano + document.rounding_nano == document.payable_nano
        assert decode_statement(encode_statement(document)) == document
    identity = PLATFORMS.identity
    assert sum(nano for _, nano in identity[:3]) == sum(nano for _, nano in identity[3:])
