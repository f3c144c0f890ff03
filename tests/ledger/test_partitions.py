"""Daily partitions in PostgreSQL: every row has its place, no figure depends on it, and old ledgers are moved whole."""

import threading
from collections import Counter
from dataclasses import replace

import pytest
import sqlalchemy as sa
from tests.ledger.test_repository import BOOT, differences
from tests.service.books import accountant, raw_records

from farthing.domain.clock import SECOND, Anchor
from farthing.domain.errors import LedgerError
from farthing.domain.model import CostedRequest, Posting, SettledWindow
from farthing.domain.records import RecordKey
from farthing.ledger import tables as t
from farthing.ledger.database import bare_engine, migrate, transaction
from farthing.ledger.partitions import DAY, partition_names
from farthing.ledger.repository import Ledger, RequestRow
from farthing.replay.recording import load_recording

pytestmark = pytest.mark.real

MIDNIGHT = 20_785 * DAY
"""2026-11-28, 00:00 UTC."""


@pytest.fixture
def ledger(postgres):
    """An empty ledger in PostgreSQL."""
    url = postgres.database()
    ledger = Ledger.open(url)
    yield ledger
    ledger.close()
    postgres.drop(url)


def _boot(wall_ns, name="b"):
    return replace(BOOT, boot=name, anchor=Anchor(wall_ns, 0), started_ns=wall_ns)


def _post(ledger, boot, *, ended_ns=2, sequence=1, start_ns=0, nano=10):
    """One request and a window of 5 ns that charges it."""
    key = RecordKey(boot.boot, 0, sequence)
    wall = boot.anchor.to_wall(ended_ns)
    request = RequestRow(key, "e", "r", wall, "acme", "", "", "", "m", "finished", 200, "both", "", 1, 0, None, 3)
    posting = Posting("charged", "decode", "acme", "", "m", "", "", "modelled", nano)
    phases = {"decode": 5}
    window = SettledWindow(
        boot.boot,
        0,
        start_ns,
        start_ns + 5,
        nano,
        5,
        phases,
        {},
        {},
        (posting,),
        (CostedRequest(key, {"decode": nano}),),
        "f",
    )
    return ledger.post(boot, [request], [window])


def places(ledger):
    """How many rows lie in which partition."""
    found: Counter[str] = Counter()
    with ledger.engine.connect() as connection:
        for name in sorted(partition_names(connection)):
            rows = connection.execute(sa.select(sa.func.count()).select_from(sa.table(name))).scalar()
            found[name] = rows
    return found


def test_each_day_has_its_own_partition_and_the_next_one_is_there_already(ledger):
    """Rows never wait for a partition, and none is left to the default one."""
    _post(ledger, _boot(MIDNIGHT - 1))
    _post(ledger, _boot(MIDNIGHT - 3 * DAY, "early"))
    assert places(ledger) == {
        "journal_20261125": 1,
        "journal_20261126": 0,
        "journal_20261127": 1,
        "journal_20261128": 0,
        "journal_default": 0,
        # it ended a nanosecond after midnight
        "requests_20261125": 1,
        "requests_20261126": 0,
        "requests_20261128": 1,
        "requests_20261129": 0,
        "requests_default": 0,
    }


