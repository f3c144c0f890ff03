"""Pruning: old rows go, and no figure changes; what is not sealed stays, whatever happens in between."""

import json
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from tests.ledger.booked import DAY, PERIOD, close, content, fill, meddle, run
from tests.replay.conftest import TEXT
from tests.service.books import accountant, raw_of
from tests.service.closings import SETTINGS as CLOSING_SETTINGS
from tests.service.closings import close as close_month
from tests.service.closings import late_and_on_time, moved
from tests.service.devices import device

from farthing.books.periods import bounds
from farthing.domain.errors import LedgerError
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger import prune as pruning
from farthing.ledger import tables as t
from farthing.ledger.append_only import allow, protect
from farthing.ledger.backup import back_up, restore
from farthing.ledger.database import transaction
from farthing.ledger.evidence import boot_evidence
from farthing.ledger.partitions import partition_names
from farthing.ledger.period_books import PeriodBooks
from farthing.ledger.prune import Retention, prune
from farthing.ledger.prune_devices import old_samples
from farthing.ledger.repository import Ledger, Posted
from farthing.ledger.verify import verify, verify_within
from farthing.replay.recording import load_recording
from farthing.service.reports import GROUPS, report
from farthing.service.totals import Totals
from farthing_probe import wire

END = bounds(PERIOD)[1]
LATE = END + 500 * DAY
"""Everything is old enough to go."""
PRUNED = ("records", "requests", "windows", "journal")


@pytest.fixture
def ledger(ledger_url):
    """Two recordings, not closed yet."""
    ledger = Ledger.open(ledger_url)
    fill(ledger, users=True)
    yield ledger
    ledger.close()


def _wrong(ledger):
    return [check for check in verify(ledger.engine) if not check.ok]


def _rows(ledger):
    return {name: len(rows) for name, rows in content(ledger).items() if name in PRUNED}


def _figures(ledger):
    """What totals, periods and statements are made of; every report, and what a restarted service shows."""
    totals = Totals.load(ledger)
    with transaction(ledger.engine) as connection:
        books = PeriodBooks(connection)
        period = (books.costs(PERIOD), books.usage(PERIOD), books.days(PERIOD), books.boot_sums(PERIOD))
        document = books.closing(PERIOD)
    reports = [report(ledger, datetime(2026, 11, 1, tzinfo=UTC), by, "USD") for by in GROUPS]
    restarted = accountant(ledger)
    restarted.advance()
    return vars(totals), period, document, reports, restarted.snapshot(), content(ledger, *PRUNED, "seals")


def test_nothing_is_pruned_before_a_period_is_closed(ledger):
    """However old it is, and it says so."""
    rows = _rows(ledger)
    pruned = prune(ledger.engine, Retention(), now_ns=LATE)
    assert pruned.parts == ()
    assert "no period was ever closed" in pruned.note
    assert _rows(ledger) == rows


def test_after_pruning_every_figure_is_what_it_was(ledger):
    """Totals, sums, closings, statements and what verifying finds; the rows are gone."""
    close(ledger)
    figures = _figures(ledger)
    evidence = boot_evidence(ledger, ledger.boots()[0].boot)
    pruned = prune(ledger.engine, Retention(), now_ns=LATE)
    # the starts of both boots stay, and the record that arrived last
    assert _rows(ledger) == {"records": 3, "requests": 0, "windows": 0, "journal": 0}
    assert {part.table: part.rows for part in pruned.parts} == {
        "records": 5_991,
        "requests": 5_808,
        "windows": 90,
        "journal": 842,
    }
    assert _figures(ledger) == figures
    assert boot_evidence(ledger, ledger.boots()[0].boot) == evidence
    assert _wrong(ledger) == []
    again = prune(ledger.engine, Retention(), now_ns=LATE)
    assert again.parts == ()
    assert "older than retention" in again.note


