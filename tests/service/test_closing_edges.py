"""Whatever happens around the end of a month: it closes, adds up, verifies, and recomputes from its evidence alone."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.service.books import accountant, raw_of
from tests.service.closings import SETTINGS, close, documents, identity, moved
from tests.service.edges import CAPACITY, counted, proven, shifted, through
from tests.service.test_scraped_engine import counters
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
from farthing.settings import parse_settings

RECORDINGS = Path(__file__).parents[1] / "fixtures/recordings"
NOVEMBER, DECEMBER, JANUARY = "2026-11", "2026-12", "2027-01"
SECONDS_A_MONTH = {NOVEMBER: 30 * 86_400, DECEMBER: 31 * 86_400}
GAP = (
    "costing: {grace_seconds: 20}\nprices:\n"
    "  - {gpu: H100-SXM, usd_per_hour: 3.6, from: 2026-01-01, to: 2026-12-01}\n"
    "  - {gpu: H100-SXM, usd_per_hour: 1.8, from: 2026-12-02}\n"
)


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


# ---- engines without a probe ------------------------------------------------------------------------------


def test_what_is_bought_is_billed_to_the_hour_after_the_last_scrape(ledger, tmp_path):
    """Scrapes never say that they were the last: the rest of the month, and the next one, is down."""
    begin = bounds(DECEMBER)[0] // SECOND
    ledger.add(counted("scrape:h100/m/1", begin - 101, 100))
    books = accountant(ledger, CAPACITY)
    books.advance()
    november = close(ledger, NOVEMBER, CAPACITY)
    ledger.add(raw_of([counters(n, begin - 101 + 2 * n, 100 * n) for n in range(101, 300)]))
    books.advance()
    for month, closed in ((NOVEMBER, november), (DECEMBER, close(ledger, DECEMBER, CAPACITY))):
        identity(closed)
        assert closed.document.facts.bill_nano == SECONDS_A_MONTH[month] * 10**6
    proven(ledger, tmp_path)


def test_a_probe_that_takes_over_from_scrapes_leaves_no_hour_unbilled_and_none_unpriced(ledger, tmp_path, recording):
    """Nor do scrapes that arrive too late, whether the accountant was restarted or not."""
    begin = bounds(NOVEMBER)[0] // SECOND
    ledger.add(counted("scrape:h100/m/1", begin + 86_400, 100))
    ledger.add(moved(recording, NOVEMBER, 10 * 86_400))
    accountant(ledger, CAPACITY).advance()
    ledger.add(raw_of([counters(n, begin + 86_400 + 2 * n, 100 * n) for n in range(101, 110)]))
    books = accountant(ledger, CAPACITY)
    books.advance()
    ledger.add(counted("scrape:h100/m/2", begin + 20 * 86_400, 2))
    books.advance()
    for month in (NOVEMBER, DECEMBER):
        closed = close(ledger, month, CAPACITY)
        identity(closed)
        assert closed.document.facts.bill_nano == SECONDS_A_MONTH[month] * 10**6
        assert closed.document.facts.unpriced == ()
    proven(ledger, tmp_path)


def test_a_scraped_engine_that_is_restarted_just_before_a_close_recomputes(ledger, tmp_path):
    """The first scrape of its new boot settles the old one's end, and has no window of its own."""
    begin = bounds(DECEMBER)[0] // SECOND
    ledger.add(counted("scrape:h100/m/1", begin - 300, 100))
    ledger.add(counted("scrape:h100/m/2", begin - 40, 1))
    books = accountant(ledger, SETTINGS)
    books.advance()
    identity(close(ledger, NOVEMBER))
    ledger.add(raw_of([counters(n, begin - 40 + 2 * n, 100 * n, "scrape:h100/m/2") for n in range(2, 60)]))
    books.advance()
    identity(close(ledger, DECEMBER))
    proven(ledger, tmp_path)


def test_a_price_entered_late_leaves_every_boot_of_a_scraped_engine_as_it_was_booked(ledger, tmp_path):
    """They have one account, and one price that changes where all of them together are booked to."""
    begin = bounds(DECEMBER)[0] // SECOND
    boot = "scrape:h100/m/2"
    text = "costing: {{grace_seconds: 20}}\nprices:\n  - {{gpu: H100-SXM, usd_per_hour: {}, from: 2026-01-01}}\n"
    ledger.add(counted("scrape:h100/m/1", begin - 500, 100))
    ledger.add(counted(boot, begin - 200, 150))
    accountant(ledger, parse_settings(text.format(3.6), "farthing.yaml")).advance()
    ledger.add(raw_of([counters(n, begin - 200 + 2 * n, 100 * n, boot) for n in range(151, 200)]))
    late = parse_settings(text.format(7.2), "farthing.yaml")
    books = accountant(ledger, late)
    books.advance()
    (view,) = books.snapshot().engines
    assert view.residual_nano == 0
    assert view.bill_nano == 600 * 10**6 + 98 * 2 * 10**6
    for month in (NOVEMBER, DECEMBER):
        identity(close(ledger, month, late))
    proven(ledger, tmp_path)


# ---- prices that end ----------------------------------------------------------------------------------------


def test_a_time_without_a_price_keeps_no_month_from_closing(ledger, tmp_path, recording):
    """A probed boot that runs into it, another that takes its place, and a scraped engine on both sides of it."""
    settings = parse_settings(GAP, "farthing.yaml")
    begin = bounds(DECEMBER)[0] // SECOND
    ledger.add(moved(recording, NOVEMBER, 120)[:-30])
    ledger.add(moved(recording, DECEMBER, 600_000, boot="next"))
    ledger.add(counted("scrape:s/m/1", begin - 51, 100, engine="s"))
    ledger.add(counted("scrape:s/m/2", begin + 2 * 86_400, 50, engine="s"))
    books = accountant(ledger, settings)
    books.advance()
    assert [view.residual_nano for view in books.snapshot().engines] == [0, 0]
    for month in (NOVEMBER, DECEMBER):
        closed = close(ledger, month, settings)
        identity(closed)
        assert any("has no price" in one for one in closed.document.facts.unpriced)
    proven(ledger, tmp_path)
    # once it has one, the rest is billed and nothing is unpriced any more
    filled = parse_settings(GAP.replace(", to: 2026-12-01", ""), "farthing.yaml")
    accountant(ledger, filled).advance()
    january = close(ledger, JANUARY, filled)
    identity(january)
    assert january.document.facts.bill_nano > 0
    assert january.document.facts.unpriced == ()
    proven(ledger, tmp_path)


def test_books_do_not_depend_on_how_many_records_were_read_at_once_when_a_price_ends(ledger, tmp_path, recording):
    """Read one by one or all together, as much is booked before the end of the price."""
    settings = parse_settings(GAP, "farthing.yaml")
    raw = moved(recording, NOVEMBER, 120)
    whole = Ledger.open(f"sqlite:///{tmp_path}/whole.db")
    whole.add(raw)
    accountant(whole, settings).advance()
    books = accountant(ledger, settings)
    for at in range(0, len(raw), 50):
        ledger.add(raw[at : at + 50])
        books.advance()
    assert (
        close(ledger, NOVEMBER, settings).document.facts.costs == close(whole, NOVEMBER, settings).document.facts.costs
    )
    proven(ledger, tmp_path)
    whole.close()
