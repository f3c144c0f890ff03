"""Months close and add up with engines scraped, GPUs bought, and prices missing; nothing is billed twice or never."""

import pytest
from tests.service.books import accountant, raw_of
from tests.service.closings import SETTINGS, close, identity, moved
from tests.service.edges import CAPACITY, NODE, capacity, counted, proven
from tests.service.test_scraped_engine import counters

from farthing.books.periods import bounds
from farthing.domain.clock import SECOND
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.settings import EngineSettings, parse_settings

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


# ---- bought capacity ----------------------------------------------------------------------------------------


def _engine(name, fraction="1"):
    given = {"name": name, "url": "http://127.0.0.1:8000", "probe": True, "capacity": "node", "gpu_fraction": fraction}
    return EngineSettings.model_validate(given)


def _bills(ledger, settings, *months):
    closed = [close(ledger, month, settings) for month in months]
    for one in closed:
        identity(one)
    return [one.document.facts.bill_nano for one in closed]


def test_slices_hosts_and_what_nobody_has_are_the_node_to_the_nano_dollar(ledger, tmp_path, recording):
    """Two engines with odd slices of one GPU, a GPU that nobody has, and the host's share."""
    node = {
        **NODE,
        "name": "a-node-with-a-name-as-long-as-those-of-managed-clouds-are",
        "gpus": 2,
        "host_share": "0.07",
    }
    engines = [_engine("h100", "0.43"), _engine("b", "0.3")]
    on_node = [one.model_copy(update={"capacity": node["name"]}) for one in engines]
    settings = capacity(*on_node, terms=(node,))
    ledger.add(moved(recording, NOVEMBER, 120))
    ledger.add(moved(recording, NOVEMBER, 3 * 86_400, boot="bb", engine="b"))
    accountant(ledger, settings).advance()
    assert _bills(ledger, settings, NOVEMBER, DECEMBER) == [one * 10**6 for one in SECONDS_A_MONTH.values()]
    proven(ledger, tmp_path)


def test_boots_that_claim_one_gpu_at_once_are_billed_for_it_once(ledger, tmp_path, recording):
    """The second one began a minute before the first is known to have ended."""
    ledger.add(moved(recording, NOVEMBER, 120))
    ledger.add(moved(recording, NOVEMBER, 60, boot="second"))
    accountant(ledger, CAPACITY).advance()
    assert _bills(ledger, CAPACITY, NOVEMBER, DECEMBER) == [one * 10**6 for one in SECONDS_A_MONTH.values()]
    proven(ledger, tmp_path)


def test_a_capacity_that_ends_under_an_engine_and_begins_again_is_billed_while_it_is_paid_for(
    ledger, tmp_path, recording
):
    """The engine is unpriced in between, and after that until somebody fills the gap."""
    terms = ({**NODE, "to": "2026-12-01"}, {**NODE, "from": "2026-12-05", "usd_per_hour": "1.8"})
    settings = capacity(terms=terms)
    ledger.add(moved(recording, NOVEMBER, 120))
    accountant(ledger, settings).advance()
    bills = _bills(ledger, settings, NOVEMBER, DECEMBER)
    assert bills == [SECONDS_A_MONTH[NOVEMBER] * 10**6, 27 * 86_400 * 500_000]
    ledger.add(moved(recording, JANUARY, 86_400, boot="second"))
    accountant(ledger, settings).advance()
    assert _bills(ledger, settings, JANUARY) == [31 * 86_400 * 500_000]
    proven(ledger, tmp_path)


def test_an_engine_that_leaves_a_capacity_and_another_that_joins_it_change_nothing_that_is_closed(
    ledger, tmp_path, recording
):
    """What was booked at the price of a slot stays; a late boot of the new one is billed at its own."""
    node = {**NODE, "gpus": 2, "usd_per_hour": "7.2"}
    raw = moved(recording, NOVEMBER, 120)
    alone = capacity(_engine("h100"), terms=(node,))
    both = capacity(_engine("other"), _engine("h100"), terms=(node,))
    left = both.model_copy(update={"engines": (_engine("other"), both.engines[1].model_copy(update={"capacity": ""}))})
    ledger.add(raw[:1_500])
    accountant(ledger, alone).advance()
    assert _bills(ledger, alone, NOVEMBER) == [2 * SECONDS_A_MONTH[NOVEMBER] * 10**6]
    ledger.add(raw[1_500:2_000])
    ledger.add(moved(recording, NOVEMBER, 5_000, boot="late", engine="other"))
    accountant(ledger, both).advance()
    _bills(ledger, both, DECEMBER)
    ledger.add(raw[2_000:])
    accountant(ledger, left).advance()
    _bills(ledger, left, JANUARY)
    proven(ledger, tmp_path)
