"""Whatever happens around the end of a month: it closes, adds up, verifies, and recomputes from its evidence alone."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.service.books import accountant
from tests.service.closings import SETTINGS, close, documents, identity, moved
from tests.service.edges import proven, shifted, through
from tests.simulation import simulate
from tests.simulation.presets import RESTART, TEXT, TWO_SERVERS

from farthing.books.periods import bounds
from farthing.books.policy import Policy
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, SECOND
from farthing.domain.errors import PeriodError
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.closing import draft_period, list_periods
from farthing.service.pricing import price_book
from farthing.service.silence import SILENT_PROCESS

RECORDINGS = Path(__file__).parents[1] / "fixtures/recordings"
NOVEMBER, DECEMBER, JANUARY = "2026-11", "2026-12", "2027-01"


@pytest.fixture(scope="module")
def recording():
    """Four minutes of an 8B model on one H100."""
    return load_recording("h100-llama8b-vllm0.26")


@pytest.fixture
def ledger(tmp_path):
    """An empty ledger."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    yield ledger
    ledger.close()


# ---- boots over the end of a month --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "seconds"),
    [(TWO_SERVERS, 30), (replace(TEXT, ranks=3), 60), (replace(TEXT, ranks=2, servers=2), 80), (RESTART, 30)],
    ids=["two servers", "three ranks", "two of both", "restarts"],
)
def test_ranks_servers_and_restarts_close_and_recompute_over_the_end_of_a_month(ledger, tmp_path, config, seconds):
    """Each rank bears an equal share, and each process reports a part."""
    raw = shifted(simulate(config.scaled(0.4)).wire(), NOVEMBER, seconds)
    through(ledger, raw, ((NOVEMBER, 0.6), (DECEMBER, 1)), tmp_path)


@pytest.mark.parametrize(("name", "seconds"), [("h100-llama8b-pressure", 100), ("h100-llama8b-probe", 200)])
def test_what_a_probe_recorded_on_a_gpu_closes_and_recomputes(ledger, tmp_path, name, seconds):
    """Two boots, preemptions, and everything else that a simulation would not think of."""
    text = gzip.decompress((RECORDINGS / name / "records.jsonl.gz").read_bytes()).decode()
    rows = [json.loads(line) for line in text.splitlines()]
    through(ledger, shifted(rows, NOVEMBER, seconds), ((NOVEMBER, 0.5), (DECEMBER, 1)), tmp_path)


def test_a_boot_is_closed_month_after_month_and_nothing_of_it_twice(ledger, tmp_path, recording):
    """Five closings of one boot, two of them while it is silent, two when it has long ended."""
    closed = through(
        ledger,
        moved(recording, NOVEMBER, 120),
        ((NOVEMBER, 0.6), (DECEMBER, 0.6), (JANUARY, 0.8), ("2027-02", 1), ("2027-03", 1)),
        tmp_path,
    )
    assert [len(one.document.boots) for one in closed] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("before_the_close", [True, False])