def test_each_table_goes_when_its_days_are_over(ledger):
    """Records after 30 days of the boot's end, requests and windows after 90, the journal after 400 of the period's."""
    close(ledger)
    ends = [boot.covered_ns for boot in ledger.boots()]
    expected = {30: {"records"}, 90: {"records", "requests", "windows"}}
    for days, tables in expected.items():
        before = prune(ledger.engine, Retention(), now_ns=min(ends) + days * DAY - 1, dry_run=True)
        assert {part.table for part in before.parts} < tables
        at = prune(ledger.engine, Retention(), now_ns=max(ends) + days * DAY, dry_run=True)
        assert {part.table for part in at.parts} == tables
        assert _wrong(ledger) == []
    just_before = prune(ledger.engine, Retention(), now_ns=END + 400 * DAY - 1, dry_run=True)
    assert "journal" not in {part.table for part in just_before.parts}
    assert {part.table for part in prune(ledger.engine, Retention(), now_ns=END + 400 * DAY).parts} == {*PRUNED}
    assert _wrong(ledger) == []


@pytest.mark.parametrize(
    "order",
    [
        ({"journal_days": 1}, {"windows_days": 1}, {"requests_days": 1}, {"records_days": 1}),
        ({"records_days": 1}, {"requests_days": 1}, {"windows_days": 1}, {"journal_days": 1}),
    ],
)
def test_tables_may_go_in_any_order(ledger, order):
    """Whatever is left is still compared with the seals of the rest."""
    close(ledger)
    never = {f"{table}_days": 10_000 for table in PRUNED}
    for days in order:
        prune(ledger.engine, Retention(**never | days), now_ns=LATE)
        assert _wrong(ledger) == []
    assert _rows(ledger) == {"records": 3, "requests": 0, "windows": 0, "journal": 0}


def test_a_dry_run_says_what_would_go_and_changes_nothing(ledger):
    """Rows and bytes by table and period."""
    close(ledger)
    before = content(ledger)
    pruned = prune(ledger.engine, Retention(), now_ns=LATE, dry_run=True)
    assert content(ledger) == before
    assert {(part.table, part.period) for part in pruned.parts} == {(name, PERIOD) for name in PRUNED}
    lines = sum(len(row[-1]) for row in before["records"])
    records = next(part for part in pruned.parts if part.table == "records")
    assert 0.5 * lines < records.bytes < 2 * lines
    real = prune(ledger.engine, Retention(), now_ns=LATE)
    assert real.parts == pruned.parts


def test_a_boot_that_is_open_keeps_everything(ledger):
    """Its records would be read again after a restart, and its windows be posted again."""
    boot = sa.update(t.boots).where(t.boots.c.engine == TEXT)
    meddle(ledger, boot.values(closed_ns=None))
    close(ledger)
    before = _rows(ledger)
    prune(ledger.engine, Retention(journal_days=10_000), now_ns=LATE)
    (boots,) = {tuple(sorted({row[0] for row in ledger.select(sa.select(t.windows.c.boot))}))}
    assert len(boots) == 1
    assert TEXT in boots[0]
    assert 0 < _rows(ledger)["requests"] < before["requests"]
    assert _wrong(ledger) == []
    # the journal goes by period: an open boot's lines of a closed one are settled for ever
    prune(ledger.engine, Retention(), now_ns=LATE)
    assert _rows(ledger)["journal"] == 0
    assert _wrong(ledger) == []


