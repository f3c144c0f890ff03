"""What the ledger has and the trail has not, or otherwise, is found whatever sums say."""

import shutil

import pytest
import sqlalchemy as sa
from tests.audit.ledgers import change
from tests.audit.trails import Clock, append_to, full_disk, said

from farthing.audit.chain import file_name
from farthing.audit.reading import days_in, records
from farthing.audit.records import REQUEST
from farthing.audit.verify import verify
from farthing.domain.clock import HOUR, SECOND
from farthing.domain.errors import AuditError
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service import audit_comparison
from farthing.service.audit_comparison import compare
from farthing.service.audit_trail import AuditTrail
from farthing.settings import Settings

q = t.requests.c


@pytest.fixture(scope="module")
def template(few, tmp_path_factory):
    """A ledger with few requests of two recorded boots, its trail, and a minute after the last request."""
    place = tmp_path_factory.mktemp("template")
    shutil.copy(few, place / "ledger.db")
    with Ledger.open(f"sqlite:///{place}/ledger.db") as ledger:
        now = ledger.select(sa.select(sa.func.max(q.ended_wall_ns)))[0][0] + 60 * SECOND
        settings = Settings(audit={"dir": place / "trail", "fsync": False})
        trail = AuditTrail(ledger, settings, place / "trail", clock_ns=Clock(now), monotonic=lambda: 0.0)
        trail.update()
        trail.close()
    return place, now


@pytest.fixture
def both(template, tmp_path):
    """A ledger and the folder of its trail that a test may change, and a way to compare them some time later."""
    place, now = template
    shutil.copy(place / "ledger.db", tmp_path)
    shutil.copytree(place / "trail", tmp_path / "trail")
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:

        def compared(later_ns=2 * HOUR):
            return compare(tmp_path / "trail", ledger, 1, now + later_ns, lambda *_: None)

        yield ledger, tmp_path / "trail", compared


def some_of(ledger, count):
    """The first requests of a boot that cost something."""
    first = ledger.select(sa.select(q.boot).order_by(q.boot).limit(1))[0][0]
    paid = sa.select(t.requests).where(q.boot == first, q.decode_nano > 1_000)
    return ledger.select(paid.order_by(q.process, q.sequence).limit(count))


def one(row):
    """Which row that is."""
    return sa.and_(q.boot == row.boot, q.process == row.process, q.sequence == row.sequence)


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_a_trail_that_has_all_requests_at_their_costs_has_nothing_wrong(both, monkeypatch, at_once):
    """However many are read at once."""
    monkeypatch.setattr(audit_comparison, "AT_ONCE", at_once)
    ledger, _, compared = both
    seen = compared()
    assert seen.problems == []
    assert seen.requests == ledger.select(sa.select(sa.func.count()).select_from(t.requests))[0][0] > 50


def test_requests_of_before_the_trails_first_day_are_compared_as_far_as_it_looked_back(both, monkeypatch):
    """It writes what the ledger had when it began; where its first days are gone, those that it has are compared."""
    ledger, folder, compared = both
    [row] = some_of(ledger, 1)
    for days, name in ((2_000, "hidden"), (2_300, "too old")):
        values = {**row._mapping, "sequence": 10**6 + days, "request_id": name}
        values["ended_wall_ns"] -= days * 24 * HOUR
        change(ledger, sa.insert(t.requests).values(**values))
    [problem] = compared().problems
    assert problem.what.endswith(
        "1 requests of boot " + f"{row.boot} of engine {row.engine} are not in the trail: hidden"
    )
    later = days_in(folder)[0]
    monkeypatch.setattr(audit_comparison, "records", lambda folder: ((n + 1, body) for n, body in records(folder)))
    seen = compared()
    assert seen.problems == []
    assert f"requests that ended since {later} are the ledger's" in seen.notes[-1]


def test_a_request_that_the_trail_was_made_to_forget_is_named(both):
    """With how many of its boot there are, and no more than some of them; of the last hour they may still come."""
    ledger, _, compared = both
    [row] = some_of(ledger, 1)
    added = [{**row._mapping, "sequence": 10**6 + number, "request_id": f"hidden-{number}"} for number in range(5)]
    change(ledger, *(sa.insert(t.requests).values(**values) for values in added))
    [problem] = compared().problems
    assert f"5 requests of boot {row.boot} of engine {row.engine} are not in the trail: " in problem.what
    assert problem.what.endswith("hidden-0, hidden-1, hidden-2, ...")
    seen = compared(0)
    assert seen.problems == []
    why = "they are not settled, or ended in the last hour"
    assert f"5 requests are not in the trail yet as they are in the ledger: {why}" in seen.notes


def test_equal_and_opposite_changes_of_two_costs_are_found(both):
    """No sum of them is another."""
    ledger, folder, compared = both
    first, second = some_of(ledger, 2)
    for row, nano in ((first, 1_000), (second, -1_000)):
        change(ledger, sa.update(t.requests).where(one(row)).values(decode_nano=row.decode_nano + nano))
    assert verify(folder).problems == []
    [problem] = compared().problems
    assert "2 requests of boot" in problem.what
    assert f"have other costs in the trail: {first.request_id} (record " in problem.what


def test_costs_that_were_corrected_are_the_last(both):
    """The first record of a request does not count any more."""
    ledger, folder, compared = both
    [row] = some_of(ledger, 1)
    change(ledger, sa.update(t.requests).where(one(row)).values(decode_nano=row.decode_nano - 7))
    assert len(compared().problems) == 1
    told = next(
        record
        for record in said(folder)
        if record["kind"] == REQUEST
        and (record["boot"], record["process"], record["sequence"]) == (row.boot, row.process, row.sequence)
    )
    correction = {**told, "decode_nano": row.decode_nano - 7, "corrects": told.pop("n")}
    append_to(folder, [correction], Clock(row.ended_wall_ns + HOUR))
    assert compared().problems == []