def test_a_boot_that_another_one_ends_is_settled_where_it_is_ended(ledger, tmp_path, recording, before_the_close):
    """No record of its own says so: what its last windows cost is of the month in which that became known."""
    raw = moved(recording, NOVEMBER, 250)
    ledger.add(raw[: len(raw) * 2 // 3])
    books = accountant(ledger, SETTINGS)
    books.advance()
    following = moved(recording, DECEMBER, 600_000, boot="next")
    if not before_the_close:
        november = close(ledger, NOVEMBER)
        assert november.document.facts.closing_wip_nano > 0
    ledger.add(following)
    books.advance()
    if before_the_close:
        november = close(ledger, NOVEMBER)
        assert november.document.facts.closing_wip_nano == 0
    identity(november)
    december = close(ledger, DECEMBER)
    identity(december)
    adjusted = [cost for cost in december.document.facts.costs if cost.service_period == NOVEMBER]
    assert (sum(cost.nano for cost in adjusted) > 0) != before_the_close
    proven(ledger, tmp_path)


@pytest.mark.parametrize("kind", [c.INBOX_SILENT, c.INBOX_ABANDONED])
@pytest.mark.parametrize("before_the_close", [True, False])
def test_a_boot_that_falls_silent_or_is_given_up_around_a_close_adds_up(
    ledger, tmp_path, recording, kind, before_the_close
):
    """The silence is a record like any other, and counts where it arrived."""
    raw = moved(recording, NOVEMBER, 250)[:1_700]
    ledger.add(raw)
    books = accountant(ledger, SETTINGS)
    books.advance()
    silence = RawRecord(RecordKey("b", SILENT_PROCESS, 0), kind, raw[-1].event_ns, json.dumps({"kind": kind}).encode())
    if before_the_close:
        ledger.add([silence])
        books.advance()
    identity(close(ledger, NOVEMBER))
    if not before_the_close:
        ledger.add([silence])
    # it goes on after all: of one that was given up that is late, and counted
    ledger.add(moved(recording, NOVEMBER, 250)[1_700:])
    books.advance()
    identity(close(ledger, DECEMBER))
    proven(ledger, tmp_path)


def test_a_restarted_accountant_that_reads_again_takes_nothing_back_from_a_close(ledger, tmp_path, recording):
    """The month is closed while it has read a tenth of what the books hold."""
    raw = moved(recording, NOVEMBER, 120)
    ledger.add(raw[:-50])
    accountant(ledger, SETTINGS).advance()

    class Paged(Ledger):
        pages = 0

        def records_after(self, last_id, limit=5_000, *, done_id=None):
            self.pages += 1
            if self.pages == 2:
                identity(close(ledger, NOVEMBER))
            return super().records_after(last_id, 300, done_id=done_id)

    again = accountant(Paged(ledger.engine), SETTINGS)
    again.advance()
    assert documents(ledger)
    ledger.add(raw[-50:])
    again.advance()
    identity(close(ledger, DECEMBER))
    proven(ledger, tmp_path)


@pytest.mark.parametrize("change", [{"window_seconds": 7}, {"grace_seconds": 90}, {"horizon_windows": 3}])
def test_settings_of_costing_that_change_leave_a_running_boot_as_it_began(ledger, tmp_path, recording, change):
    """Cut anew its windows would overlap those in the books, and be billed twice."""
    raw = moved(recording, NOVEMBER, 120)
    ledger.add(raw[: len(raw) * 2 // 3])
    accountant(ledger, SETTINGS).advance()
    changed = SETTINGS.model_copy(update={"costing": SETTINGS.costing.model_copy(update=change)})
    ledger.add(raw[len(raw) * 2 // 3 :])
    accountant(ledger, changed).advance()
    bills = 0
    for month in (NOVEMBER, DECEMBER):
        closed = close(ledger, month, changed)
        identity(closed)
        bills += closed.document.facts.bill_nano
    assert bills == pytest.approx(235_458_181, abs=1)
    proven(ledger, tmp_path)


def test_clocks_that_jump_into_closed_months_or_ahead_are_booked_once_where_it_is_open(ledger, tmp_path, recording):
    """A boot of September that arrives in December is an adjustment of December; one of 2028 waits for 2028."""
    ledger.add(moved(recording, NOVEMBER, 120))
    books = accountant(ledger, SETTINGS)
    books.advance()
    identity(close(ledger, NOVEMBER))
    before = documents(ledger)
    ledger.add(moved(recording, "2026-09", 300, boot="past"))
    ledger.add(moved(recording, "2028-03", 300, boot="ahead", engine="other"))
    books.advance()
    december = close(ledger, DECEMBER)
    identity(december)
    assert {cost.service_period for cost in december.document.facts.costs} == {"2026-09", DECEMBER}
    january = close(ledger, JANUARY)
    identity(january)
    assert january.document.facts.bill_nano == 0
    assert documents(ledger).items() >= before.items()
    assert [state.period for state in list_periods(ledger) if state.closed_ns is None] == ["2028-03"]
    proven(ledger, tmp_path)


# ---- drafts ---------------------------------------------------------------------------------------------


def test_a_draft_holds_whatever_moment_it_is_asked_for(ledger, recording):
    """In the middle of the work, or before an earlier month is closed: never a false alarm."""
    ledger.add(moved(recording, NOVEMBER, 120))
    accountant(ledger, SETTINGS).advance()
    _, end = bounds(NOVEMBER)
    prices, policy = price_book(SETTINGS), Policy.default()

    def draft(period, now_ns):
        return draft_period(ledger, period, SETTINGS, prices, policy, now_ns=now_ns)

    for before_end in range(-120, 181, 60):
        identity(draft(NOVEMBER, end - before_end * SECOND))
    early = draft(DECEMBER, end + HOUR)
    identity(early)
    with pytest.raises(PeriodError, match="has not begun"):
        draft(JANUARY, end + HOUR)
    november = close(ledger, NOVEMBER)
    assert draft(DECEMBER, end + HOUR).document.facts == early.document.facts
    assert early.document.facts.opening_wip_nano == november.document.facts.closing_wip_nano > 0
