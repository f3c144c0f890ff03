"""Closing months with GPUs that no engine had: they are billed, once, and corrected when that changes."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, raw_records
from tests.service.closings import SETTINGS, close, documents, identity, moved
from tests.service.devices import NAME, UUID, as_devices, device, without_samples
from tests.service.edges import CAPACITY, counted, proven

from farthing.books.periods import bounds
from farthing.books.policy import Policy
from farthing.collectors.wire import decode_raw
from farthing.costing.stream import CostStream
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import verify
from farthing.replay.recording import load_recording
from farthing.service.closing import draft_period
from farthing.service.idle_table import idle_table
from farthing.service.pricing import price_book
from farthing.settings import CostingSettings, Settings

H100 = 3_348_000_000
"""Nano-dollars per hour."""
NOVEMBER, DECEMBER = "2026-11", "2026-12"
_, END = bounds(NOVEMBER)


@pytest.fixture(scope="module")
def recording():
    """Four minutes of an 8B model on one H100."""
    return load_recording("h100-llama8b-vllm0.26")


@pytest.fixture
def ledger(ledger_url):
    """An empty ledger, in each database."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def _there(uuid, before_end, after_end=-0.0, **changed):
    """A device that is read every ten seconds, from so many seconds before the month's end to so many after it."""
    start, stop = END - round(before_end * SECOND), END + round(after_end * SECOND)
    return device([*range(start, stop, 10 * SECOND), stop], uuid=uuid, **changed)


def _idle(closed):
    """What devices cost beside engines, in nano-dollars: by device and account."""
    found: Counter[tuple[str, str]] = Counter()
    for one in closed.document.accruals:
        if one.source.startswith("gpu/"):
            found[one.source.removeprefix("gpu/"), one.account] += one.nano
    return dict(found)


def _cost(seconds):
    return round(seconds) * H100 // 3_600


def test_a_gpu_that_is_rented_and_serves_nothing_is_unallocated_from_when_it_is_seen(ledger, recording, tmp_path):
    """An engine runs on one of two; the other is billed while it is there, to the nano-dollar."""
    raw = moved(recording, NOVEMBER, 600)
    ledger.add([_there(UUID, 600), _there("GPU-idle", 500, -100), *without_samples(raw)])
    accountant(ledger, SETTINGS).advance()
    closed = close(ledger, NOVEMBER)
    identity(closed)
    boot = closed.document.boots[0]
    # the engine's own GPU is unallocated once it has stopped
    assert _idle(closed)["GPU-idle", c.UNALLOCATED] == _cost(400)
    after = 600 - 253.180839
    assert _idle(closed)[UUID, c.UNALLOCATED] == pytest.approx(after * H100 / 3_600, abs=10**6)
    assert closed.document.facts.bill_nano == boot.bill_nano + sum(_idle(closed).values())
    assert {cost.reason for cost in closed.document.facts.costs if cost.account == c.UNALLOCATED} == {"unassigned"}
    assert closed.document.facts.unpriced == ()
    proven(ledger, tmp_path)


def test_between_two_boots_of_an_engine_its_gpu_is_down(ledger, recording, tmp_path):
    """A crash and a start two minutes later: paid for, and the engine's."""
    ledger.add(
        [
            _there(UUID, 1_200),
            *without_samples(moved(recording, NOVEMBER, 1_200, boot="one")),
            *without_samples(moved(recording, NOVEMBER, 600, boot="two")),
        ]
    )
    accountant(ledger, SETTINGS).advance()
    closed = close(ledger, NOVEMBER)
    identity(closed)
    gap = 600 - 253.180839
    assert _idle(closed)[UUID, c.DOWN] == pytest.approx(gap * H100 / 3_600, abs=10**6)
    down = [cost for cost in closed.document.facts.costs if cost.account == c.DOWN and cost.reason == c.REASON_NO_BOOT]
    assert sum(cost.nano for cost in down) == _idle(closed)[UUID, c.DOWN]
    engines = {one.engine for one in closed.document.accruals if one.account == c.DOWN}
    assert engines == {"h100"}
    # both boots, their gap and what came after are twenty minutes of one GPU
    assert closed.document.facts.bill_nano == pytest.approx(_cost(1_200), abs=10**6)
    proven(ledger, tmp_path)