def test_a_month_goes_while_a_boot_that_began_in_it_is_in_the_next(ledger_url):
    """Its windows stay, some of them without their journal lines, and late work of theirs is in the next month's."""
    ledger = Ledger.open(ledger_url)
    late, on_time = late_and_on_time(moved(load_recording(TEXT), PERIOD, 120.0), 60, 5)
    books = accountant(ledger, CLOSING_SETTINGS)
    ledger.add(on_time[:-200])
    books.advance()
    close_month(ledger, PERIOD)
    ledger.add([*late, *on_time[-200:]])
    books.advance()
    assert ledger.select(sa.select(sa.func.count()).select_from(t.adjustments))[0][0] > 0
    assert _wrong(ledger) == []
    lines = _rows(ledger)["journal"]
    never = Retention(records_days=10_000, requests_days=10_000, windows_days=10_000, journal_days=1)
    prune(ledger.engine, never, now_ns=END + DAY)
    assert 0 < _rows(ledger)["journal"] < lines
    assert _wrong(ledger) == []
    meddle(ledger, sa.update(t.windows).where(*_first(t.windows, ledger)).values(bill_nano=t.windows.c.bill_nano + 1))
    assert "windows_tile_their_boot" not in {check.name for check in _wrong(ledger)}
    assert _wrong(ledger)
    meddle(ledger, sa.update(t.windows).where(*_first(t.windows, ledger)).values(bill_nano=t.windows.c.bill_nano - 1))
    following = close_month(ledger, "2026-12").document
    assert following.facts.opening_wip_nano > 0
    prune(ledger.engine, Retention(), now_ns=LATE)
    assert sum(_rows(ledger).values()) <= 2
    assert _wrong(ledger) == []
    ledger.close()


def _first(table, ledger):
    keys = list(table.primary_key.columns)
    (row,) = ledger.select(sa.select(*keys).order_by(*keys).limit(1))
    return [key == value for key, value in zip(keys, row, strict=True)]


def test_a_ledger_that_does_not_verify_is_not_pruned(ledger):
    """What is wrong must not be sealed as right."""
    close(ledger)
    meddle(ledger, sa.update(t.journal).where(t.journal.c.id == 7).values(nano=t.journal.c.nano + 1))
    before = content(ledger)
    with pytest.raises(LedgerError, match="does not verify: cost_hours_are_the_journals: cost_hours: hour"):
        prune(ledger.engine, Retention(), now_ns=LATE)
    assert content(ledger) == before


@pytest.mark.parametrize("table", ["journal", "seals"])
def test_rows_that_are_not_sealed_still_refuse_to_go(ledger, table):
    """The refusal is back after every chunk, and seals themselves never go."""
    close(ledger)
    prune(ledger.engine, Retention(), now_ns=LATE)
    boot = ledger.boots()[0]
    with transaction(ledger.engine, write=True) as connection:
        row = {column.name: "x" if isinstance(column.type, sa.String) else 1 for column in t.journal.columns}
        connection.execute(sa.insert(t.journal), {**row, "boot": boot.boot, "period": "2099-01"})
    source = t.metadata.tables[table]
    for statement in (sa.delete(source), sa.update(source).values(period="x")):
        with pytest.raises(sa.exc.IntegrityError, match="append-only"), ledger.engine.begin() as connection:
            connection.execute(statement)


@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_prune_that_is_killed_leaves_books_that_verify_and_the_next_does_the_rest(ledger, monkeypatch, stop):
    """Between any two of its transactions."""
    close(ledger)
    figures = _figures(ledger)
    monkeypatch.setattr(pruning, "CHUNK", 700)
    seen = []

    def interrupt(table, done, total):
        seen.append((table, done, total))
        assert ledger.add([RawRecord(RecordKey("other", 0, len(seen)), "usage", 0, b"{}")]) == 1
        if len(seen) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(ledger.engine, Retention(), now_ns=LATE, progress=interrupt)
    with transaction(ledger.engine, write=True) as connection:
        connection.execute(sa.delete(t.records).where(t.records.c.boot == "other"))
    assert _wrong(ledger) == []
    prune(ledger.engine, Retention(), now_ns=LATE)
    assert sum(_rows(ledger).values()) <= 3
    assert _figures(ledger) == figures
    assert _wrong(ledger) == []