def test_requests_that_the_ledger_lost_are_found_and_pruned_ones_are_told(both):
    """By the records that have them; a seal says that a boot's were pruned."""
    ledger, folder, compared = both
    first, second = some_of(ledger, 2)
    change(ledger, sa.delete(t.requests).where(sa.or_(one(first), one(second))))
    [problem] = compared().problems
    gone = {(row.boot, row.process, row.sequence) for row in (first, second)}
    numbers = [
        record["n"]
        for record in said(folder)
        if record["kind"] == REQUEST and (record["boot"], record["process"], record["sequence"]) in gone
    ]
    assert problem.what.endswith(f"are in the trail alone: record {numbers[0]}, record {numbers[1]}")
    sealed = {"number": 1, "table_name": "requests", "period": "2026-11", "boot": first.boot, "rows": 2, "sums": "{}"}
    change(ledger, sa.insert(t.seals).values(**sealed, digest="", pruned_ns=1, sha256=""))
    seen = compared()
    assert seen.problems == []
    assert any(f"requests of boot {first.boot} were pruned" in note for note in seen.notes)


def test_a_boot_that_the_ledger_does_not_know_is_found(both):
    """Another ledger was put in its place."""
    _, folder, compared = both
    told = next(record for record in said(folder) if record["kind"] == REQUEST)
    append_to(folder, [{key: value for key, value in {**told, "boot": "elsewhere"}.items() if key != "n"}])
    [problem] = compared().problems
    assert problem.what == "1 requests of boot elsewhere are in the trail, and the ledger has no such boot"


@pytest.mark.parametrize(
    "body",
    [
        '"boot":[]',
        '"boot":"\\ud800","process":0,"ended":"x","sequence":1,"prefill_nano":0,"decode_nano":0,"vision_nano":0',
        '"boot":"a","process":' + "9" * 30,
        '"a":' + "[" * 100_000,
        '"kind":"audit_opened","at":"x"',
    ],
)
def test_a_record_that_is_none_is_one_clear_error(both, body):
    """Whoever wrote it."""
    _, folder, compared = both
    with (folder / file_name(days_in(folder)[-1])).open("a") as file:
        file.write(f'{"0" * 64} {{"n":9999999,"kind":"request",{body}}}\n')
    with pytest.raises(AuditError, match="its form is another"):
        compared()


def test_a_trail_of_no_day_is_told(both, tmp_path):
    """Nothing is compared, and that is no problem of the trail's."""
    ledger, *_ = both
    (tmp_path / "none").mkdir()
    seen = compare(tmp_path / "none", ledger, 1, 0, lambda *_: None)
    assert (seen.problems, len(seen.notes)) == ([], 1)


def test_a_trail_of_no_day_over_a_ledger_with_requests_is_a_problem(both, tmp_path):
    """Nothing compared is nothing that could be green."""
    ledger, *_ = both
    (tmp_path / "none").mkdir()
    count = ledger.select(sa.select(sa.func.count()).select_from(t.requests))[0][0]
    [problem] = compare(tmp_path / "none", ledger, 1, 2**62, lambda *_: None).problems
    assert problem.what == f"{count} requests are older than an hour, and the trail has no record at all"


def test_a_trail_that_began_while_the_clock_was_ahead_is_compared_all_the_same(template, tmp_path):
    """How far it looked back then is to come, which is told until a start looks back by the right clock."""
    place, now = template
    shutil.copy(place / "ledger.db", tmp_path)
    folder, clock = tmp_path / "trail", Clock(now + 14 * 365 * 24 * HOUR)
    settings = Settings(audit={"dir": folder, "fsync": False})
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:

        def started():
            trail = AuditTrail(ledger, settings, folder, clock_ns=clock, monotonic=lambda: 0.0)
            trail.update()
            trail.close()
            return compare(folder, ledger, 1, now + 2 * HOUR, lambda *_: None)

        assert [one.what.split(":")[0] for one in started().problems] == [
            "the trail looks back to 2034-11-19, which is to come"
        ]
        clock.ns = now
        requests = ledger.select(sa.select(sa.func.count()).select_from(t.requests))[0][0]
        seen = started()
        assert (seen.problems, seen.requests) == ([], requests)
        [row] = some_of(ledger, 1)
        change(ledger, sa.update(t.requests).where(one(row)).values(decode_nano=row.decode_nano + 1))
        [problem] = compare(folder, ledger, 1, now + 2 * HOUR, lambda *_: None).problems
        assert "1 requests of boot" in problem.what


def test_what_a_trail_has_of_before_its_first_day_is_compared(both, monkeypatch):
    """Retention removed the days before it, and a request of an earlier one was written in it."""
    ledger, _, compared = both
    monkeypatch.setattr(audit_comparison, "records", lambda folder: ((n + 1, body) for n, body in records(folder)))
    monkeypatch.setattr(audit_comparison, "days_in", lambda _folder: ["2026-12-31"])
    [row] = some_of(ledger, 1)
    change(ledger, sa.update(t.requests).where(one(row)).values(decode_nano=row.decode_nano + 1))
    assert any(f"have other costs in the trail: {row.request_id}" in one.what for one in compared().problems)


def test_a_full_folder_for_temporary_files_is_one_clear_error(both):
    """That names where to make room."""
    _, _, compared = both
    with full_disk(0), pytest.raises(AuditError, match="TMPDIR"):
        compared()
