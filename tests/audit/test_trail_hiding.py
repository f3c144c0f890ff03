"""What a trail says of a closed boot hides none of the ledger's requests; a trail that begins anew is told."""

import logging
import shutil

import pytest
import sqlalchemy as sa
from tests.audit.ledgers import change, complete, requests_of, written
from tests.audit.trails import append_to, content, said

from farthing.audit.records import event, stamp
from farthing.ledger import tables as t

Q = t.requests.c
DAY_OF = Q.ended_wall_ns.op("/")(86_400 * 10**9)


def _boot(ledger):
    return ledger.select(sa.select(Q.boot).order_by(Q.boot).limit(1))[0][0]


def _rows(ledger, *which):
    return [dict(row._mapping) for row in ledger.select(sa.select(t.requests).where(*which))]


def _ended(boot, ns):
    return sa.update(t.boots).where(t.boots.c.boot == boot).values(closed_ns=ns, ended_ns=ns)


@pytest.mark.parametrize("cost", [10**9, 0])
def test_more_of_a_closed_boot_than_the_ledger_has_does_not_hide_its_requests(
    ledger, trails, tmp_path, ledger_clock, cost
):
    """Somebody puts expensive requests that there never were behind the head, and says that the boot is closed."""
    boot = _boot(ledger)
    missing = _rows(ledger, Q.boot == boot, Q.sequence % 50 == 0)
    days = ledger.select(sa.select(sa.func.max(Q.ended_wall_ns)).where(Q.boot == boot).group_by(DAY_OF))
    change(ledger, sa.delete(t.requests).where(Q.boot == boot, Q.sequence % 50 == 0), _ended(boot, None))
    trails(ledger).update()
    trails(ledger).close()
    change(ledger, sa.insert(t.requests).values(missing), _ended(boot, ledger_clock.ns))
    forged = [
        content(10**7 + place, ledger_clock.ns, boot=boot, ended_ns=row[0], cost_nano=(cost, cost, cost))
        for row in days
        for place in range(len(missing) + 1)
    ]
    append_to(tmp_path / "trail", [*forged, event("boot_closed", ledger_clock.ns, boot=boot)], ledger_clock)
    for _ in range(2):
        trails(ledger).update()
    there = requests_of(ledger)
    found, times = written(tmp_path / "trail")
    assert {key: costs for key, costs in found.items() if key in there} == there
    assert {times[key] for key in there} == {1}


def test_a_false_correction_behind_a_closed_boot_is_made_good(ledger, trails, tmp_path, ledger_clock):
    """The last record of a request holds, so it is compared with the ledger."""
    trails(ledger).update()
    trails(ledger).close()
    one = next(one for one in said(tmp_path / "trail") if one["kind"] == "request")
    false = {name: value for name, value in one.items() if name != "n"} | {"corrects": one["n"], "decode_nano": 1}
    append_to(tmp_path / "trail", [false], ledger_clock)
    trail = trails(ledger)
    trail.update()
    complete(trail, ledger, tmp_path / "trail", corrections=2)
    assert [one["corrects"] for one in said(tmp_path / "trail") if "corrects" in one] == [one["n"]] * 2


def test_requests_of_a_ledger_that_was_put_back_are_written(ledger, trails, tmp_path):
    """A backup had half of a boot's requests; it went on with others, and the trail has more of it than the ledger."""
    boot = _boot(ledger)
    trails(ledger).update()
    trails(ledger).close()
    rows = sorted(_rows(ledger, Q.boot == boot), key=lambda row: row["ended_wall_ns"])
    lost = rows[len(rows) // 2 :]
    others = [{**row, "sequence": 10**6 + place} for place, row in enumerate(lost[: len(lost) // 2])]
    keys = sa.tuple_(Q.process, Q.sequence)
    change(
        ledger,
        sa.delete(t.requests).where(Q.boot == boot, keys.in_([(row["process"], row["sequence"]) for row in lost])),
        sa.insert(t.requests).values(others),
    )
    for _ in range(3):
        trails(ledger).update()
    assert requests_of(ledger).items() <= written(tmp_path / "trail")[0].items()
    closings = [one for one in said(tmp_path / "trail") if one["kind"] == "boot_closed" and one["boot"] == boot]
    assert len(closings) == 2, "once more for what was written, and not at each start"


def test_what_was_corrected_after_a_boot_was_closed_is_counted_once(ledger, trails, tmp_path, ledger_clock):
    """Its sums are added up when it is closed again, and no start after that writes anything of it."""
    boot = _boot(ledger)
    trails(ledger).update()
    change(ledger, sa.update(t.requests).where(Q.boot == boot).values(decode_nano=Q.decode_nano + 5))
    trails(ledger).update()
    trails(ledger).close()
    before = [one for one in said(tmp_path / "trail") if one["kind"] in ("request", "boot_closed")]
    for _ in range(2):
        trail = trails(ledger)
        trail.update()
    assert [one for one in said(tmp_path / "trail") if one["kind"] in ("request", "boot_closed")] == before
    corrections = sum("corrects" in one for one in before)
    assert corrections == len(_rows(ledger, Q.boot == boot))
    complete(trail, ledger, tmp_path / "trail", corrections=corrections)


def test_a_number_too_large_for_any_request_stops_the_trail_and_is_logged_once(
    ledger, trails, tmp_path, ledger_clock, caplog
):
    """Whoever may write to the folder put it behind the head; no pass of the service logs a traceback."""
    append_to(tmp_path / "trail", [content(1, ledger_clock.ns) | {"sequence": 2**63}], ledger_clock)
    trail = trails(ledger)
    for _ in range(3):
        trail.update()
    assert not trail.view().is_written
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert ["says something else than it has to" in record.message for record in errors] == [True]
    assert errors[0].exc_info is None


def test_a_trail_that_begins_over_a_ledger_with_requests_says_so(ledger, trails, tmp_path, caplog):
    """Somebody may have emptied the folder: the log says it, and the first event for good."""
    first = ledger.select(sa.select(sa.func.min(Q.ended_wall_ns)))[0][0]
    trails(ledger).update()
    trails(ledger).close()
    shutil.rmtree(tmp_path / "trail")
    caplog.clear()
    for _ in range(2):
        trails(ledger).update()
    openings = [one for one in said(tmp_path / "trail") if one["kind"] == "audit_opened"]
    assert ["ledger_since" in one for one in openings] == [True, False]
    assert openings[0]["ledger_since"] == stamp(first)
    assert ["begins anew" in record.message for record in caplog.records].count(True) == 1


def test_a_folder_that_is_emptied_while_the_service_runs_is_told(ledger, trails, tmp_path, caplog):
    """The trail begins anew then too."""
    trail = trails(ledger)
    trail.update()
    trail._let_go()
    shutil.rmtree(tmp_path / "trail")
    caplog.clear()
    trail.update()
    complete(trail, ledger, tmp_path / "trail")
    assert "ledger_since" in next(one for one in said(tmp_path / "trail") if one["kind"] == "audit_opened")
    assert any("begins anew" in record.message for record in caplog.records)


def test_a_trail_of_a_new_ledger_begins_without_a_word(empty, trails, tmp_path, caplog):
    """Nothing can have been there before it."""
    trails(empty).update()
    assert "ledger_since" not in said(tmp_path / "trail")[1]
    assert not caplog.records
