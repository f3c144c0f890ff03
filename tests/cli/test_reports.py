"""Reports, prices, status and check: in every output, footing to the bill to the nano-dollar."""

import csv
import io
import json
import shutil
from decimal import Decimal

import httpx
import pytest
import yaml
from tests.alerts.real_parts import free_port
from tests.cli.commands import farthing
from tests.replay.conftest import TEXT, VISION, cost
from tests.service.books import journal_sums, raw_records
from tests.service.running import served, wait_until

from farthing.books.prices import DEFAULT_PRICES
from farthing.domain import conventions as c
from farthing.domain.errors import EngineUnreachableError
from farthing.ledger.repository import Ledger
from farthing.replay.live import LiveReplay, ReplayOptions
from farthing.replay.offline import to_json
from farthing.replay.recording import load_recording
from farthing.service.reports import GROUPS
from farthing.service.server import Service
from farthing.settings import Settings


@pytest.fixture(scope="module")
def results():
    """The JSON of both replays, by engine."""
    return {name: to_json(cost(load_recording(name))) for name in (TEXT, VISION)}


@pytest.fixture(scope="module")
def bill(results):
    """Nano-dollars of both engines together."""
    return sum(result["bill_nano_usd"] for result in results.values())


def report(booked, *arguments):
    ran = farthing("report", "--since", "2026-11-01", *arguments, cwd=booked)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def nano(cell):
    return 0 if cell is None else cell["nano_usd"]


@pytest.mark.parametrize("by", GROUPS)
def test_every_report_foots_to_the_bill(booked, bill, by):
    """Whatever it groups by: its last column's rows and its total are the bill."""
    found = json.loads(report(booked, "--by", by, "--output", "json"))
    last = [column["key"] for column in found["columns"] if column["kind"] == "money"][-1]
    assert sum(nano(row[last]) for row in found["rows"]) == bill
    assert nano(found["total"][last]) == bill
    for column in found["columns"]:
        if column["kind"] == "money":
            assert (
                sum(nano(row[column["key"]]) for row in found["rows"]) == nano(found["total"][column["key"]])
                or by == "phase"
            )


@pytest.mark.parametrize("by", GROUPS)
def test_csv_carries_the_same_exact_amounts(booked, bill, by):
    """For a spreadsheet: no rounding, no total row that would be added twice."""
    rows = list(csv.DictReader(io.StringIO(report(booked, "--by", by, "--output", "csv"))))
    last = [key for key in rows[0] if key.endswith("_usd")][-1]
    assert sum(Decimal(row[last]) for row in rows if row[last]) == Decimal(bill).scaleb(-9)
    assert all("Bill" not in row.values() for row in rows)


@pytest.mark.parametrize("by", GROUPS)
def test_the_table_shows_the_bill_in_its_last_line(booked, bill, by):
    """Rounded for reading, with its method beneath."""
    shown = report(booked, "--by", by)
    assert "Bill" in shown
    assert "Busy time is metered" in shown
    assert "Work in progress is not in this report." in shown


def test_a_report_by_tenant_has_every_tenant_and_every_other_line(booked, results):
    """What nobody is charged for is there too, in brackets."""
    found = json.loads(report(booked, "--by", "tenant", "--output", "json"))
    rows = {row["tenant"]: row for row in found["rows"]}
    tenants = {name: tenant for result in results.values() for name, tenant in result["tenants"].items()}
    assert {name for name in rows if not name.startswith("(")} == set(tenants)
    for name, tenant in tenants.items():
        assert nano(rows[name]["cost"]) == tenant["cost_nano_usd"] + tenant["aborted_nano_usd"]
        assert nano(rows[name]["aborted"]) == tenant["aborted_nano_usd"]
        assert rows[name]["requests"] == tenant["requests"]
        assert rows[name]["output"] == tenant["tokens"]["output"]
    for account in ("idle", "down"):
        assert nano(rows[f"({account})"]["cost"]) == sum(r[f"{account}_nano_usd"] for r in results.values())


def test_a_report_by_engine_is_that_engines_bill(booked, results):
    """One line per engine, by account."""
    found = json.loads(report(booked, "--by", "engine", "--output", "json"))
    assert {row["engine"]: nano(row["bill"]) for row in found["rows"]} == {
        name: result["bill_nano_usd"] for name, result in results.items()
    }


