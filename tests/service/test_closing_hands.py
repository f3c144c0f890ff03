"""Closed months in many hands: two who close at once, who posts meanwhile, restores, prunes, erases, and alters."""

import copy
import gzip
import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from tests.books.policies import CARD, POOLS, policy
from tests.service.books import accountant
from tests.service.closings import SETTINGS, close, documents, identity, moved
from tests.service.edges import CAPACITY, proven

from farthing.books.periods import bounds
from farthing.domain.clock import HOUR
from farthing.domain.errors import FarthingError, PeriodError
from farthing.ledger import tables as t
from farthing.ledger.backup import back_up, restore
from farthing.ledger.erase import erase_user
from farthing.ledger.prune import Retention, prune
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import verify
from farthing.replay.recording import load_recording
from farthing.service.closing import draft_period
from farthing.service.evidence import export_evidence, verify_evidence
from farthing.service.explanation import explain_line
from farthing.service.issued import issued_statements
from farthing.service.pricing import price_book

NOVEMBER, DECEMBER = "2026-11", "2026-12"
ROOT = Path(__file__).parents[2]
USER = "8f3ae9d1c07b5542"
CLOSE = """
import sys
from tests.service.closings import close
from farthing.domain.errors import PeriodError
from farthing.ledger.repository import Ledger
try:
    close(Ledger.open(sys.argv[1]), "2026-11")
except PeriodError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def raw():
    """Four minutes of an 8B model on one H100, over the end of November; every request names a user."""
    records = moved(load_recording("h100-llama8b-vllm0.26"), NOVEMBER, 120)
    named = b'{"user":"' + USER.encode() + b'",'
    return [msgspec.structs.replace(one, line=named + one.line[1:]) if one.kind == "usage" else one for one in records]


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """A ledger of two closed months of one minute."""
    brief = moved(load_recording("h100-llama8b-vllm0.26"), NOVEMBER, 30)[:900]
    ledger = _closed(f"sqlite:///{tmp_path_factory.mktemp('closed')}/ledger.db", brief, 300)
    yield ledger
    ledger.close()


def _closed(url, raw, cut=1_500):
    """November is closed with adjustments to come."""
    ledger = Ledger.open(url)
    ledger.add(raw[:cut])
    books = accountant(ledger, CAPACITY)
    books.advance()
    close(ledger, NOVEMBER, CAPACITY)
    ledger.add(raw[cut:])
    books.advance()
    close(ledger, DECEMBER, CAPACITY)
    return ledger


@pytest.mark.parametrize("batches", [1, 8, 16])
def test_a_month_that_is_closed_while_another_thread_posts_adds_up(new_ledger_url, tmp_path, raw, batches):
    """What is posted before is in it, what is posted after is the next one's."""
    url = new_ledger_url("ledger")
    ledger, other = Ledger.open(url), Ledger.open(url)
    ledger.add(raw[:400])
    books = accountant(other, SETTINGS)
    books.advance()

    begun = threading.Event()

    def post():
        for number, at in enumerate(range(400, len(raw), 100)):
            if number == batches:
                begun.set()
            other.add(raw[at : at + 100])
            books.advance()

    poster = threading.Thread(target=post)
    poster.start()
    assert begun.wait(60)
    november = close(ledger, NOVEMBER)
    poster.join()
    identity(november)
    december = close(ledger, DECEMBER)
    identity(december)
    bills = november.document.facts.bill_nano + december.document.facts.bill_nano
    assert [(bills,)] == ledger.select(sa.select(t.boots.c.bill_nano))
    proven(ledger, tmp_path)
    other.close()
    ledger.close()


