"""Erasing a user: who asked is gone, and every figure, hash and other byte is what it was."""

import hashlib
import hmac

import pytest
import sqlalchemy as sa
from tests.ledger.booked import DAY, PERIOD, USER, close, content, fill

from farthing.books.periods import bounds
from farthing.collectors.wire import decode_line
from farthing.domain.errors import LedgerError
from farthing.domain.records import RawRecord, RecordKey, Usage
from farthing.ledger import tables as t
from farthing.ledger.erase import Erased, erase_user
from farthing.ledger.evidence import boot_evidence
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import verify
from farthing_probe.attribution import attribute, pseudonym
from farthing_probe.settings import Settings

NOW = bounds(PERIOD)[1] + 3 * DAY


@pytest.fixture
def ledger(ledger_url):
    """Two recordings whose requests have users, and a closed period."""
    ledger = Ledger.open(ledger_url)
    fill(ledger, users=True)
    close(ledger)
    yield ledger
    ledger.close()


def _lines(ledger):
    query = sa.select(t.records.c.id, t.records.c.line).order_by(t.records.c.id)
    return {row.id: bytes(row.line) for row in ledger.select(query)}


def test_who_asked_is_gone_and_nothing_else_is_changed(ledger):
    """Every other byte of the records, every other table, and what verifying finds."""
    before, tables = _lines(ledger), content(ledger, "records", "erasures")
    evidence = [boot_evidence(ledger, boot.boot) for boot in ledger.boots()]
    erased = erase_user(ledger.engine, [USER], now_ns=NOW)
    after = _lines(ledger)
    named = {place for place, line in before.items() if USER.encode() in line}
    assert erased == Erased(len(named), {})
    assert len(named) > 500
    for place, line in before.items():
        assert after[place] == line.replace(f'"user":"{USER}"'.encode(), b'"user":""')
    assert content(ledger, "records", "erasures") == tables
    assert [boot_evidence(ledger, boot.boot) for boot in ledger.boots()] == evidence
    assert [check for check in verify(ledger.engine) if not check.ok] == []
    (place,) = sorted(named)[:1]
    record = decode_line(after[place])
    assert isinstance(record, Usage)
    assert record.user == ""


def test_the_log_says_when_and_how_many_and_never_who(ledger):
    """Also of an erasure that found nobody."""
    erase_user(ledger.engine, [USER], now_ns=NOW)
    erase_user(ledger.engine, [USER], now_ns=NOW + 1)
    rows = ledger.select(sa.select(t.erasures).order_by(t.erasures.c.number))
    assert [(row.number, row.at_ns, row.records > 0) for row in rows] == [(1, NOW, True), (2, NOW + 1, False)]
    assert USER not in repr(rows)
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(sa.delete(t.erasures))


def test_a_name_with_anything_in_it_is_found(ledger):
    """Quotes, accents and what LIKE would take for a pattern; a name that only contains it is somebody else's."""
    name = 'J\u00fcrgen "%_" \\ \u2603'
    line = '{"kind":"usage","v":1,"boot":"x","proc":0,"seq":%d,"user":%s,"tenant":"acme"}'
    names = ['"J\u00fcrgen \\"%_\\" \\\\ \u2603"', '"J\u00fcrgen \\"%_\\" \\\\ \u2603 junior"', '"acme"']
    records = [
        RawRecord(RecordKey("x", 0, place), "usage", 0, (line % (place, text)).encode())
        for place, text in enumerate(names)
    ]
    ledger.add(records)
    assert erase_user(ledger.engine, [name], now_ns=NOW).records == 1
    lines = list(_lines(ledger).values())[-3:]
    assert lines == [records[0].line.replace(names[0].encode(), b'""'), records[1].line, records[2].line]
    # the tenant of that name keeps its own
    assert erase_user(ledger.engine, ["acme"], now_ns=NOW).records == 1
    assert list(_lines(ledger).values())[-1].endswith(b'"user":"","tenant":"acme"}')


def test_other_columns_that_hold_the_name_are_told(ledger):
    """Senders put into request ids what they please, and the books are by tenant: that is for people to decide."""
    with ledger.engine.begin() as connection:
        row = connection.execute(sa.select(t.requests).limit(1)).one()
        where = (t.requests.c.boot == row.boot, t.requests.c.sequence == row.sequence)
        connection.execute(sa.update(t.requests).where(*where).values(request_id=f"chat-{USER}-1"))
    assert erase_user(ledger.engine, [USER], now_ns=NOW).elsewhere == {"request_id": 1}


@pytest.mark.parametrize("users", [[], [""], [USER, ""]])
def test_nobody_is_not_a_user(ledger, users):
    """An empty name would be everybody who has none."""
    with pytest.raises(LedgerError, match="no user to erase"):
        erase_user(ledger.engine, users, now_ns=NOW)


def test_the_name_is_in_no_file_of_a_sqlite_ledger_any_more(tmp_path):
    """Neither in free pages nor in the log of writes."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    fill(ledger, users=True)
    assert any(USER.encode() in path.read_bytes() for path in tmp_path.iterdir())
    erase_user(ledger.engine, [USER], now_ns=NOW)
    assert [path.name for path in tmp_path.iterdir() if USER.encode() in path.read_bytes()] == []
    ledger.close()


def test_a_pseudonym_is_what_the_probe_makes_of_the_name():
    """So that a name can be erased where the salt is known."""
    settings = Settings(salt=b"grains")
    stored = attribute({b"x-user-id": b"ada"}, settings)["user"]
    assert stored == pseudonym(b"ada", b"grains")
    assert stored == hmac.new(b"grains", b"ada", hashlib.sha256).hexdigest()[:16]
