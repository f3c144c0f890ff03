"""The evidence of a statement: all that it was computed from in one file, and its recomputation from that alone.

The file is a ZIP of plain JSON: the statement, the closing of its period, the policy, the prices and, for every boot,
its input records with a hash each. ``verify_evidence`` needs no ledger, no settings and no network.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from farthing.books.closing import ClosingDocument, decode_closing, with_closing
from farthing.books.facts import Cost, PeriodFacts
from farthing.books.periods import period_of
from farthing.books.policy import Policy, parse_policy
from farthing.books.recompute import recompute_line
from farthing.books.shared_costs import shared_cost_nano
from farthing.books.statement import Statement, decode_statement, encode_statement, sha256_of
from farthing.books.statements import build_statements
from farthing.books.tariff import parse_tariff
from farthing.collectors.wire import decode_raw
from farthing.costing.stream import Options
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.errors import PeriodError
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.evidence import evidence_hash
from farthing.ledger.period_books import PeriodBooks
from farthing.ledger.repository import Ledger
from farthing.service.recosting import Recosted, recost

__all__ = ["Verdict", "export_evidence", "verify_evidence"]

FORMAT = 2
_STAMP = (1980, 1, 1, 0, 0, 0)
"""Every member's time: equal evidence has equal bytes."""
_UNREADABLE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
)
"""What reading a file that is no evidence, or that somebody wrote into, may raise."""
_NOTES = (c.INBOX_REFUSED, c.INBOX_SILENT, c.INBOX_ABANDONED)
"""Kinds of what Farthing itself remembers among the records."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One step of a recomputation: what was compared, whether it agrees, and what does not."""

    name: str
    ok: bool
    detail: str


# ---- export --------------------------------------------------------------------------------------


def export_evidence(ledger: Ledger, number: str, target: Path) -> int:
    """Write a statement's evidence; returns how many input records it holds.

    Raises PeriodError when there is no such statement, or records of its period were pruned.
    """
    count = 0
    with transaction(ledger.engine) as connection:
        statement = _statement(connection, number)
        books = PeriodBooks(connection)
        row = connection.execute(
            sa.select(t.closings.c.document, t.closings.c.policy_version).where(t.closings.c.period == statement.period)
        ).one()
        document = decode_closing(bytes(row.document))
        policy = books.version("policy", row.policy_version)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            _put(archive, "statement.json", encode_statement(statement))
            _put(archive, "closing.json", bytes(row.document))
            _put(archive, "policy.json", (policy or "").encode())
            _put(archive, "prices.json", _prices(books, document))
            for place, boot in enumerate(document.boots):
                lines, digest = [], hashlib.sha256()
                for record, line in books.inputs(boot.members, boot.read_id):
                    hashed = evidence_hash(line)
                    digest.update(hashed)
                    lines.append(_row(record, line, hashed))
                if digest.hexdigest() != boot.sha256:
                    raise PeriodError(
                        f"statement {number}: the input records of boot {boot.name} are not those of the closing any "
                        "more (pruned, or altered); restore them from a backup to explain it"
                    )
                count += len(lines)
                _put(archive, f"records/{place:05d}.jsonl.gz", gzip.compress("".join(lines).encode(), mtime=0))
            _put(archive, "evidence.json", json.dumps({"format": FORMAT, "number": number, "records": count}).encode())
    return count


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _STAMP), data, zipfile.ZIP_DEFLATED)


def _statement(connection: sa.Connection, number: str) -> Statement:
    s = t.statements.c
    found = connection.execute(sa.select(s.document).where(s.number == number)).scalar()
    if found is None:
        raise PeriodError(f"there is no statement {number!r}; farthing statement list shows those that were issued")
    return decode_statement(bytes(found))


def _prices(books: PeriodBooks, document: ClosingDocument) -> bytes:
    wanted = {boot.price_version for boot in document.boots} | {one.price_version for one in document.accruals}
    return json.dumps(
        {version: content for version in sorted(wanted) if (content := books.version("price", version))}, sort_keys=True
    ).encode()


def _row(record: Any, line: bytes, hashed: bytes) -> str:
    values = [record.id, record.boot, record.process, record.sequence, record.kind, record.event_ns]
    return json.dumps([*values, line.decode("utf-8", "surrogateescape"), hashed.hex()]) + "\n"


# ---- verification --------------------------------------------------------------------------------