def test_an_engine_that_comes_back_next_month_was_down_and_its_gpu_not_unallocated(ledger, recording, tmp_path):
    """And a late boot takes its time back: both are adjustments of the month in which they were."""
    ledger.add([_there(UUID, 1_200, 1_200), *without_samples(moved(recording, NOVEMBER, 900, boot="one"))])
    books = accountant(ledger, SETTINGS)
    books.advance()
    november = close(ledger, NOVEMBER)
    identity(november)
    # 300 s before the boot, and what came after it
    whole = _idle(november)[UUID, c.UNALLOCATED]
    assert set(_idle(november)) == {(UUID, c.UNALLOCATED)}
    before = documents(ledger)
    late = without_samples(moved(recording, NOVEMBER, 1_200, boot="late"))
    ledger.add([*late, *without_samples(moved(recording, DECEMBER, 31 * 86_400 - 60, boot="two"))])
    books.advance()
    december = close(ledger, DECEMBER)
    identity(december)
    after = documents(ledger)
    assert {name: after[name] for name in before} == before
    facts = december.document.facts
    moved_in: Counter[str] = Counter()
    for cost in facts.costs:
        if cost.service_period == NOVEMBER:
            moved_in[cost.account] += cost.nano
    assert moved_in[c.UNALLOCATED] == -whole
    assert moved_in[c.DOWN] > 0
    # the late boot's 253 s are its own now, and all the rest was down: the month was paid for as it was
    assert sum(moved_in.values()) == 0
    gaps = [one for one in december.document.accruals if one.account == c.DOWN and one.end_ns <= END]
    assert sum(one.nano for one in gaps) == pytest.approx(whole - 253.180839 * H100 / 3_600, abs=10**6)
    proven(ledger, tmp_path)


def test_the_gpus_of_a_capacity_are_not_billed_once_more(ledger, recording, tmp_path):
    """Whether its engine runs or not: they are read, and they are the capacity's."""
    ledger.add([_there(UUID, 3_000), _there("GPU-rented", 2_000), *without_samples(moved(recording, NOVEMBER, 900))])
    accountant(ledger, CAPACITY).advance()
    closed = close(ledger, NOVEMBER, CAPACITY)
    identity(closed)
    found = _idle(closed)
    # one of the two is at a price: 3,000 s of two, less those in which only one was there
    assert sum(found.values()) == _cost(2_000)
    assert {account for _, account in found} == {c.UNALLOCATED}
    proven(ledger, tmp_path)


def test_a_boot_that_tells_no_uuid_is_not_billed_twice(ledger, recording, tmp_path):
    """It has one GPU of its kind: whichever nobody else has."""
    ledger.add([_there(UUID, 900), *without_samples(moved(recording, NOVEMBER, 900), uuids=())])
    accountant(ledger, SETTINGS).advance()
    closed = close(ledger, NOVEMBER)
    identity(closed)
    assert closed.document.facts.bill_nano == pytest.approx(_cost(900), abs=10**6)
    proven(ledger, tmp_path)


def test_a_device_without_a_price_is_named_and_costs_nothing_that_is_known(ledger, recording):
    """It is on the statement as unpriced; processors are no GPUs."""
    ledger.add([_there("GPU-odd", 600, name="NVIDIA A2"), _there("cpu", 600, name="AMD EPYC", kind="cpu")])
    ledger.add(without_samples(moved(recording, NOVEMBER, 600)))
    accountant(ledger, SETTINGS).advance()
    closed = close(ledger, NOVEMBER)
    identity(closed)
    (problem,) = closed.document.facts.unpriced
    assert problem.startswith("GPU GPU-odd: no price for GPU 'NVIDIA A2'; add it under prices:")
    assert _idle(closed) == {}