def test_a_report_by_phase_is_the_journal(booked):
    """Account, phase and method, as they were posted."""
    found = json.loads(report(booked, "--by", "phase", "--output", "json"))
    ledger = Ledger.open(f"sqlite:///{booked}/ledger.db")
    lines = journal_sums(ledger, "debit", "phase", "method")
    ledger.close()
    assert {(row["account"], row["phase"], row["method"]): nano(row["cost"]) for row in found["rows"]} == lines


def test_a_report_ends_where_it_is_told_to_and_says_which_hours_it_covers(booked, bill):
    """Adjoining reports add up to the whole, and times are rounded down to the hour."""
    whole = json.loads(report(booked, "--by", "hour", "--output", "json"))
    cut = f"{whole['rows'][0]['hour'].replace(' ', 'T')[:-2]}59"
    parts = [
        json.loads(farthing("report", *span, "--by", "hour", "--output", "json", cwd=booked).out)
        for span in (("--since", "all", "--until", cut), ("--since", cut))
    ]
    assert [nano(part["total"]["bill"]) for part in parts] == [0, bill]
    assert f"{cut[:10]} {cut[11:13]}:00" in parts[1]["title"]
    wrong = farthing("report", "--since", cut, "--until", "2026-01-01", cwd=booked)
    assert "--until '2026-01-01' is not after --since" in wrong.err
    assert wrong.code == 3


@pytest.mark.parametrize("key", ["tenant", "model", "engine"])
def test_reports_of_each_name_add_up_to_the_report_of_all(booked, bill, key):
    """A filter leaves what is theirs, and says that the total is not the whole bill."""
    rows = json.loads(report(booked, "--by", key, "--output", "json"))["rows"]
    last = "cost" if key == "tenant" else "bill"
    found = {row[key]: nano(row[last]) for row in rows}
    assert sum(found.values()) == bill
    for name, amount in found.items():
        if name.startswith("("):
            continue
        theirs = json.loads(report(booked, f"--{key}", name, "--by", "account", "--output", "json"))
        assert nano(theirs["total"]["cost"]) == amount
        assert f"Only {key} {name}: the total is theirs, not the whole bill." in theirs["notes"]