def test_of_two_processes_that_close_a_month_at_once_one_does(new_ledger_url, tmp_path, raw):
    """The other one is told so in one line, and nothing is there twice."""
    url = new_ledger_url("ledger")
    ledger = Ledger.open(url)
    ledger.add(raw)
    accountant(ledger, SETTINGS).advance()
    started = [
        subprocess.Popen([sys.executable, "-c", CLOSE, url], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    said = sorted(process.communicate()[1] for process in started)
    assert sorted(process.returncode for process in started) == [0, 1], said
    assert said == ["", "period 2026-11 is closed already; late work is posted in the next one\n"]
    identity(close(ledger, DECEMBER))
    proven(ledger, tmp_path)
    ledger.close()


def test_a_policy_that_changes_between_draft_and_close_is_the_one_that_is_cited(new_ledger_url, tmp_path, raw):
    """A draft binds nobody; the next month may have another one, and its adjustments follow that."""
    ledger = Ledger.open(new_ledger_url("ledger"))
    ledger.add(raw[:1_500])
    books = accountant(ledger, SETTINGS)
    books.advance()
    first, second = policy(POOLS), policy("mode: chargeback\n" + CARD.replace("llama-8b", "m") + POOLS)
    now = bounds(NOVEMBER)[1] + HOUR
    draft = draft_period(ledger, NOVEMBER, SETTINGS, price_book(SETTINGS), first, now_ns=now)
    november = close(ledger, NOVEMBER, policy=second)
    assert {one.policy_version for one in draft.statements} == {first.version}
    assert {one.policy_version for one in november.statements} == {second.version}
    assert draft.document.facts == november.document.facts
    ledger.add(raw[1_500:])
    books.advance()
    identity(close(ledger, DECEMBER, policy=first))
    proven(ledger, tmp_path)
    ledger.close()


def test_a_restored_ledger_verifies_and_closes_the_next_month_to_the_same_bytes(new_ledger_url, tmp_path, raw):
    """What is closed before the backup is what is closed after it."""
    url, restored_url = new_ledger_url("ledger"), f"sqlite:///{tmp_path}/restored.db"
    ledger = Ledger.open(url)
    ledger.add(raw[:1_500])
    accountant(ledger, CAPACITY).advance()
    close(ledger, NOVEMBER, CAPACITY)
    back_up(url, tmp_path / "backup.zip", made_ns=1)
    restore(restored_url, tmp_path / "backup.zip")
    restored = Ledger.open(restored_url)
    proven(restored, tmp_path)
    for one in (ledger, restored):
        one.add(raw[1_500:])
        accountant(one, CAPACITY).advance()
        identity(close(one, DECEMBER, CAPACITY))
    assert documents(restored) == documents(ledger)
    proven(restored, tmp_path)
    restored.close()
    ledger.close()


def test_evidence_is_the_same_before_and_after_later_closings_and_erasures(tmp_path, raw):
    """Byte for byte, except for who it was."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.add(raw[:1_500])
    books = accountant(ledger, SETTINGS)
    books.advance()
    close(ledger, NOVEMBER)
    early, late, erased = (tmp_path / f"{name}.zip" for name in ("early", "late", "erased"))
    export_evidence(ledger, f"{NOVEMBER}-0001", early)
    ledger.add(raw[1_500:])
    books.advance()
    close(ledger, DECEMBER)
    export_evidence(ledger, f"{NOVEMBER}-0001", late)
    assert early.read_bytes() == late.read_bytes()
    before = documents(ledger)
    assert erase_user(ledger.engine, [USER], now_ns=1).records == sum(one.kind == "usage" for one in raw)
    export_evidence(ledger, f"{NOVEMBER}-0001", erased)
    for file, named in ((early, True), (erased, False)):
        _, verdicts = verify_evidence(file)
        assert [one for one in verdicts if not one.ok] == []
        with zipfile.ZipFile(file) as archive:
            assert (USER.encode() in gzip.decompress(archive.read("records/00000.jsonl.gz"))) == named
    assert documents(ledger) == before
    proven(ledger, tmp_path)
    ledger.close()


def test_pruned_months_are_still_told_and_explained_and_say_what_is_gone(tmp_path, raw):
    """Their statements and sums stay; records that are gone cannot be exported, and those exported before verify."""
    ledger = _closed(f"sqlite:///{tmp_path}/ledger.db", raw)
    number = f"{DECEMBER}-0001"
    before = documents(ledger)
    whole = explain_line(ledger, number, 1, top=3)
    export_evidence(ledger, number, tmp_path / "before.zip")
    prune(ledger.engine, Retention(0, 0, 0, 0), now_ns=bounds(DECEMBER)[1] + 400 * 24 * HOUR)
    assert ledger.select(sa.select(sa.func.count()).select_from(t.windows)) == [(0,)]
    assert documents(ledger) == before
    assert [check for check in verify(ledger.engine) if not check.ok] == []
    told = explain_line(ledger, number, 1, top=3)
    assert told.told == (
        *whole.told,
        ("pruned", "journal, records, requests, windows of this period; a backup has them"),
    )
    assert [one.sha256 for one in told.engines] == [one.sha256 for one in whole.engines]
    with pytest.raises(PeriodError, match="pruned"):
        export_evidence(ledger, number, tmp_path / "after.zip")
    _, verdicts = verify_evidence(tmp_path / "before.zip")
    assert [one for one in verdicts if not one.ok] == []
    accountant(ledger, CAPACITY).advance()
    january = close(ledger, "2027-01", CAPACITY)
    identity(january)
    assert january.document.facts.bill_nano == 31 * 86_400 * 10**6
    ledger.close()


# ---- whoever alters evidence ------------------------------------------------------------------------------


def _members(ledger, folder):
    file = folder / "evidence.zip"
    export_evidence(ledger, issued_statements(ledger, DECEMBER, None)[-1].number, file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _passes(members, folder):
    """Whether altered evidence passes; whatever else it ends in than a verdict or an error of ours is a fault."""
    file = folder / "altered.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    try:
        _, verdicts = verify_evidence(file)
    except FarthingError:
        return False
    return all(one.ok for one in verdicts)


def _leaves(value, path=()):
    """(path, leaf) of a JSON document, the first of each kind."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(one, (*path, key))
    elif isinstance(value, list):
        for place, one in enumerate(value[:1]):
            yield from _leaves(one, (*path, place))
    else:
        yield path, value


@pytest.mark.parametrize("member", ["closing.json", "statement.json", "policy.json", "prices.json", "evidence.json"])
def test_no_field_of_a_document_can_be_altered_without_being_found(closed, tmp_path, member):
    """Nor be made into something else than it is with anything but a refusal."""
    members = _members(closed, tmp_path)
    assert _passes(members, tmp_path)
    document = json.loads(members[member])
    found = list(_leaves(document))
    assert found
    for path, leaf in found:
        other = not leaf if isinstance(leaf, bool) else leaf + 1 if isinstance(leaf, int) else f"{leaf}x"
        for new in (other, None):
            altered = copy.deepcopy(document)
            place = altered
            for step in path[:-1]:
                place = place[step]
            if place[path[-1]] == new:
                continue
            place[path[-1]] = new
            assert not _passes({**members, member: json.dumps(altered).encode()}, tmp_path), (path, new)


def test_no_column_of_a_row_can_be_altered_without_being_found(closed, tmp_path):
    """What stands beside the line decides the order, and is held to what the line says."""
    members = _members(closed, tmp_path)
    name = "records/00000.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(members[name]).decode().splitlines()]
    middle = len(rows) // 2
    for column, value in enumerate(rows[middle]):
        others: list[object] = ["x", None, [], value + 1 if isinstance(value, int) else f"{value} "]
        for new in others:
            altered = [*rows[:middle], [*rows[middle][:column], new, *rows[middle][column + 1 :]], *rows[middle + 1 :]]
            text = "".join(json.dumps(row) + "\n" for row in altered)
            assert not _passes({**members, name: gzip.compress(text.encode())}, tmp_path), (column, new)


def test_a_damaged_member_is_refused_in_one_line(closed, tmp_path):
    """Cut off, emptied, missing, or something else."""
    members = _members(closed, tmp_path)
    for name, data in members.items():
        rest = {other: bytes_ for other, bytes_ in members.items() if other != name}
        for damaged in ({}, {name: b""}, {name: b"[]"}, {name: b"{}"}, {name: data[:-9]}, {name: data[9:]}):
            assert not _passes({**rest, **damaged}, tmp_path), (name, damaged.keys())
