"""The ledger: idempotent, append-only, exactly what the tables say."""

import json
import random
from dataclasses import replace

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from farthing.collectors.schema import MAX_NAMES_BYTES
from farthing.domain.clock import Anchor
from farthing.domain.errors import LedgerError
from farthing.domain.model import CostedRequest, Posting, SettledWindow
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger import tables as t
from farthing.ledger.database import bare_engine, migrate
from farthing.ledger.partitions import partition_names
from farthing.ledger.repository import Boot, Ledger, Posted, RequestRow

KEY = RecordKey("b", 0, 1)
BOOT = Boot("b", "e", "vllm", "m", "H100-SXM", 1, "p", Anchor(1_795_000_000_000_000_000, 0), 1_795_000_000_000_000_000)


@pytest.fixture
def ledger(ledger_url):
    """A fresh ledger."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def _window(nano=10):
    posting = Posting("charged", "decode", "acme", "", "m", "", "", "modelled", nano)
    tokens = {"prompt_computed": 1, "prompt_cached": 2, "engine_output": 3, "encoder": 4}
    return SettledWindow(
        "b",
        0,
        0,
        5,
        nano,
        5,
        {"decode": 5},
        {"steps": 1.0},
        tokens,
        (posting,),
        (CostedRequest(KEY, {"decode": nano}),),
        "f",
    )


def _request():
    return RequestRow(KEY, "e", "r1", 7, "acme", "", "", "", "m", "finished", 200, "both", "", 1, 0, None, 3)


def differences(ledger):
    """Between the tables of the code and those in the database; partitions are part of theirs."""
    dialect = ledger.engine.dialect.name
    with ledger.engine.connect() as connection:
        partitions = partition_names(connection)

        def included(thing, name, kind, reflected, _):
            if kind == "table":
                return name not in partitions
            # an index that the code wants in the other database only
            return reflected or kind != "index" or thing._ddl_if is None or thing._ddl_if.dialect == dialect

        context = MigrationContext.configure(connection, opts={"include_object": included})
        return compare_metadata(context, t.metadata)


def test_the_migrations_make_exactly_the_tables_of_the_code(ledger):
    """A forgotten migration shows up as a difference."""
    assert differences(ledger) == []


def test_a_record_that_comes_twice_is_stored_once(ledger):
    """At least once on the wire is exactly once in the inbox."""
    records = [RawRecord(RecordKey("b", 0, i), "usage", i, json.dumps({"i": i}).encode()) for i in range(5)]
    assert ledger.add(records[:3]) == 3
    assert ledger.add(records) == 2
    assert [raw for _, raw in ledger.records_after(0)] == records
    assert ledger.next_sequence("b", 0) == 5
    assert ledger.next_sequence("other", 0) == 0


def test_a_window_that_is_posted_twice_costs_once(ledger):
    """Recomputing a boot changes nothing."""
    assert ledger.post(BOOT, [_request()], [_window()]) == Posted([_window()], [_request()])
    assert ledger.post(BOOT, [_request()], [_window()]) == Posted([], [])
    assert ledger.select(sa.select(sa.func.sum(t.journal.c.nano))) == [(10,)]
    assert ledger.select(sa.select(t.requests.c.decode_nano)) == [(10,)]


def test_the_longest_names_that_intake_lets_in_can_be_posted(ledger):
    """They are a key of the sums, which PostgreSQL bounds; these cannot be compressed."""
    draw = random.Random(1)  # noqa: S311 - names, not secrets
    sizes = {"engine": 128, "tenant": 256, "project": 64, "model": 32, "tier": 32}
    names = {what: "".join(chr(draw.randrange(0x20000, 0x2A000)) for _ in range(size)) for what, size in sizes.items()}
    assert len("".join(list(names.values())[1:]).encode()) == MAX_NAMES_BYTES
    boot = replace(BOOT, engine=names.pop("engine"))
    (posting,) = _window().postings
    window = _window()._replace(postings=(posting._replace(**names),))
    request = msgspec.structs.replace(_request(), engine=boot.engine, **names, request_id="\U00020000" * 512)
    assert ledger.post(boot, [request], [window]) == Posted([window], [request])
    assert ledger.select(sa.select(t.cost_hours.c.nano)) == [(10,)]


@pytest.mark.parametrize("statement", ["UPDATE journal SET nano = 0", "DELETE FROM journal"])
def test_the_journal_refuses_changes(ledger, statement):
    """Append-only is in the schema, not in good intentions."""
    ledger.post(BOOT, [_request()], [_window()])
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(sa.text(statement))


def test_a_failed_post_leaves_nothing_behind(ledger):
    """A transaction is whole or not at all."""
    with pytest.raises(LedgerError):
        ledger.post(BOOT, [_request()], [_window(2**80)])
    assert ledger.select(sa.select(t.windows.c.bill_nano)) == []


def test_records_of_a_closed_boot_are_not_read_again(ledger):
    """What cannot change is not recomputed."""
    ledger.add([RawRecord(KEY, "usage", 1, b"{}")])
    closed = Boot(**{**{f: getattr(BOOT, f) for f in BOOT.__dataclass_fields__}, "closed_ns": 9})
    ledger.post(closed, [], [])
    assert ledger.records_after(0) == []
    assert ledger.boots() == [closed]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "ledger (not a database URL)"),
        ("sqlite:////proc/nowhere/ledger.db", "cannot be opened"),
        ("postgresql://user:secret@127.0.0.1:1/x", "ledger postgresql"),
    ],
)
def test_a_ledger_that_cannot_be_opened_is_one_clear_line_without_password(url, message):
    """The URL is named, its password is not."""
    with pytest.raises(LedgerError) as caught:
        Ledger.open(url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ledger_of_a_newer_version_is_refused(ledger, ledger_url):
    """An older program does not write into a schema it does not know."""
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="cannot be migrated"):
        Ledger.open(ledger_url)


def test_a_ledger_of_the_first_version_is_migrated_with_what_is_in_it(ledger_url):
    """Nobody has to begin anew."""
    engine = bare_engine(ledger_url)
    migrate(engine, "0001")
    with engine.begin() as connection:
        boots = sa.Table("boots", sa.MetaData(), autoload_with=connection)
        values = {column.name: "b" if isinstance(column.type, sa.String) else 1 for column in boots.columns}
        connection.execute(sa.insert(boots), {**values, "closed_ns": None})
    engine.dispose()
    ledger = Ledger.open(ledger_url)
    (boot,) = ledger.boots()
    assert (boot.boot, boot.lost, boot.refused) == ("b", 1, 0)
    ledger.post(BOOT, [], [])
    assert differences(ledger) == []
    ledger.close()


@pytest.mark.parametrize("count", [1, 3, 70])
def test_a_full_disk_is_said_however_few_records_there_are(tmp_path, count):
    """And what was stored before is there."""
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        assert ledger.add([RawRecord(RecordKey("b", 0, 0), "usage", 1, b"{}")]) == 1
        # it takes no more pages than it has
        sa.event.listen(ledger.engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count=1"))
        ledger.engine.dispose()
        records = [RawRecord(RecordKey("b", 0, 1 + i), "usage", 1, bytes(20_000)) for i in range(count)]
        with pytest.raises(LedgerError, match="disk is full; free some of the disk"):
            ledger.add(records)
        assert ledger.last_id() == 1


def test_a_record_that_comes_twice_at_once_is_new_in_the_first_batch(ledger):
    """Of several batches in one transaction."""
    first, second, third = (RawRecord(RecordKey("b", 0, i), "usage", 1, b"{}") for i in range(3))
    assert ledger.add_each([[first, second], [], [second, second, third], [first]]) == [2, 0, 1, 0]
    assert ledger.add_each([[third], [first]]) == [0, 0]
