"""A statement is explained and recomputed from exported evidence alone; whoever alters a row of it is found out."""

import gzip
import json
import zipfile

import pytest
from tests.books.policies import CARD, POOLS, policy
from tests.service.books import accountant
from tests.service.closings import SETTINGS, close, late_and_on_time, moved, tenants_by_workload

from farthing.domain.errors import PeriodError
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.evidence import export_evidence, verify_evidence
from farthing.service.explanation import explain_line
from farthing.service.issued import issued_statements, mark_dispute, statement_document

POLICIES = {
    "actual": policy(POOLS),
    "period average": policy("mode: chargeback\npricing: period_average\n" + POOLS),
    "rate card": policy("mode: chargeback\n" + CARD.replace("llama-8b", "m") + POOLS),
}


def _closed_ledger(url, recording, chosen, *, months=("2026-11", "2026-12")):
    """A ledger of which two months are closed, the second with adjustments of the first."""
    raw = tenants_by_workload(moved(recording, months[0], 150))
    late, _ = late_and_on_time(raw[: len(raw) // 2], 30, seed=3)
    keys = {record.key for record in late}
    rest = [record for record in raw if record.key not in keys]
    cut = len(rest) * 2 // 3
    ledger = Ledger.open(url)
    ledger.add(rest[:cut])
    books = accountant(ledger, SETTINGS)
    books.advance()
    close(ledger, months[0], policy=chosen)
    ledger.add([*late, *rest[cut:]])
    books.advance()
    close(ledger, months[1], policy=chosen)
    return ledger


@pytest.mark.parametrize("name", ["h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26"])
@pytest.mark.parametrize("pricing", POLICIES)
def test_every_line_of_every_statement_recomputes_from_its_evidence_alone(ledger_url, tmp_path, name, pricing):
    """Text and images, at actual cost, at the period's average and on a rate card, adjustments too."""
    ledger = _closed_ledger(ledger_url, load_recording(name), POLICIES[pricing])
    numbers = [one.number for one in issued_statements(ledger, None, None)]
    assert len(numbers) > 8
    # every statement of a period rests on the same records: recomputing one each costs them again, all are compared
    for number in (numbers[0], numbers[1], numbers[-1]):
        file = tmp_path / f"{number}.zip"
        assert export_evidence(ledger, number, file) > 100
        document = statement_document(ledger, number)
        statement, verdicts = verify_evidence(file)
        assert [one for one in verdicts if not one.ok] == []
        assert {one.name for one in verdicts} >= {"costs_recompute", "lines_recompute", "statement_recomputes"}
        assert statement.number == number
        with zipfile.ZipFile(file) as archive:
            assert archive.read("statement.json") == document
    ledger.close()


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """A ledger of the 8B recording, and the evidence of a tenant's statement."""
    folder = tmp_path_factory.mktemp("evidence")
    ledger = _closed_ledger(
        f"sqlite:///{folder}/ledger.db", load_recording("h100-llama8b-vllm0.26"), POLICIES["period average"]
    )
    export_evidence(ledger, "2026-11-0001", folder / "evidence.zip")
    yield ledger, folder / "evidence.zip"
    ledger.close()


def _altered(source, target, change):
    """A copy of evidence in which ``change`` made of {member: bytes} what it likes."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def _rows(members):
    return [json.loads(line) for line in gzip.decompress(members["records/00000.jsonl.gz"]).decode().splitlines()]


def _put_rows(members, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    members["records/00000.jsonl.gz"] = gzip.compress(text.encode())


@pytest.mark.parametrize("kind", ["usage", "steps"])
def test_an_altered_input_row_is_named(evidence, tmp_path, kind):
    """One token more in one of thousands of records."""
    _, source = evidence
    named = {}

    def change(members):
        rows = _rows(members)
        row = next(row for row in rows if row[4] == kind)
        record = json.loads(row[6])
        if kind == "usage":
            record["prompt_tokens"] = (record.get("prompt_tokens") or 0) + 1
        else:
            record["until_ns"] += 1
        row[6] = json.dumps(record, separators=(",", ":"))
        named["row"] = f"{row[1]}/{row[2]}/{row[3]}"
        _put_rows(members, rows)

    _, verdicts = verify_evidence(_altered(source, tmp_path / "altered.zip", change))
    (wrong,) = [one for one in verdicts if not one.ok]
    assert wrong.name == "inputs_are_the_cited_ones"
    assert named["row"] in wrong.detail


def test_a_row_that_is_altered_with_its_hash_or_left_out_does_not_pass_either(evidence, tmp_path):
    """The closing cites all of them together, and the statement cites the closing's."""
    ledger, source = evidence

    def leave_out(members):
        _put_rows(members, _rows(members)[:-1])

    _, verdicts = verify_evidence(_altered(source, tmp_path / "short.zip", leave_out))
    assert [one.name for one in verdicts if not one.ok] == ["inputs_are_the_cited_ones"]
    assert "boot b" in next(one.detail for one in verdicts if not one.ok)
    assert statement_document(ledger, "2026-11-0001")


@pytest.mark.parametrize(
    ("member", "old", "new", "check"),
    [
        ("policy.json", b'"busy"', b'"tokens"', "policy_is_the_cited_one"),
        ("prices.json", b"3348000000", b"3348000001", "prices_are_the_cited_ones"),
        ("statement.json", b'"quantity":', b'"quantity":1', "statement_recomputes"),
    ],
)
def test_an_altered_policy_price_or_statement_is_named(  # noqa: PLR0917 - a case and its fixtures
    evidence, tmp_path, member, old, new, check
):
    """Whatever of the evidence is not as it was."""
    _, source = evidence

    def change(members):
        assert old in members[member]
        members[member] = members[member].replace(old, new, 1)

    _, verdicts = verify_evidence(_altered(source, tmp_path / "altered.zip", change))
    assert check in [one.name for one in verdicts if not one.ok]


def test_what_is_no_evidence_is_one_clear_error(tmp_path):
    """Not a stack trace."""
    (tmp_path / "evidence.zip").write_bytes(b"PK nothing")
    with pytest.raises(PeriodError, match="not readable as evidence"):
        verify_evidence(tmp_path / "evidence.zip")


def test_a_line_is_explained_down_to_its_requests_fits_prices_and_inputs(evidence):
    """From the amount to the hash of what came in."""
    ledger, _ = evidence
    explanation = explain_line(ledger, "2026-11-0001", 1, top=5)
    told = dict(explanation.told)
    assert told["recomputed"] == "the same"
    assert told["basis: rule"] == "period_average"
    assert len(explanation.requests) == 5
    assert explanation.request_count > 5
    costs = [one.nano for one in explanation.requests]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] > 0
    (engine,) = explanation.engines
    assert engine.windows > 3
    assert engine.fit.startswith("nnls")
    assert len(engine.sha256) == 64
    with pytest.raises(PeriodError, match="has no line 99"):
        explain_line(ledger, "2026-11-0001", 99, top=5)


def test_a_dispute_marks_a_line_and_leaves_the_statement_as_it_is(evidence):
    """It is opened, listed and settled; each mark stays."""
    ledger, _ = evidence
    before = statement_document(ledger, "2026-11-0002")
    mark_dispute(ledger, "2026-11-0002", 1, "Grace Hopper", "disputed", "Not our project", now_ns=1)
    (listed,) = [one for one in issued_statements(ledger, "2026-11", None) if one.disputed]
    assert listed.number == "2026-11-0002"
    with pytest.raises(PeriodError, match="disputed already"):
        mark_dispute(ledger, "2026-11-0002", 1, "Grace Hopper", "disputed", "Still not", now_ns=2)
    mark_dispute(ledger, "2026-11-0002", 1, "Ada Byron", "resolved", "It was", now_ns=3)
    assert not any(one.disputed for one in issued_statements(ledger, "2026-11", None))
    assert statement_document(ledger, "2026-11-0002") == before
    for arguments, problem in (
        (("2026-11-0002", 99, "G", "disputed", "x"), "has no line 99"),
        (("2026-11-9999", 1, "G", "disputed", "x"), "there is no statement"),
        (("2026-11-0002", 1, " ", "disputed", "x"), "who says it and why"),
        (("2026-11-0002", 1, "G", "resolved", "x"), "not disputed"),
    ):
        with pytest.raises(PeriodError, match=problem):
            mark_dispute(ledger, *arguments, now_ns=4)