def verify_evidence(source: Path) -> tuple[Statement, list[Verdict]]:
    """Recompute a statement from its evidence alone; the verdicts name the first thing that does not agree.

    Raises PeriodError when the file is no evidence.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return _verify(archive)
    except _UNREADABLE as error:
        raise PeriodError(f"{source}: not readable as evidence ({error}); export it again") from error


def _verify(archive: zipfile.ZipFile) -> tuple[Statement, list[Verdict]]:
    statement = decode_statement(archive.read("statement.json"))
    closing = archive.read("closing.json")
    document = decode_closing(closing)
    manifest = json.loads(archive.read("evidence.json"))
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format is {manifest['format']}, and this version reads {FORMAT}")
    policy = parse_policy(archive.read("policy.json").decode())
    prices: dict[str, str] = json.loads(archive.read("prices.json"))
    verdicts = [
        _citation(statement, document, closing, str(manifest["number"])),
        Verdict("policy_is_the_cited_one", policy.version == statement.policy_version, policy.version),
    ]
    wrong = [version for version, content in prices.items() if parse_tariff(content).version != version]
    verdicts.append(Verdict("prices_are_the_cited_ones", not wrong, ", ".join(wrong)))
    verdicts.append(_inputs(archive, document, manifest))
    if all(verdict.ok for verdict in verdicts):
        verdicts += _recompute(archive, document, prices, policy, statement)
    return statement, verdicts


def _citation(statement: Statement, document: ClosingDocument, closing: bytes, number: str) -> Verdict:
    """What the statement cites against the closing, and that against the boots in it."""
    cited = {boot.name: boot.sha256 for boot in document.boots}
    wrong = "" if document.facts.evidence == cited else "the closing's facts cite other records than its boots"
    if statement.evidence != with_closing(cited, document.facts.period, closing):
        wrong = "the closing is not the one that the statement cites: it was altered, or is another's"
    if statement.number != number:
        wrong = f"the evidence is of statement {number}"
    return Verdict("statement_cites_inputs", not wrong, wrong or f"{len(cited)} boots")


def _inputs(archive: zipfile.ZipFile, document: ClosingDocument, manifest: dict[str, Any]) -> Verdict:
    """Every input row against its hash, and the hashes against what the closing cites."""
    problem, count = "", 0
    for place, boot in enumerate(document.boots):
        digest, last = hashlib.sha256(), 0
        for key, row, line, hashed in _rows(archive, place):
            count += 1
            digest.update(bytes.fromhex(hashed))
            in_order = last < row[0] <= boot.read_id
            if evidence_hash(line).hex() != hashed or not in_order or not _is_said(key, row, line):
                problem = problem or f"record {key.boot}/{key.process}/{key.sequence} was altered"
            last = row[0]
        if digest.hexdigest() != boot.sha256 and not problem:
            problem = f"the records of boot {boot.name} are not those that were closed: one was altered with its hash, "
            problem += "added, taken away or moved"
    if count != manifest["records"] and not problem:
        problem = f"{count} records are there, and {manifest['records']} were exported"
    return Verdict("inputs_are_the_cited_ones", not problem, problem or f"{count} records")


def _is_said(key: RecordKey, row: Sequence[Any], line: bytes) -> bool:
    """Whether what stands beside a record's line is what the line says."""
    if row[4] in _NOTES:
        return True
    raw = decode_raw(line)
    return (raw.key, raw.kind, raw.event_ns) == (key, row[4], row[5])


def _rows(archive: zipfile.ZipFile, place: int) -> Iterator[tuple[RecordKey, Any, bytes, str]]:
    for text in gzip.decompress(archive.read(f"records/{place:05d}.jsonl.gz")).decode().splitlines():
        row = json.loads(text)
        line = row[6].encode("utf-8", "surrogateescape")
        yield RecordKey(row[1], row[2], row[3]), row, line, row[7]


def _records(archive: zipfile.ZipFile, place: int) -> Iterator[tuple[int, RawRecord]]:
    for key, row, line, _ in _rows(archive, place):
        yield row[0], RawRecord(key, row[4], row[5], line)