def test_a_slice_that_no_engine_has_is_unsold(ledger, recording, tmp_path):
    """An engine has a seventh of a GPU by its MIG instance; the rest of it is paid for as well."""
    engine = {"name": "h100", "url": "http://127.0.0.1:8000", "probe": True, "gpu_fraction": "0.125"}
    settings = SETTINGS.model_validate({**SETTINGS.model_dump(), "engines": (engine,)})
    ledger.add(
        [
            _there("GPU-whole", 200),
            _there("MIG-1", 200, parent="GPU-whole", profile="1g.10gb", kind="mig"),
            *without_samples(moved(recording, NOVEMBER, 200), uuids=("MIG-1",)),
        ]
    )
    accountant(ledger, settings).advance()
    closed = close(ledger, NOVEMBER, settings)
    identity(closed)
    assert _idle(closed) == {("GPU-whole", c.UNALLOCATED): _cost(200) * 7 // 8}
    assert {cost.reason for cost in closed.document.facts.costs if cost.account == c.UNALLOCATED} == {"unsold_slice"}
    proven(ledger, tmp_path)


def test_money_and_statements_are_the_same_with_and_without_energy(new_ledger_url, recording, tmp_path):
    """Only the presence of devices is billed, never their joules; statements of tenants are equal to the byte."""
    issued = []
    plain = without_samples(moved(recording, NOVEMBER, 300))
    silent = [device([one.event_ns], sequence=number + 1) for number, one in enumerate(_moved_devices(recording))]
    for number, samples in enumerate((silent, _moved_devices(recording), _moved_devices(recording, "integrated"))):
        ledger = Ledger.open(new_ledger_url(str(number)))
        ledger.add([*samples, *plain])
        accountant(ledger, SETTINGS).advance()
        closed = close(ledger, NOVEMBER)
        identity(closed)
        issued.append([statement.lines for statement in closed.statements])
        millijoules = sum(cost.millijoules for cost in closed.document.facts.costs)
        assert (millijoules > 0) == (number > 0)
        proven(ledger, tmp_path)
        ledger.close()
    assert issued[0] == issued[1] == issued[2]


def _moved_devices(recording, method="counter"):
    return as_devices(moved(recording, NOVEMBER, 300), method=method)


def test_a_draft_bills_devices_up_to_now_and_writes_nothing(ledger, recording):
    """What a month has cost so far holds what nobody used."""
    ledger.add([_there("GPU-idle", 7_200, -3_600), *without_samples(moved(recording, NOVEMBER, 5_000))])
    accountant(ledger, SETTINGS).advance()
    drafts = [
        draft_period(ledger, NOVEMBER, SETTINGS, price_book(SETTINGS), Policy.default(), now_ns=END - left * SECOND)
        for left in (6_000, 3_600, 100)
    ]
    for draft in drafts:
        identity(draft)
    assert [_idle(draft)["GPU-idle", c.UNALLOCATED] for draft in drafts] == [_cost(1_200), _cost(3_600), _cost(3_600)]
    table = idle_table(ledger, price_book(SETTINGS), END - 3_600 * SECOND, "USD")
    (row,) = [row for row in table.rows if row[0] == "GPU-idle"]
    assert row == ("GPU-idle", None, c.UNALLOCATED, "unassigned", 1.0, _cost(3_600))
    assert documents(ledger) == {}
    assert ledger.select(sa.select(sa.func.count()).where(t.journal.c.debit == c.UNALLOCATED)) == [(0,)]


def _priced(usd, **others):
    """An H100 at a price an hour in dollars, and other GPUs at theirs."""
    prices = [{"gpu": "H100-SXM", "usd_per_hour": usd, "from": "2026-01-01", "source": "contract"}]
    prices += [
        {"gpu": name, "usd_per_hour": one, "from": since, "source": "x"} for name, (one, since) in others.items()
    ]
    return Settings(costing=CostingSettings(grace_seconds=20), prices=prices)


def _moved_in_november(closed):
    return sum(one.nano for one in closed.document.accruals if one.source.startswith("gpu/") and one.end_ns <= END)


def test_a_price_by_the_drivers_name_that_is_added_later_changes_no_closed_month(ledger, recording, tmp_path):
    """A GPU keeps the key of the table that its month was closed by."""
    ledger.add([_there("GPU-idle", 1_200, 600), *without_samples(moved(recording, NOVEMBER, 900))])
    before, after = _priced(2.0), _priced(2.0, **{NAME: (5.0, "2026-12-01")})
    accountant(ledger, before).advance()
    assert _moved_in_november(close(ledger, NOVEMBER, before)) == 666_666_667
    december = close(ledger, DECEMBER, after)
    identity(december)
    assert _moved_in_november(december) == 0
    # December itself is billed by the new one
    assert sum(_idle(december).values()) == 833_333_333
    assert _moved_in_november(close(ledger, "2027-01", after)) == 0
    proven(ledger, tmp_path)


def test_time_that_turns_out_to_be_down_keeps_the_price_of_its_closed_month(ledger, recording, tmp_path):
    """An engine comes back after the price was corrected: the account changes, the sum does not, then or later."""
    first = _priced(2.0)
    ledger.add([_there(UUID, 1_200, 1_200), *without_samples(moved(recording, NOVEMBER, 900, boot="one"))])
    accountant(ledger, first).advance()
    close(ledger, NOVEMBER, first)
    ledger.add(without_samples(moved(recording, DECEMBER, 31 * 86_400 - 60, boot="two")))
    accountant(ledger, _priced(3.0)).advance()
    december = close(ledger, DECEMBER, _priced(3.0))
    identity(december)
    down = [one.nano for one in december.document.accruals if one.account == c.DOWN and one.end_ns <= END]
    assert sum(down) > 0
    assert _moved_in_november(december) == 0
    january = close(ledger, "2027-01", _priced(4.0))
    assert january.document.accruals == ()
    proven(ledger, tmp_path)


def test_a_month_that_was_priced_late_is_not_priced_again(ledger, recording, tmp_path):
    """The closing that first gave a GPU its price decides for the months before it."""
    name = "Foo"
    ledger.add([_there("GPU-idle", 1_200, 600, name=name), *without_samples(moved(recording, NOVEMBER, 900))])
    accountant(ledger, _priced(2.0)).advance()
    assert _moved_in_november(close(ledger, NOVEMBER, _priced(2.0))) == 0
    december = close(ledger, DECEMBER, _priced(2.0, Foo=(1.0, "2026-01-01")))
    assert _moved_in_november(december) == 333_333_334
    assert close(ledger, "2027-01", _priced(2.0, Foo=(3.0, "2026-01-01"))).document.accruals == ()
    proven(ledger, tmp_path)


@pytest.mark.parametrize("name", ["MIG-8f3c", UUID.removeprefix("GPU-")])
def test_a_boot_whose_name_for_its_gpu_was_never_read_is_not_billed_twice(ledger, recording, tmp_path, name):
    """DCGM calls slices by their GPU and a number, the driver by a UUID: then GPUs are counted."""
    raw = moved(recording, NOVEMBER, 600)
    slices = _there(f"{UUID}/1", 600, kind="mig", parent=UUID, profile="3g.40gb")
    ledger.add([_there(UUID, 600), slices, *without_samples(raw, [name])])
    accountant(ledger, SETTINGS).advance()
    closed = close(ledger, NOVEMBER)
    identity(closed)
    assert closed.document.facts.bill_nano == pytest.approx(_cost(600), abs=10**6)
    proven(ledger, tmp_path)


def test_a_boot_that_ended_holds_no_gpu_while_its_books_wait_for_energy(ledger, recording, tmp_path):
    """Its end is known, and its last samples are not: the month that is closed meanwhile says whose the GPUs were."""
    raw = moved(recording, NOVEMBER, 600)
    samples = as_devices(raw)
    of_two = [
        edited(one, gpu_count=2) if one.kind == "started" else one for one in without_samples(raw, (UUID, "GPU-b"))
    ]
    ledger.add([_there("GPU-b", 600, 600), *samples[:-1], *of_two])
    books = accountant(ledger, SETTINGS)
    books.advance()
    b = t.boots.c
    ((closed_ns, ended_ns, covered_ns),) = ledger.select(sa.select(b.closed_ns, b.ended_ns, b.covered_ns))
    assert (closed_ns, ended_ns) == (None, covered_ns)
    november = close(ledger, NOVEMBER)
    identity(november)
    assert _idle(november)["GPU-b", c.UNALLOCATED] == pytest.approx((600 - 253.180839) * H100 / 3_600, abs=10**6)
    # its energy comes after all: no amount moves
    ledger.add(samples[-1:])
    books.advance()
    assert ledger.select(sa.select(b.closed_ns, b.ended_ns)) == [(ended_ns, ended_ns)]
    december = close(ledger, DECEMBER)
    identity(december)
    assert _moved_in_november(december) == 0
    proven(ledger, tmp_path)


@pytest.mark.parametrize("chunk", [97, 1_000, 10_000])
def test_a_boot_whose_costing_gave_up_holds_no_gpu_beyond_what_it_was_billed_for(
    ledger, recording, tmp_path, monkeypatch, chunk
):
    """The time that it has no amount for is paid for and nobody's, until its records can be costed."""
    raw = without_samples(moved(recording, NOVEMBER, 600))
    feed, bad = CostStream.feed, raw[len(raw) // 2]

    def failing(stream, record):
        if record.key == bad.key:
            raise ZeroDivisionError("canary")
        return feed(stream, record)

    monkeypatch.setattr(CostStream, "feed", failing)
    ledger.add([_there(UUID, 600)])
    books = accountant(ledger, SETTINGS)
    for begin in range(0, len(raw), chunk):
        ledger.add(raw[begin : begin + chunk])
        books.advance()
    b = t.boots.c
    found = ledger.select(sa.select(b.given_up_ns, b.covered_ns, b.bill_nano, b.closed_ns))
    ((given_up_ns, covered_ns, bill, closed_ns),) = found
    assert (given_up_ns, closed_ns) == (covered_ns, None)
    # however few records were read at a time, all of what was settled before is in the books, and no more
    assert bill == ledger.select(sa.select(sa.func.sum(t.windows.c.bill_nano)))[0][0] == 116_259_850
    # another process finds the same
    accountant(ledger, SETTINGS).advance()
    assert ledger.select(sa.select(b.given_up_ns, b.covered_ns, b.bill_nano, b.closed_ns)) == found
    november = close(ledger, NOVEMBER)
    identity(november)
    assert sum(_idle(november).values()) + bill == _cost(600)
    assert {account for _, account in _idle(november)} == {c.UNALLOCATED}
    assert [check for check in verify(ledger.engine) if not check.ok] == []
    # mended: the boot takes its time back
    monkeypatch.setattr(CostStream, "feed", feed)
    accountant(ledger, SETTINGS).advance()
    assert ledger.select(sa.select(b.given_up_ns)) == [(None,)]
    december = close(ledger, DECEMBER)
    identity(december)
    assert december.document.facts.bill_nano == 0
    late = [one.nano for one in december.document.accruals if one.source.startswith("gpu/")]
    assert sum(late) == bill - ledger.select(sa.select(b.bill_nano))[0][0] < 0
    proven(ledger, tmp_path)


def _in_pods(engine_pod="ml/chat-*"):
    """Settings of an engine that only Kubernetes tells the devices of."""
    engine = {"name": "h100", "url": "http://127.0.0.1:8000", "probe": True, "pod": engine_pod}
    return SETTINGS.model_validate({**SETTINGS.model_dump(), "engines": (engine,)})


ROLLOUTS = {
    "a new pod on another GPU": (
        [("GPU-a", 1_250, 560, "ml/chat-1"), ("GPU-a", 550, 0, ""), ("GPU-b", 700, 0, "ml/chat-2")],
        {"one": ["GPU-a"], "two": ["GPU-b"]},
        {("GPU-a", c.UNALLOCATED): 50 + 1_200 - 253, ("GPU-b", c.UNALLOCATED): 700 - 253},
    ),
    "a pod of the same name on another GPU": (
        [("GPU-a", 1_250, 650, "ml/chat-0"), ("GPU-a", 640, 0, ""), ("GPU-b", 640, 0, "ml/chat-0")],
        {"one": ["GPU-a"], "two": ["GPU-b"]},
        {("GPU-a", c.UNALLOCATED): 50 + 1_200 - 253, ("GPU-b", c.UNALLOCATED): 640 - 253},
    ),
    "a new pod on the same GPU": (
        [("GPU-a", 1_250, 660, "ml/chat-1"), ("GPU-a", 650, 0, "ml/chat-2")],
        {"one": ["GPU-a"], "two": ["GPU-a"]},
        {("GPU-a", c.DOWN): 600 - 253, ("GPU-a", c.UNALLOCATED): 50 + 600 - 253},
    ),
    "a restart within the pod": (
        [("GPU-a", 1_250, 0, "ml/chat-1"), ("GPU-b", 1_250, 0, "ml/other")],
        {"one": ["GPU-a"], "two": ["GPU-a"]},
        {
            ("GPU-a", c.DOWN): 600 - 253,
            ("GPU-a", c.UNALLOCATED): 50 + 600 - 253,
            ("GPU-b", c.UNALLOCATED): 1_250,
        },
    ),
    "pods that were not read before their boots had long begun": (
        [("GPU-a", 1_000, 580, "ml/chat-1"), ("GPU-b", 450, 0, "ml/chat-2")],
        {"one": ["GPU-a"], "two": ["GPU-b"]},
        {("GPU-a", c.UNALLOCATED): 1_200 - 253 - 580, ("GPU-b", c.UNALLOCATED): 600 - 253},
    ),
}


@pytest.mark.parametrize("arrival", ["devices first", "boots first", "dealt"])
@pytest.mark.parametrize("case", ROLLOUTS)
def test_a_boot_has_the_gpus_of_its_own_pod_whichever_pods_its_engine_had(recording, tmp_path, case, arrival):
    """Rolled out while the old pod goes on: its GPU is not the new boot's, in whatever order all of it is read."""
    there, expected, seconds = ROLLOUTS[case]
    devices = []
    for uuid, start, stop, pod in there:
        at = [*range(END - start * SECOND, END - stop * SECOND, 10 * SECOND), END - stop * SECOND]
        devices += [device(at[n : n + 10], uuid=uuid, pod=pod) for n in range(0, len(at), 10)]
    boots = [
        *without_samples(moved(recording, NOVEMBER, 1_200, boot="one"), ()),
        *without_samples(moved(recording, NOVEMBER, 600, boot="two"), ()),
    ]
    settings = _in_pods()
    ledger = Ledger.open("sqlite://")
    books = accountant(ledger, settings)
    deliveries = {"devices first": [devices, boots], "boots first": [boots, devices]}.get(arrival)
    if deliveries is None:
        rng = random.Random(11)  # noqa: S311 - seeded trials
        records = list(boots)
        for one in devices:
            records.insert(rng.randrange(len(records) + 1), one)
        deliveries = [records[begin : begin + 700] for begin in range(0, len(records), 700)]
    for delivery in deliveries:
        ledger.add(delivery)
        books.advance()
    told = ledger.select(sa.select(t.boots.c.boot, t.boots.c.gpu_uuids))
    assert {boot: json.loads(uuids) for boot, uuids in told} == expected
    closed = close(ledger, NOVEMBER, settings)
    identity(closed)
    assert _idle(closed) == {key: pytest.approx(_cost(value), abs=10**6) for key, value in seconds.items()}
    proven(ledger, tmp_path)


OWN = "our-h100"


def _own_key(**engine):
    """An engine that is billed by a price of its own, beside the H100's."""
    prices = [{"gpu": OWN, "usd_per_hour": 2, "from": "2026-01-01", "source": "contract"}]
    engines = [{"name": "h100", "url": "http://127.0.0.1:8000", "gpu": OWN, "probe": True, **engine}]
    return SETTINGS.model_validate({**SETTINGS.model_dump(), "prices": prices, "engines": engines})


def test_an_engine_with_a_price_of_its_own_has_the_gpus_that_its_probe_counts(ledger, recording, tmp_path):
    """It tells no UUIDs: what it runs on is of the kind that its driver names, whatever that is called in the table."""
    settings = _own_key()
    raw = without_samples(moved(recording, NOVEMBER, 600), ())
    ledger.add([_there(UUID, 600), _there("GPU-l4", 600, name="NVIDIA L4"), *raw])
    books = accountant(ledger, settings)
    books.advance()
    closed = close(ledger, NOVEMBER, settings)
    identity(closed)
    found = _idle(closed)
    assert found[UUID, c.UNALLOCATED] == pytest.approx(_cost(600 - 253.180839), abs=10**6)
    # the L4 is nobody's
    assert found["GPU-l4", c.UNALLOCATED] == 600 * 468_000_000 // 3_600
    proven(ledger, tmp_path)


def test_a_boot_under_a_price_of_its_own_is_not_told_as_idle_while_it_runs(recording):
    """What costs money now is what nobody runs on."""
    ledger = Ledger.open("sqlite://")
    raw = without_samples(raw_records(recording), ())
    moment = 1_795_500_000 * SECOND
    ledger.add([device([moment - 5 * SECOND]), *raw[:300]])
    books = accountant(ledger, _own_key())
    books.advance()
    assert books.idle() == ()


def test_a_counted_engine_whose_price_is_no_gpus_name_has_one_that_nobody_else_has(ledger, tmp_path):
    """Its counters tell no device: it is billed for one, and one less is idle."""
    settings = _own_key(probe=False)
    ledger.add([_there(UUID, 600), _there("GPU-2", 600)])
    ledger.add([replace_gpu(one) for one in counted("scrape:h100/1", END // SECOND - 600, 200)])
    accountant(ledger, settings).advance()
    closed = close(ledger, NOVEMBER, settings)
    identity(closed)
    assert sum(_idle(closed).values()) == pytest.approx(_cost(1_200 - 400), abs=10**7)
    proven(ledger, tmp_path)


def replace_gpu(raw):
    """A scraped start with the settings' name for the GPU."""
    if raw.kind != "started":
        return raw
    line = json.loads(raw.line) | {"gpu": OWN}
    return type(raw)(raw.key, raw.kind, raw.event_ns, json.dumps(line).encode())


def _spot(spot, listed=2.0, **others):
    """An engine that chose a price by its name, beside the one that any other GPU of its kind has."""
    prices = [
        {"gpu": "H100-SXM", "name": "spot", "usd_per_hour": spot, "from": "2026-01-01", "source": "market"},
    ]
    if listed:
        prices.append({"gpu": "H100-SXM", "usd_per_hour": listed, "from": "2026-01-01", "source": "contract"})
    engine = {"name": "h100", "url": "http://127.0.0.1:8000", "probe": True, "price": "spot"}
    return Settings(costing=CostingSettings(grace_seconds=20), prices=prices, engines=(engine,), **others)


@pytest.mark.parametrize("listed", [2.0, None])
def test_an_engine_that_chose_its_price_comes_back_to_a_closed_month_at_the_price_of_then(
    ledger, recording, tmp_path, listed
):
    """Its price changes between two closings: the closed month keeps what it was, and moves for no change of prices."""
    first = _spot(1.0, listed)
    ledger.add([_there(UUID, 1_200, 1_200), *without_samples(moved(recording, NOVEMBER, 900, boot="one"))])
    accountant(ledger, first).advance()
    november = close(ledger, NOVEMBER, first)
    identity(november)
    unallocated = _idle(november).get((UUID, c.UNALLOCATED), 0)
    later = _spot(3.0, listed)
    ledger.add(without_samples(moved(recording, DECEMBER, 31 * 86_400 - 60, boot="two")))
    accountant(ledger, later).advance()
    december = close(ledger, DECEMBER, later)
    identity(december)
    down = [one for one in december.document.accruals if one.account == c.DOWN and one.end_ns <= END]
    # from the first boot's end to the end of the month, at the dollar that it cost then
    assert sum(one.nano for one in down) == pytest.approx((900 - 253.180839) * 10**9 / 3_600, abs=10)
    assert len({one.price_version for one in down}) == 1
    assert unallocated == (pytest.approx((1_200 - 253.180839) * 2 * 10**9 / 3_600, abs=10) if listed else 0)
    for number, usd in enumerate((4.0, 5.0)):
        again = close(ledger, ("2027-01", "2027-02")[number], _spot(usd, listed))
        assert again.document.accruals == ()
    proven(ledger, tmp_path)


def test_a_month_that_was_closed_without_its_engines_price_keeps_what_it_billed(ledger, recording, tmp_path):
    """As closings before did: the GPU's own price is what is known of then, and only the account changes."""
    ledger.add([_there(UUID, 1_200, 1_200), *without_samples(moved(recording, NOVEMBER, 900, boot="one"))])
    plain = _priced(2.0)
    accountant(ledger, plain).advance()
    close(ledger, NOVEMBER, plain)
    later = _spot(3.0)
    ledger.add(without_samples(moved(recording, DECEMBER, 31 * 86_400 - 60, boot="two")))
    accountant(ledger, later).advance()
    december = close(ledger, DECEMBER, later)
    identity(december)
    down = [one.nano for one in december.document.accruals if one.account == c.DOWN and one.end_ns <= END]
    assert sum(down) > 0
    assert _moved_in_november(december) == 0
    for period in ("2027-01", "2027-02"):
        again = close(ledger, period, _spot(5.0))
        assert again.document.accruals == ()
    proven(ledger, tmp_path)


def test_a_gpu_of_a_boot_that_tells_fewer_than_it_has_is_not_billed_twice(ledger, recording, tmp_path):
    """Over two hosts, its probe sees one GPU of the two that it is billed for."""
    raw = without_samples(moved(recording, NOVEMBER, 600))
    both = [edited(one, gpu_count=2) if one.kind == "started" else one for one in raw]
    ledger.add([_there(UUID, 600), _there("GPU-other-host", 600), *both])
    accountant(ledger, SETTINGS).advance()
    closed = close(ledger, NOVEMBER)
    identity(closed)
    assert closed.document.facts.bill_nano == pytest.approx(_cost(1_200), abs=10**6)
    proven(ledger, tmp_path)


def test_a_gpu_of_a_boot_that_is_billed_for_fewer_than_it_names_is_billed_all_the_same(ledger, recording, tmp_path):
    """Its pod has two GPUs and it runs on one: the other is paid for, and serves nobody."""
    raw = without_samples(moved(recording, NOVEMBER, 600))
    one_of_two = [edited(one, gpu_uuids=[UUID, "GPU-spare"]) if one.kind == "started" else one for one in raw]
    ledger.add([_there(UUID, 600), _there("GPU-spare", 600), *one_of_two])
    accountant(ledger, SETTINGS).advance()
    closed = close(ledger, NOVEMBER)
    identity(closed)
    assert closed.document.facts.bill_nano == pytest.approx(_cost(1_200), abs=10**6)
    proven(ledger, tmp_path)


def edited(raw, **fields):
    """A record whose line says something else."""
    return decode_raw(json.dumps(json.loads(raw.line) | fields).encode())