def test_a_sum_that_is_changed_after_its_rows_are_gone_is_found(ledger):
    """The seals remember what the rows came to, and are bound to one another."""
    close(ledger)
    prune(ledger.engine, Retention(), now_ns=LATE)
    changes = {
        "cost_hours": ("nano", "hour"),
        "boot_lines": ("nano",),
        "usage_hours": ("output_tokens", "requests"),
        "saving_hours": ("nano",),
        "window_hours": ("busy_ns",),
        "boots": ("bill_nano",),
        "seals": ("rows", "pruned_ns"),
        "closings": ("bill_nano",),
    }
    for table, column in ((table, column) for table, columns in changes.items() for column in columns):
        source = t.metadata.tables[table]
        where = _first(source, ledger)
        with ledger.engine.connect() as connection:
            transaction_ = connection.begin()
            if table in t.APPEND_ONLY:
                allow(connection, table)
            connection.execute(sa.update(source).where(*where).values({column: source.c[column] + 1}))
            if table in t.APPEND_ONLY:
                protect(connection, table)
            assert [check for check in verify_within(connection) if not check.ok], (table, column)
            transaction_.rollback()
    assert _wrong(ledger) == []


def test_a_seal_that_is_rewritten_is_found(ledger):
    """Also one whose sums were made to agree."""
    close(ledger)
    prune(ledger.engine, Retention(), now_ns=LATE)
    with transaction(ledger.engine, write=True) as connection:
        s = t.seals.c
        row = connection.execute(sa.select(s.number, s.sums).where(s.table_name == "windows").limit(1)).one()
        sums = json.loads(row.sums)
        sums["sums"][0][1] += 1
        allow(connection, "seals")
        connection.execute(sa.update(t.seals).where(s.number == row.number).values(sums=json.dumps(sums)))
        connection.execute(sa.update(t.window_hours).values(bill_nano=t.window_hours.c.bill_nano + 1))
    assert {check.name for check in _wrong(ledger)} >= {"seals_are_unbroken", "tables_refuse_changes"}


def test_records_of_a_pruned_boot_that_come_again_and_new_ones_are_read(ledger):
    """A number is never given twice, so nobody who reads by number passes over a record."""
    close(ledger)
    last = ledger.last_id()
    prune(ledger.engine, Retention(), now_ns=LATE)
    ledger.add([RawRecord(RecordKey("new", 0, 0), "usage", 0, b"{}")])
    assert [row_id for row_id, _ in ledger.records_after(last)] == [last + 1]


def test_a_pruned_boot_that_is_posted_once_more_costs_nothing_more(ledger):
    """As replaying a recording into the same ledger does."""
    close(ledger)
    prune(ledger.engine, Retention(), now_ns=LATE)
    figures = _figures(ledger)
    for boot in ledger.boots():
        recorded = run(boot.engine)
        posted = ledger.post(boot, recorded.entry.requests, recorded.entry.windows)
        assert posted == Posted([], [])
    assert _figures(ledger) == figures
    assert _wrong(ledger) == []


def test_a_pruned_ledger_is_backed_up_and_restored(ledger, ledger_url, tmp_path):
    """Seals and all."""
    close(ledger)
    prune(ledger.engine, Retention(), now_ns=LATE)
    back_up(ledger_url, tmp_path / "a.zip", made_ns=LATE)
    restore(f"sqlite:///{tmp_path}/copy.db", tmp_path / "a.zip")
    copy = Ledger.open(f"sqlite:///{tmp_path}/copy.db")
    assert content(copy) == content(ledger)
    assert _wrong(copy) == []
    copy.close()


@pytest.mark.real
def test_partitions_of_sealed_days_are_dropped_whole(postgres):
    """In PostgreSQL, where that is quicker; one that holds something of an open period stays."""
    url = postgres.database()
    ledger = Ledger.open(url)
    fill(ledger)
    close(ledger)
    with transaction(ledger.engine) as connection:
        before = {name for name in partition_names(connection) if name.startswith("journal_2026")}
    assert "journal_20261123" in before
    prune(ledger.engine, Retention(), now_ns=LATE)
    with transaction(ledger.engine) as connection:
        after = partition_names(connection)
    assert not before & after
    assert "journal_default" in after
    assert _wrong(ledger) == []
    ledger.close()
    postgres.drop(url)


