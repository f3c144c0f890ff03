"""The trail of a service has every settled request once, at the ledger's cost."""

from collections import Counter

import pytest
import sqlalchemy as sa
from tests.audit.ledgers import PHASES, change, complete, partly, requests_of, the_rest, written
from tests.audit.trails import said
from tests.ledger.booked import USER, fill, run
from tests.replay.conftest import TEXT, VISION

from farthing.domain import conventions as c
from farthing.domain.model import Adjustment, Posting
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service.audit_index import AuditIndex


def test_every_settled_request_is_written_once_at_the_ledgers_cost(ledger, trails, tmp_path):
    """Of two recorded boots; what is over is said to be, and not looked at again."""
    trail = trails(ledger)
    trail.update()
    complete(trail, ledger, tmp_path / "trail")
    over = [one for one in said(tmp_path / "trail") if one["kind"] == "boot_closed"]
    assert sum(one["requests"] for one in over) == len(requests_of(ledger))
    assert sum(one["cost_nano"] for one in over) == sum(map(sum, requests_of(ledger).values()))
    records = trail.view().records
    trail.update()
    assert trail.view().records == records


def test_an_engine_that_goes_on_is_followed_window_by_window(ledger_url, trails, tmp_path):
    """By one trail, without a look at what it has already; nothing is corrected, in either database."""
    with Ledger.open(ledger_url) as ledger:
        trail, had = trails(ledger), -1
        for windows in (30, 31, 45, 60):
            reach = run(TEXT).entries[0].boot.anchor.to_wall(partly(ledger, windows))
            trail.update()
            found, times = written(tmp_path / "trail")
            q = t.requests.c
            settled = ledger.select(sa.select(sa.func.count()).where(q.ended_wall_ns <= reach - 5 * 10**9))[0][0]
            assert len(found) == sum(times.values()) == settled
            assert had < settled or windows == 31
            had = settled
        the_rest(ledger)
        trail.update()
        complete(trail, ledger, tmp_path / "trail")
        trail.close()


@pytest.mark.real
def test_both_databases_are_read(ledger_url, trails, tmp_path):
    """As SQLite, PostgreSQL."""
    with Ledger.open(ledger_url) as ledger:
        fill(ledger, users=True)
        trail = trails(ledger)
        trail.update()
        complete(trail, ledger, tmp_path / "trail")
        trail.close()


def test_a_record_says_who_what_when_how_much_and_how_that_was_obtained(full, trails, tmp_path):
    """As the ledger and the request's own record have it."""
    trails(full).update()
    records = [one for one in said(tmp_path / "trail") if one["kind"] == "request"]
    rows = {(row.boot, row.process, row.sequence): row for row in full.select(sa.select(t.requests))}
    for one in records:
        row = rows[one["boot"], one["process"], one["sequence"]]
        for name in ("engine", "request_id", "trace_id", "tenant", "project", "tier", "model", "outcome", "status"):
            assert one[name] == getattr(row, name)
        assert one["cost_nano"] == sum(getattr(row, name) for name in PHASES)
        assert one["output_tokens"] == row.output_tokens
        assert one["currency"] == "USD"
    assert {method for one in records for method in one["methods"]} <= set(c.METHODS)
    assert all(one["methods"] for one in records if one["cost_nano"])
    # as the journal: what it has for the windows of one boot, its requests have together
    j = t.journal.c
    for boot in {one["boot"] for one in records}:
        there = full.select(sa.select(j.method).where(j.boot == boot, j.phase != "", j.debit == c.CHARGED).distinct())
        assert {method for one in records if one["boot"] == boot for method in one["methods"]} == {r[0] for r in there}


def test_a_user_is_there_as_the_probes_pseudonym_and_by_no_other_name(ledger, trails, tmp_path):
    """A trail cannot be changed: a name in it could never be erased."""
    trails(ledger).update()
    users = Counter(one["user"] for one in said(tmp_path / "trail") if one["kind"] == "request")
    assert users[USER] > 10
    assert users["hidden"] > 10
    assert set(users) == {USER, "hidden", ""}
    for path in (tmp_path / "trail").iterdir():
        assert b"somebody" not in path.read_bytes()


def test_only_what_is_settled_is_written_and_the_rest_once_it_is(empty, trails, tmp_path):
    """No cost that is written while windows are open is corrected later."""
    reach = run(TEXT).entries[0].boot.anchor.to_wall(partly(empty, 40))
    trail = trails(empty)
    trail.update()
    found, _ = written(tmp_path / "trail")
    ended = {(row.boot, row.process, row.sequence): row.ended_wall_ns for row in empty.select(sa.select(t.requests))}
    assert 0 < len(found) < len(ended)
    assert set(found) == {key for key, ns in ended.items() if ns <= reach - 5 * 10**9}
    the_rest(empty)
    trail.update()
    complete(trail, empty, tmp_path / "trail")