def test_a_report_of_a_time_without_work_says_so(booked):
    """An empty report is not an error, and not a bill of 0 without a word."""
    ran = farthing("report", "--since", "2026-12-24", cwd=booked)
    assert ran.code == 0
    assert "Nothing is settled in this period." in ran.out


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_prices_are_shown_with_date_and_source(tmp_path, output):
    """All seven defaults, and one's own in place of a default."""
    own = {"gpu": "L4", "usd_per_hour": "0.123456789", "from": "2026-03-01", "source": "our contract"}
    (tmp_path / "farthing.yaml").write_text(yaml.safe_dump({"prices": [own]}))
    ran = farthing("prices", "--output", output, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    for price in DEFAULT_PRICES:
        assert price.gpu in ran.out
    assert "our contract" in ran.out
    assert "0.123456789" in ran.out or output == "table"
    assert "2026-03-01" in ran.out
    assert "0.468" not in ran.out


def test_status_shows_settled_books_when_no_service_answers(booked, tmp_path, results):
    """From the ledger alone, and exit status 0 as long as they balance."""
    config = tmp_path / "farthing.yaml"
    settings = {"ledger": f"sqlite:///{booked}/ledger.db", "serve": {"port": free_port()}}
    config.write_text(yaml.safe_dump({**settings, "stack": {"state_dir": str(tmp_path / "state")}}))
    ran = farthing("status", "--output", "json", cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    shown = json.loads(ran.out)
    assert shown["source"] == "ledger"
    assert {engine["name"]: engine["bill_nano"] for engine in shown["engines"]} == {
        name: result["bill_nano_usd"] for name, result in results.items()
    }
    assert all(engine["residual_nano"] == 0 and engine["state"] == "down" for engine in shown["engines"])
    table = farthing("status", cwd=tmp_path).out
    assert TEXT in table
    assert "farthing serve does not answer: settled books from the ledger." in table
    rows = list(csv.DictReader(io.StringIO(farthing("status", "--output", "csv", cwd=tmp_path).out)))
    assert [row["engine"] for row in rows] == [TEXT, VISION]


def test_status_is_red_when_the_books_do_not_balance(booked, tmp_path):
    """Exit status 1, with the name of the check."""
    copy = tmp_path / "ledger.db"
    shutil.copy(booked / "ledger.db", copy)
    ledger = Ledger.open(f"sqlite:///{copy}")
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cost_hours SET nano = nano - 1 WHERE account = 'down'")
    ledger.close()
    (tmp_path / "farthing.yaml").write_text(
        yaml.safe_dump({"ledger": f"sqlite:///{copy}", "serve": {"port": free_port()}})
    )
    ran = farthing("status", cwd=tmp_path)
    assert ran.code == 1
    assert c.CHECK_RESIDUAL in ran.out


def test_status_is_live_when_the_service_answers(tmp_path):
    """Then it is the picture of the page, work in progress included."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    with served(Service(Settings(), ledger).app) as url:
        port = int(url.rsplit(":", 1)[1])
        (tmp_path / "farthing.yaml").write_text(yaml.safe_dump({"serve": {"port": port}}))
        ran = farthing("status", "--output", "json", cwd=tmp_path)
        checked = farthing("check", "--output", "json", cwd=tmp_path)
    ledger.close()
    assert json.loads(ran.out)["source"] == f"{url}/api/v1/snapshot"
    findings = {finding["subject"]: finding for finding in json.loads(checked.out)}
    assert findings["service"]["level"] == "ok"


def test_status_tells_what_output_costs_now_and_in_a_full_engine(tmp_path):
    """Beside one another, from a service that has just costed a recording; in the currency's own units."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.add(raw_records(load_recording(TEXT)))
    with served(Service(Settings(), ledger).app) as url:
        (tmp_path / "farthing.yaml").write_text(yaml.safe_dump({"serve": {"port": int(url.rsplit(":", 1)[1])}}))
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, 60, "costing of what was stored")
        table = farthing("status", "--output", "csv", cwd=tmp_path)
    ledger.close()
    (row,) = csv.DictReader(io.StringIO(table.out))
    now, full = Decimal(row["now_usd"]), Decimal(row["full_usd"])
    assert 1.5 < now / full < 4
    assert Decimal("0.1") < full < Decimal("0.3")


def test_check_tells_what_is_degraded_and_why(tmp_path):
    """A recorded vLLM without the probe, at list prices, with no service."""
    replay = LiveReplay(load_recording(TEXT), ReplayOptions("e", "http://unused", None, lead_seconds=60.0))
    with served(replay.app) as url:
        settings = {"serve": {"port": free_port()}, "engines": [{"name": "llama", "url": url, "gpu": "H100-SXM"}]}
        (tmp_path / "farthing.yaml").write_text(yaml.safe_dump(settings))
        ran = farthing("check", "--output", "json", cwd=tmp_path)
        table = farthing("check", cwd=tmp_path)
        rows = list(csv.DictReader(io.StringIO(farthing("check", "--output", "csv", cwd=tmp_path).out)))
    assert (ran.code, ran.err) == (table.code, table.err) == (0, "")
    findings = json.loads(ran.out)
    levels = {(finding["subject"], finding["level"]) for finding in findings}
    assert {("ledger", "ok"), ("prices", "degraded"), ("service", "degraded")} <= levels
    assert {("engine llama", "ok"), ("engine llama", "degraded")} <= levels
    assert any("no probe reports from it" in finding["detail"] for finding in findings)
    assert [row["subject"] for row in rows] == [finding["subject"] for finding in findings]
    assert "degraded" in table.out


def test_check_goes_on_after_a_failure(tmp_path, booked):
    """One engine that is away must not hide what is wrong with the next; the first decides the exit status."""
    away = [{"name": name, "url": f"http://127.0.0.1:{free_port()}", "gpu": "L4"} for name in ("a", "b")]
    settings = {"ledger": f"sqlite:///{booked}/ledger.db", "serve": {"port": free_port()}, "engines": away}
    (tmp_path / "farthing.yaml").write_text(yaml.safe_dump(settings))
    ran = farthing("check", "--output", "json", cwd=tmp_path)
    assert ran.code == EngineUnreachableError.exit_code
    failed = [finding["subject"] for finding in json.loads(ran.out) if finding["level"] == "failed"]
    assert failed == ["engine a", "engine b"]
    assert [line.split(": ")[1] for line in ran.err.splitlines()] == failed