def test_samples_of_devices_go_when_they_are_old_read_and_needed_by_no_open_boot(ledger):
    """Presence stays, and with it what devices cost; a boot that is open is costed once more after a restart."""
    at = ledger.boots()[-1].started_ns
    old = [device([at - days * DAY], uuid=f"GPU-{days}", sequence=1) for days in (400, 40)]
    ledger.add([*old, device([at], uuid="GPU-0", sequence=1)])
    accountant(ledger).advance()
    close(ledger)
    # not read yet
    ledger.add([device([at - 300 * DAY], uuid="GPU-300", sequence=1)])
    keep = {"requests_days": 10_000, "windows_days": 10_000, "journal_days": 10_000}
    dry = prune(ledger.engine, Retention(30, **keep), now_ns=at - 5 * DAY, dry_run=True)
    assert [(part.table, part.period, part.rows) for part in dry.parts] == [("records", "", 2)]
    assert prune(ledger.engine, Retention(30, **keep), now_ns=at - 5 * DAY).parts == dry.parts
    r = t.records.c
    kept = {row[0] for row in ledger.select(sa.select(r.boot).where(r.kind == "device"))}
    assert {boot.split("/")[0] for boot in kept} == {"device:GPU-0", "device:GPU-300"}
    assert len(ledger.select(sa.select(t.gpu_presence.c.uuid))) == 3
    assert _wrong(ledger) == []


def test_samples_that_an_open_boot_needs_stay(ledger):
    """It is read again from its start when the service restarts."""
    close(ledger)
    at = ledger.boots()[0].started_ns
    ledger.add(
        [device([at - 100 * DAY + second * 10**9], uuid="GPU-1", sequence=second) for second in range(1, 300, 30)]
    )
    accountant(ledger).advance()
    with transaction(ledger.engine, write=True) as connection:
        first = sa.select(sa.func.min(t.boots.c.boot)).scalar_subquery()
        opened = sa.update(t.boots).where(t.boots.c.boot == first)
        connection.execute(opened.values(closed_ns=None, started_ns=at - 100 * DAY + 200 * 10**9))
        wanted = old_samples(connection, at)
        sampled = connection.execute(sa.select(t.records.c.event_ns).where(*wanted)).scalars()
        assert {(one - at + 100 * DAY) // 10**9 for one in sampled} == {1, 31, 61}


@pytest.mark.parametrize("where", ["in the inbox", "unread"])
def test_samples_of_a_boot_that_the_books_do_not_have_yet_stay(ledger, where):
    """It has no price: its records wait for one, and its energy with them."""
    close(ledger)
    at = ledger.boots()[0].started_ns
    samples = [device([at - 100 * DAY + second * 10**9], uuid="GPU-1", sequence=second) for second in range(1, 300, 30)]
    ledger.add(samples)
    began = at - 100 * DAY + 200 * 10**9
    started = wire.started(
        "unpriced", 0, 1, at_ns=10**9, wall_ns=began, engine="dear", engine_kind="vllm", version="1", model="m",
        gpu="Unobtainium", gpu_count=1,
    )  # fmt: skip
    books = accountant(ledger)
    if where == "in the inbox":
        ledger.add(raw_of([started]))
        books.advance()
        assert "unpriced" not in {boot.boot for boot in ledger.boots()}
    else:
        books.advance()
        ledger.add(raw_of([started]))
    with transaction(ledger.engine) as connection:
        wanted = old_samples(connection, at)
        sampled = connection.execute(sa.select(t.records.c.event_ns).where(*wanted)).scalars()
        assert {(one - at + 100 * DAY) // 10**9 for one in sampled} == {1, 31, 61}