def test_a_clock_that_is_wrong_by_decades_makes_no_partition(ledger):
    """Its rows are in the default partition, where they count like any other."""
    _post(ledger, _boot(0))
    _post(ledger, _boot(MIDNIGHT * 9 // 2, "late"))
    assert places(ledger) == {"journal_default": 2, "requests_default": 2}
    assert ledger.select(sa.select(sa.func.sum(t.requests.c.decode_nano))) == [(20,)]


def test_a_day_whose_first_row_went_to_the_default_partition_stays_there(ledger):
    """Nothing fails, and nothing is counted twice."""
    _post(ledger, _boot(MIDNIGHT))
    with ledger.engine.begin() as connection:
        for table in ("journal", "requests"):
            connection.execute(sa.text(f"ALTER TABLE {table} DETACH PARTITION {table}_20261129"))
            connection.execute(sa.text(f"DROP TABLE {table}_20261129"))
        (line,) = connection.execute(sa.select(t.journal)).all()
        connection.execute(sa.insert(t.journal), {**line._asdict(), "id": 100, "wall_start_ns": MIDNIGHT + DAY})
    _post(ledger, _boot(MIDNIGHT + DAY, "next"))
    found = places(ledger)
    assert (found["journal_default"], found["requests_20261129"], found["journal_20261130"]) == (2, 1, 0)
    assert ledger.select(sa.select(sa.func.sum(t.journal.c.nano))) == [(30,)]


def test_no_partition_of_the_journal_can_be_changed(ledger):
    """The triggers are there however a line is reached, in partitions old and new."""
    _post(ledger, _boot(MIDNIGHT))
    _post(ledger, _boot(MIDNIGHT + DAY, "next"))
    _post(ledger, _boot(0, "stray"))
    for table in ("journal", "journal_20261128", "journal_20261129", "journal_default"):
        for change in ("UPDATE {} SET nano = 0", "DELETE FROM {}"):
            with pytest.raises(sa.exc.IntegrityError, match="append-only"), ledger.engine.begin() as connection:
                connection.execute(sa.text(change.format(table)))


def test_a_cost_finds_its_request_however_long_before_the_window_it_ended(ledger):
    """Where partitions are spared, no nano-dollar is."""
    for days in (0, 1, 2, 400):
        boot = _boot(MIDNIGHT, f"b{days}")
        _post(ledger, boot, ended_ns=2 - days * DAY)
        _post(ledger, boot, ended_ns=2 - days * DAY, start_ns=5)
    assert ledger.select(sa.select(t.requests.c.decode_nano)) == [(20,)] * 4


def test_a_cost_is_not_looked_for_in_the_partitions_of_earlier_days(ledger):
    """What a posting takes does not grow with the age of the ledger."""
    for day in range(20):
        _post(ledger, _boot(MIDNIGHT - 2 * day * DAY, str(day)))
    statements = []
    sa.event.listen(ledger.engine, "before_cursor_execute", lambda *event: statements.append(event[2:4]))
    _post(ledger, _boot(MIDNIGHT), start_ns=5)
    (update,) = [found for found in statements if "UPDATE requests" in found[0]]
    with ledger.engine.connect() as connection:
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {update[0]}", update[1]).scalars())
    touched = {name for name in places(ledger) if name in plan}
    assert touched == {"requests_20261127", "requests_20261128", "requests_20261129", "requests_default"}


def test_two_programs_that_need_the_same_new_day_both_get_it(ledger):
    """Whoever comes second waits and finds it there."""
    url = ledger.engine.url.render_as_string(hide_password=False)
    others = [Ledger.open(url) for _ in range(4)]
    start, failures = threading.Barrier(len(others)), []

    def post(number):
        start.wait()
        try:
            for day in range(6):
                _post(others[number], _boot(MIDNIGHT + day * DAY, f"{number} {day}"))
        except LedgerError as error:
            failures.append(error)

    threads = [threading.Thread(target=post, args=(number,)) for number in range(len(others))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert failures == []
    found = places(ledger)
    assert [found[f"journal_{20261128 + day}"] for day in range(3)] == [4, 4, 4]
    assert found["journal_default"] == found["requests_default"] == 0


def test_a_ledger_of_the_version_before_is_moved_row_by_row(postgres, tmp_path):
    """A recorded run over midnight: the same rows, numbers, sums, keys, indexes and triggers as in SQLite."""
    raw = raw_records(load_recording("h100-llama8b-vllm0.26"), wall_start_ns=MIDNIGHT - 100 * SECOND)
    source = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    source.add(raw)
    accountant(source).advance()
    url = postgres.database()
    engine = bare_engine(url)
    migrate(engine, "0003")
    with transaction(engine, write=True) as connection:
        then = sa.MetaData()
        then.reflect(connection)
        for table in then.tables.values():
            if table.name in t.metadata.tables:
                columns = [t.metadata.tables[table.name].c[column.name] for column in table.columns]
                rows = [row._asdict() for row in source.select(sa.select(*columns))]
                if rows:
                    connection.execute(sa.insert(table), rows)
        for numbered in (t.journal, t.records):
            last = sa.select(sa.func.max(numbered.c.id)).scalar_subquery()
            connection.execute(sa.select(sa.func.setval(f"{numbered.name}_id_seq", last)))
    migrate(engine, "head")

    def held(ledger):
        # what later versions add is theirs to fill
        found = {}
        for name in ("boots", "windows", "journal", "requests", "cost_hours"):
            columns = [t.metadata.tables[name].c[column.name] for column in then.tables[name].columns]
            found[name] = sorted(map(tuple, ledger.select(sa.select(*columns))))
        return found

    ledger = Ledger(engine)
    assert held(ledger) == held(source)
    found = places(ledger)
    lines = len(source.select(sa.select(t.journal.c.id)))
    assert found["journal_20261127"] + found["journal_20261128"] == lines
    assert min(found["journal_20261127"], found["journal_20261128"], found["requests_20261128"]) > 100
    assert found["journal_default"] == found["requests_default"] == 0
    assert differences(ledger) == []
    inspector = sa.inspect(engine)
    assert inspector.get_pk_constraint("journal")["constrained_columns"] == ["id", "wall_start_ns"]
    key = ["boot", "process", "sequence", "ended_wall_ns"]
    assert inspector.get_pk_constraint("requests")["constrained_columns"] == key
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text("UPDATE journal SET nano = 0"))

    # the numbering goes on, and an accountant that starts on it posts nothing twice
    again = accountant(ledger)
    again.advance()
    assert held(ledger) == held(source)
    _post(ledger, _boot(MIDNIGHT, "new"))
    assert ledger.select(sa.select(sa.func.max(t.journal.c.id))) == [(lines + 1,)]
    source.close()
    ledger.close()
    postgres.drop(url)