def _recompute(
    archive: zipfile.ZipFile, document: ClosingDocument, prices: dict[str, str], policy: Policy, statement: Statement
) -> list[Verdict]:
    recosted = Recosted()
    costing = document.costing
    options = Options(costing["window_seconds"] * SECOND, costing["grace_seconds"] * SECOND, costing["horizon_windows"])
    wrong = ""
    for place, boot in enumerate(document.boots):
        if boot.price_version not in prices:
            return [Verdict("boots_are_priced", False, f"boot {boot.name}: price {boot.price_version} is missing")]
        tariff = parse_tariff(prices[boot.price_version])
        before = recosted.nano
        recost(boot, _records(archive, place), tariff, options, document.facts.period, recosted)
        owed = boot.opening_wip_nano + boot.bill_nano - boot.closing_wip_nano
        if recosted.nano - before != owed:
            wrong = wrong or f"boot {boot.name}: {owed} nano stated, {recosted.nano - before} recomputed"
    facts = _with_recosted(document, recosted, prices, policy)
    verdicts = [
        Verdict("bill_recomputes", not (wrong or (wrong := _sums(document))), wrong or f"{len(document.boots)} boots")
    ]
    stated, found = document.facts.costs, facts.costs
    if any(boot.gpu_uuids for boot in document.boots):
        # their energy came in records of devices, which no amount depends on
        stated, found = _money(stated), _money(found)
    verdicts += [_same("costs_recompute", found, stated)]
    verdicts.append(_same("usage_recomputes", facts.usage, document.facts.usage))
    if document.facts.period != statement.period:
        return [*verdicts, Verdict("statement_recomputes", False, f"the closing is of {document.facts.period}")]
    for line in statement.lines:
        amount = recompute_line(line, facts, policy)
        if amount != line.amount_nano:
            detail = f"line {line.line}: {line.amount_nano} nano stated, {amount} recomputed"
            return [*verdicts, Verdict("lines_recompute", False, detail)]
    verdicts.append(Verdict("lines_recompute", True, f"{len(statement.lines)} lines"))
    built = build_statements(facts, policy, signed_by=document.signed_by, issued_ns=document.issued_ns)
    again = next((one for one in built if one.number == statement.number), None)
    # the citation is compared already
    same = again is not None and encode_statement(replace(again, evidence=statement.evidence)) == encode_statement(
        statement
    )
    verdicts.append(Verdict("statement_recomputes", same, sha256_of(encode_statement(statement))))
    return verdicts


def _sums(document: ClosingDocument) -> str:
    """What of the period's amounts is not the sum of its boots' and of what was bought beside them."""
    facts, boots = document.facts, document.boots
    for name, stated, found in (
        ("opening work in progress", facts.opening_wip_nano, sum(boot.opening_wip_nano for boot in boots)),
        ("closing work in progress", facts.closing_wip_nano, sum(boot.closing_wip_nano for boot in boots)),
        ("bill", facts.bill_nano, sum(one.bill_nano for one in boots) + sum(one.nano for one in document.accruals)),
    ):
        if stated != found:
            return f"{name}: {stated} nano stated, {found} added up"
    return ""


def _with_recosted(
    document: ClosingDocument, recosted: Recosted, prices: dict[str, str], policy: Policy
) -> PeriodFacts:
    """The period's facts with recomputed costs and usage: of boots from their records, of the rest from prices."""
    shared = {cost.name: cost for cost in policy.shared_costs if not cost.currency}
    for one in document.accruals:
        content = prices.get(one.price_version)
        nano = one.nano
        if content is not None and one.start_ns >= document.facts.start_ns:
            nano = parse_tariff(content).bill(one.start_ns, one.end_ns)
        elif cost := shared.get(one.source if one.account == c.SHARED and not content else ""):
            nano = shared_cost_nano(cost, one.start_ns, one.end_ns)
        key = (_service(one.end_ns), one.account, "", "", "", "", "", one.reason, c.METERED)
        recosted.costs[key][0] += nano
    costs = tuple(sorted(recosted.as_costs()))
    return replace(document.facts, costs=costs, usage=tuple(sorted(recosted.as_usage())))


def _money(costs: Iterable[Cost]) -> tuple[Cost, ...]:
    """Costs without energy; what was only energy is none."""
    return tuple(cost._replace(millijoules=0) for cost in costs if cost.nano)


def _service(end_ns: int) -> str:
    return period_of(end_ns - 1)


def _same(name: str, found: tuple[Any, ...], stated: tuple[Any, ...]) -> Verdict:
    if sorted(found) == sorted(stated):
        return Verdict(name, True, f"{len(stated)} sums")
    differing = sorted({*found} ^ {*stated})
    shown = ", ".join(str(part) for part in differing[0] if part != "")
    return Verdict(name, False, f"{len(differing)} sums differ; first: {shown}")
