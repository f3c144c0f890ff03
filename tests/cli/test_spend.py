"""`farthing spend` and `farthing kpis` on a ledger of both recordings: in every output, footing to the bill."""

import csv
import io
import json

import pytest
import yaml
from tests.cli.commands import farthing
from tests.replay.conftest import TEXT, VISION, cost
from tests.service.books import total

from farthing.domain import conventions as c
from farthing.ledger import tables as t
from farthing.ledger.engine_notes import Unpriced, note_unpriced
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording


@pytest.fixture(scope="module")
def bill(booked):
    """Nano-dollars of both engines together, by their windows."""
    ledger = Ledger.open(f"sqlite:///{booked}/ledger.db")
    found = total(ledger, t.windows.c.bill_nano)
    ledger.close()
    return found


def run(folder, *arguments):
    ran = farthing(*arguments, cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def nano(cell):
    return 0 if cell is None else cell["nano_usd"]


@pytest.mark.parametrize("by", ["tenant", "project", "model", "engine"])
def test_months_of_spend_add_up_to_the_bill(booked, bill, by):
    """Everything in the months, whatever it is grouped by."""
    found = json.loads(run(booked, "spend", "--by", by, "--output", "json"))
    assert {"spend", "daily", "monthly", "idle", "anomalies"} == set(found)
    for series in ("daily", "monthly"):
        rows = [row for row in found[series]["rows"] if row[by] == "everything"]
        assert sum(nano(row["cost"]) for row in rows) == bill
    assert sum(nano(found["spend"]["total"][key]) for key in ("month", "last_month")) == bill


def test_budgets_show_what_is_left_and_what_is_expected(booked, bill, tmp_path):
    """Of the settings that the command was given."""
    budgets = [{"monthly_usd": "1.5"}, {"tenant": "acme", "monthly_usd": 1}]
    config = {"ledger": f"sqlite:///{booked}/ledger.db", "budgets": budgets}
    (tmp_path / "farthing.yaml").write_text(yaml.safe_dump(config))
    found = json.loads(run(tmp_path, "spend", "--show", "budgets", "--output", "json"))["budgets"]
    whole, acme = found["rows"]
    assert (whole["budget"], acme["budget"]) == ("everything", "tenant=acme")
    assert nano(whole["spent"]) + nano(whole["left"]) == nano(whole["monthly"]) == 1_500_000_000
    assert nano(whole["spent"]) in {0, bill}
    assert "Budgets never block." in run(tmp_path, "spend")


def test_csv_is_one_table(booked):
    """The first, or the one that was asked for."""
    rows = list(csv.DictReader(io.StringIO(run(booked, "spend", "--output", "csv"))))
    assert "month_usd" in rows[0]
    rows = list(csv.DictReader(io.StringIO(run(booked, "spend", "--show", "daily", "--output", "csv"))))
    assert set(rows[0]) == {"day", "tenant", "cost_usd"}


@pytest.mark.parametrize("command", ["spend", "kpis"])
def test_a_table_that_does_not_exist_is_named(booked, command):
    """One line, with those that do."""
    ran = farthing(command, "--show", "nothing", cwd=booked)
    assert ran.code == 3
    assert "--show 'nothing': there is no such table; give one of" in ran.err


def test_unit_costs_are_those_of_the_requests(booked):
    """Documents and images are counted request by request; the books hold no number of images."""
    found = json.loads(run(booked, "kpis", "--since", "all", "--output", "json"))
    rows = {row["unit"]: row for row in found["units"]["rows"]}
    ledger = Ledger.open(f"sqlite:///{booked}/ledger.db")
    requests = ledger.select(t.requests.select())
    ledger.close()
    named = {(row.tenant, row.workload) for row in requests if row.workload not in {"", c.UNKNOWN}}
    costs = {
        (row.boot, row.process, row.sequence): row.prefill_nano + row.decode_nano + row.vision_nano for row in requests
    }
    pictured = [row for row in requests if row.image_tokens and row.outcome == c.FINISHED]
    assert rows["Request"]["units"] == sum(row.outcome == c.FINISHED for row in requests)
    assert rows["Document (named workload)"]["units"] == len(named) > 0
    assert rows["Request with images"]["units"] == len(pictured) > 0
    picture_cost = sum(costs[row.boot, row.process, row.sequence] for row in pictured)
    assert nano(rows["Request with images"]["direct"]) == round(picture_cost / len(pictured))
    assert rows["Image"]["direct"] is None
    assert nano(rows["Million output tokens"]["direct"]) > 0


def test_the_parts_of_the_bill_are_of_the_bill(booked, bill):
    """Every account that holds anything has a part, and they add up."""
    found = json.loads(run(booked, "kpis", "--since", "all", "--output", "json"))["shares"]
    rows = {row["part"]: row for row in found["rows"]}
    assert nano(rows["Bill"]["cost"]) == bill
    apart = {"Bill", "Aborted", "Saved by caches"}
    assert sum(nano(row["cost"]) for name, row in rows.items() if name not in apart) == bill


def test_a_change_is_explained_to_the_nano_dollar(booked, bill):
    """Against a time without work all of it is usage and what has no unit."""
    found = json.loads(run(booked, "kpis", "--since", "2026-01-01", "--against", "2020-01-01", "--output", "json"))
    total_row = found["variance"]["total"]
    parts = sum(nano(total_row[key]) for key in ("usage", "rate", "other", "rounding"))
    assert parts == nano(total_row["change"]) == bill
    for row in found["variance"]["rows"]:
        assert sum(nano(row[key]) for key in ("usage", "rate", "other", "rounding")) == nano(row["change"])
    same = json.loads(run(booked, "kpis", "--since", "2026-01-01", "--against", "2026-01-01", "--output", "json"))
    assert {nano(row["change"]) for row in same["variance"]["rows"]} == {0}


@pytest.mark.parametrize("engine", [TEXT, VISION])
def test_key_figures_of_one_engine_are_those_of_its_ledger_alone(booked, tmp_path, engine):
    """A filter leaves what is theirs."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    cost(load_recording(engine)).write(ledger)
    ledger.close()
    (tmp_path / "farthing.yaml").write_text(f"ledger: sqlite:///{tmp_path}/ledger.db\n")
    alone = json.loads(run(tmp_path, "kpis", "--since", "all", "--output", "json"))
    filtered = json.loads(run(booked, "kpis", "--since", "all", "--engine", engine, "--output", "json"))
    for table in ("units", "shares"):
        assert filtered[table]["rows"] == alone[table]["rows"]


def test_a_ledger_without_any_price_is_unpriced_in_spend_and_key_figures(tmp_path):
    """The word, in every output, and no 0 in its place."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    note_unpriced(ledger, Unpriced("lab", "qwen", "RTX 4090", 1, 0, "no price for GPU 'RTX 4090'"))
    ledger.close()
    (tmp_path / "farthing.yaml").write_text(f"ledger: sqlite:///{tmp_path}/ledger.db\n")
    for command in ("spend", "kpis", "report"):
        for output in ("table", "json", "csv"):
            assert c.UNPRICED in run(tmp_path, command, "--output", output), (command, output)
    units = json.loads(run(tmp_path, "kpis", "--output", "json"))["units"]["rows"]
    assert {row["direct"] for row in units} == {c.UNPRICED}


def test_a_period_that_ends_before_it_begins_is_refused(booked):
    """One line naming both."""
    ran = farthing("kpis", "--since", "today", "--until", "2026-01-01", cwd=booked)
    assert ran.code == 3
    assert "--until '2026-01-01' is not after --since 'today'" in ran.err