def adjusted(ledger, boot_row, windows, key, nano):
    """Post an adjustment: a late record's, or what else moves money to a request."""
    recorded = run(TEXT)
    window = windows[10]
    row = next(row for row in recorded.entry.requests if row.key == key)
    lost = Posting(c.UNATTRIBUTED, c.DECODE, "", "", row.model, "", c.REASON_LOST, c.MODELLED, -nano)
    found = Posting(c.CHARGED, c.DECODE, row.tenant, row.project, row.model, row.tier, "", c.MODELLED, nano)
    late = Adjustment(
        *(window.boot, window.engine_index, window.start_ns, window.end_ns, key, (lost, found)),
        *({c.DECODE: nano}, 0, window.fit_version),
    )
    ledger.post(boot_row, (), (), (late,))


def test_a_cost_that_changes_later_gets_a_record_that_names_the_first(empty, trails, tmp_path):
    """And the last one holds."""
    partly(empty, 40)
    first = trails(empty)
    first.update()
    entry = run(TEXT).entries[0]
    key = entry.windows[10].requests[0].key
    boot = next(one for one in empty.boots() if one.boot == entry.boot.boot)
    adjusted(empty, boot, entry.windows, key, 7)
    trail = trails(empty)
    trail.update()
    records = [
        one
        for one in said(tmp_path / "trail")
        if one["kind"] == "request" and one["sequence"] == key.sequence and one["boot"] == key.boot
    ]
    assert len(records) == 2
    assert records[1]["corrects"] == records[0]["n"]
    assert records[1]["decode_nano"] == records[0]["decode_nano"] + 7
    assert "corrects" not in records[0]
    the_rest(empty)
    trail.update()
    complete(trail, empty, tmp_path / "trail", corrections=1)


def test_a_request_whose_record_comes_late_is_written_when_it_comes(empty, trails, tmp_path):
    """Though later ones are written already."""
    recorded = run(TEXT)
    entry = recorded.entries[0]
    partly(empty, 60)
    late = entry.requests[5]
    change(empty, sa.delete(t.requests).where(t.requests.c.sequence == late.key.sequence))
    trails(empty).update()
    assert (late.key.boot, late.key.process, late.key.sequence) not in written(tmp_path / "trail")[0]
    the_rest(empty)
    trail = trails(empty)
    trail.update()
    found, times = written(tmp_path / "trail")
    assert times[late.key.boot, late.key.process, late.key.sequence] == 1
    assert set(found) == set(requests_of(empty))


def test_a_day_of_a_boot_is_compared_some_requests_at_once(full, trails, tmp_path, monkeypatch):
    """A day may have millions."""
    sizes = []
    taken = AuditIndex.written

    def counting(self, boot, keys):
        keys = list(keys)
        sizes.append(len(keys))
        return taken(self, boot, keys)

    monkeypatch.setattr("farthing.service.audit_source.KEYS_AT_ONCE", 100)
    monkeypatch.setattr(AuditIndex, "written", counting)
    trail = trails(full)
    trail.update()
    complete(trail, full, tmp_path / "trail")
    assert len(requests_of(full)) > 1_000
    assert max(sizes) == 100


def test_money_that_moves_between_two_requests_is_seen(empty, trails, tmp_path):
    """Though the sums of their day are what they were."""
    partly(empty, 60)
    trails(empty).update()
    r = t.requests.c
    rows = empty.select(sa.select(r.process, r.sequence).where(r.decode_nano > 1_000).order_by(r.ended_wall_ns))
    for row, nano in zip(rows[:2], (-1_000, 1_000), strict=True):
        where = (r.process == row.process, r.sequence == row.sequence)
        change(empty, sa.update(t.requests).where(*where).values(decode_nano=r.decode_nano + nano))
    trail = trails(empty)
    trail.update()
    there = requests_of(empty)
    found, _ = written(tmp_path / "trail")
    assert found == {key: there[key] for key in found}
    assert sum("corrects" in one for one in said(tmp_path / "trail")) == 2


@pytest.mark.parametrize("name", [TEXT, VISION])
def test_the_parts_of_a_recordings_cost_are_in_the_trail(full, trails, tmp_path, name):
    """What the requests of a boot cost by phase, as its journal says it charged."""
    trails(full).update()
    boot = run(name).entries[0].boot.boot
    records = [one for one in said(tmp_path / "trail") if one["kind"] == "request" and one["boot"] == boot]
    j = t.journal.c
    for phase in c.PHASES:
        where = (j.boot == boot, j.phase == phase, j.debit.in_((c.CHARGED, c.ABORTED)))
        charged = full.select(sa.select(sa.func.sum(j.nano)).where(*where))[0][0] or 0
        assert sum(one[f"{phase}_nano"] for one in records) == charged
