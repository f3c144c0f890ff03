"""The commands of the books, as finance types them."""

import csv
import io
import json
from decimal import Decimal

import pytest
from tests.cli.commands import farthing
from tests.service.books import accountant
from tests.service.closings import SETTINGS, moved

from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording

POLICY = """
version: "2026"
from: 2026-01-01
mode: chargeback
pricing: period_average
issuer: {name: Example AI Platform, contact: finops@example.org}
organisation:
  - {tenant: acme, cost_centre: CC-100, name: Acme Ltd, from: 2026-01-01}
pools:
  idle: {driver: busy}
shared_costs:
  - {name: gateway, kind: network, usd_per_month: 20, from: 2026-01-01}
gl: {charged: "6100", aborted: "6110", shared: "6200"}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with settings, a policy and a ledger in which an engine ran in May 2026."""
    folder = tmp_path_factory.mktemp("books")
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    ledger.add(moved(load_recording("h100-llama8b-vllm0.26"), "2026-05", 3_600))
    accountant(ledger, SETTINGS).advance()
    ledger.close()
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "farthing.yaml").write_text(
        f"ledger: sqlite:///{folder}/ledger.db\nbooks: {{policy: {folder}/policy.yaml}}\n"
    )
    return folder


def _json(folder, *arguments):
    ran = farthing(*arguments, "--output", "json", cwd=folder)
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_a_month_from_draft_to_dispute(folder):
    """Look, close, read, hand over, explain, recompute, contest."""
    (period,) = _json(folder, "period", "list")["rows"]
    assert (period["period"], period["status"]) == ("2026-05", "open")
    draft = _json(folder, "period", "draft", "2026-05")
    closed = _json(folder, "period", "close", "2026-05", "--sign-off", "Ada Byron", "--note", "first close")
    assert draft["rows"] == closed["rows"]
    (period,) = _json(folder, "period", "list")["rows"]
    assert (period["status"], period["signed_by"], period["statements"]) == ("closed", "Ada Byron", 5)

    listed = _json(folder, "statement", "list", "--period", "2026-05")
    acme = next(row for row in listed["rows"] if row["tenant"] == "acme")
    statement = _json(folder, "statement", "show", acme["number"])
    assert statement["recipient"]["name"] == "Acme Ltd"
    assert statement["total_nano"] == acme["total"]["nano_usd"]

    ran = farthing("statement", "gl", "2026-05", "--output", "csv", cwd=folder)
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert {row["gl_account"] for row in rows} == {"", "6100", "6110", "6200"}
    total = Decimal(sum(row["total"]["nano_usd"] for row in listed["rows"])).scaleb(-9)
    assert sum(Decimal(row["amount_usd"]) for row in rows) == total

    ran = farthing("statement", "export", "out", "--period", "2026-05", cwd=folder)
    assert ran.code == 0, ran.err
    assert len(list((folder / "out").iterdir())) == 5 * 4
    assert json.loads((folder / "out" / f"{acme['number']}.json").read_bytes()) == statement
    assert b"Acme Ltd" in (folder / "out" / f"{acme['number']}.html").read_bytes()

    explained = _json(folder, "explain", f"{acme['number']}/1", "--top", "3")
    assert dict(explained["told"])["recomputed"] == "the same"
    assert len(explained["requests"]) == 3
    ran = farthing("explain", acme["number"], "--export", "evidence.zip", cwd=folder)
    assert "2569 input records" in ran.out
    (folder / "elsewhere").mkdir()
    ran = farthing("explain", "../evidence.zip", "--verify", cwd=folder / "elsewhere")
    assert ran.code == 0
    assert "differs" not in ran.out

    mark = ("statement", "dispute", f"{acme['number']}/1", "--by", "Grace Hopper", "--note", "Not our project")
    assert farthing(*mark, cwd=folder).code == 0
    listed = _json(folder, "statement", "list", "--tenant", "acme")
    assert [row["disputed"] for row in listed["rows"]] == [1]
    assert farthing(*mark, "--mark", "withdrawn", cwd=folder).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("period", "close", "May", "--sign-off", "A"), 12, "give a month as YYYY-MM"),
        (("period", "close", "2099-01", "--sign-off", "A"), 12, "is not over before 2099-02-01"),
        (("statement", "show", "2026-05-0099"), 12, "there is no statement '2026-05-0099'"),
        (("statement", "export", "x", "--period", "2020-01"), 12, "has no statements"),
        (("statement", "export", "x"), 12, "give either --period or --number"),
        (("explain", "2026-05-0001/x"), 12, "give a statement's number and a line's"),
        (("explain", "farthing.yaml", "--verify"), 12, "not readable as evidence"),
    ],
)
def test_a_mistake_is_one_line_with_its_status(folder, arguments, code, problem):
    """It names what was given and what to do."""
    ran = farthing(*arguments, cwd=folder)
    assert ran.code == code
    assert problem in ran.err
    assert ran.err.count("\n") == 1


def test_a_policy_that_is_wrong_names_file_line_and_key(folder):
    """Before anything is closed by it."""
    (folder / "wrong.yaml").write_text('version: "1"\nfrom: 2026-01-01\npricing: guess\n')
    (folder / "wrong-settings.yaml").write_text(
        f"ledger: sqlite:///{folder}/ledger.db\nbooks: {{policy: {folder}/wrong.yaml}}\n"
    )
    ran = farthing("period", "draft", "2026-06", "--config", "wrong-settings.yaml", cwd=folder)
    assert ran.code == 13
    assert "wrong.yaml:3: pricing:" in ran.err
