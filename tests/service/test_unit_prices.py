"""Unit prices in intake's answers: of late, of what is settled, of the engines that the body named, never 0."""

import asyncio

import httpx
import pytest
from tests.service.books import accountant, raw_of, raw_records
from tests.service.running import served, wait_until

from farthing.books.prices import PriceBook
from farthing.collectors.wire import decode_line
from farthing.costing.fit import FEATURES
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.model import Posting, SettledWindow
from farthing.ledger.repository import Ledger
from farthing.replay.offline import cost_recording
from farthing.replay.recording import load_recording
from farthing.replay.sender import Sender
from farthing.replay.wire_records import wire_records
from farthing.service.server import Service
from farthing.service.unit_prices import UnitPrices
from farthing.settings import Settings
from farthing_probe import wire

TEXT, VISION = "h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26"


@pytest.fixture
def ledger(tmp_path):
    """An empty ledger."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    yield ledger
    ledger.close()


def start(boot="b", engine="e"):
    raw = raw_of([
        wire.started(
            boot, 0, 0, at_ns=0, wall_ns=0, engine=engine, engine_kind="vllm", version="", model="m", gpu="H100",
            gpu_count=1,
        )
    ])  # fmt: skip
    return decode_line(raw[0].line)


def window(end_s, *postings, tokens=None, bill=None, busy=1):
    lines = tuple(Posting(account, phase, "", "", "m", "", "", "modelled", nano) for account, phase, nano in postings)
    bill = sum(line.nano for line in lines) if bill is None else bill
    begin, end = (end_s - 5) * SECOND, end_s * SECOND
    return SettledWindow("b", 0, begin, end, bill, busy, {}, {}, tokens or {}, lines, (), "f")


def test_a_price_is_what_a_phase_cost_whoever_bore_it_per_million_tokens():
    """Failed and lost work was computed as well: its tokens are in the divisor, so its money belongs above it."""
    prices = UnitPrices()
    prices.observe(start(), "e", [
        window(5, (c.CHARGED, c.DECODE, 600), (c.ABORTED, c.DECODE, 100), (c.UNATTRIBUTED, c.DECODE, 50),
               (c.IDLE, "", 9_000), tokens={"engine_output": 500}),
        window(10, (c.CHARGED, c.DECODE, 250), (c.CHARGED, c.PREFILL, 40),
               tokens={"engine_output": 500, "prompt_computed": 8_000_000}),
    ])  # fmt: skip
    assert prices.of({"b"}) == {"e": {c.DECODE: 1_000_000, c.PREFILL: 5}}


def test_what_is_unknown_is_left_out_and_never_0():
    """No tokens, no money, nothing settled, or a boot that nobody knows."""
    prices = UnitPrices()
    assert prices.of({"b"}) == {}
    prices.observe(start(), "e", [])
    assert prices.of({"b"}) == {}
    prices.observe(start(), "e", [
        window(5, (c.IDLE, "", 10), busy=0),
        window(10, (c.CHARGED, c.PREFILL, 10), tokens={"engine_output": 5}),
        window(15, (c.CHARGED, c.DECODE, 0), bill=0, tokens={"engine_output": 5}),
    ])  # fmt: skip
    assert prices.of({"b"}) == {}
    prices.observe(start(), "e", [window(20, (c.CHARGED, c.DECODE, 5), tokens={"engine_output": 5})])
    assert prices.of({"b", "c"}) == {"e": {c.DECODE: 500_000}}


def test_only_the_last_five_minutes_of_work_count():
    """A lifetime's mean would tell of company that is long gone; idle time in between takes nothing away."""
    prices = UnitPrices()
    cheap = [window(s, (c.CHARGED, c.DECODE, 1), tokens={"engine_output": 1_000}) for s in range(5, 1_005, 5)]
    dear = [window(s, (c.CHARGED, c.DECODE, 100), tokens={"engine_output": 1_000}) for s in range(1_005, 1_305, 5)]
    prices.observe(start(), "e", cheap)
    assert prices.of({"b"}) == {"e": {c.DECODE: 1_000}}
    prices.observe(start(), "e", [*dear[:30], window(1_155, (c.IDLE, "", 7), busy=0)])
    assert prices.of({"b"}) == {"e": {c.DECODE: 50_500}}
    prices.observe(start(), "e", dear[30:])
    assert prices.of({"b"}) == {"e": {c.DECODE: 100_000}}
    prices.observe(start(), "e", [window(9_000, (c.IDLE, "", 7), busy=0)])
    assert prices.of({"b"}) == {"e": {c.DECODE: 100_000}}


def test_a_new_boot_has_the_price_of_the_last_one_until_it_has_one_of_its_own():
    """The same engine on the same GPU; and each boot is answered under the name that its sender gave."""
    prices = UnitPrices()
    prices.observe(start(), "e", [window(900, (c.CHARGED, c.DECODE, 5), tokens={"engine_output": 5})])
    prices.observe(start("later", "host:8000"), "e", [])
    assert prices.of({"later"}) == {"host:8000": {c.DECODE: 1_000_000}}
    prices.observe(start("later", "host:8000"), "e", [window(5, (c.CHARGED, c.DECODE, 9), tokens={"engine_output": 5})])
    assert prices.of({"later", "b"}) == {"host:8000": {c.DECODE: 1_800_000}, "e": {c.DECODE: 1_800_000}}


def test_the_recorded_prices_are_those_of_its_last_windows(ledger):
    """Against the unit costs of the whole run: of the same order, and not the same."""
    ledger.add(raw_records(load_recording(VISION)))
    keeper = accountant(ledger)
    keeper.advance()
    prices = keeper.unit_prices.of({"b"})["h100"]
    (view,) = keeper.snapshot().engines
    lifetime = view.unit_cost_nano_per_million
    assert set(prices) == {*c.PHASES, *FEATURES}
    for phase in c.PHASES:
        nano = prices[phase]
        known = lifetime[phase]
        assert known is not None
        assert isinstance(nano, int)
        assert known / 2 < nano < 2 * known


def test_the_work_of_late_at_its_prices_comes_to_its_money():
    """Of every recorded window: features times prices is what all phases cost, whoever bore it."""
    run = cost_recording(load_recording(TEXT), Settings(), PriceBook())
    prices = UnitPrices()
    windows = [window for window in run.entry.windows if window.busy_ns]
    prices.observe(run.account.started, "e", windows)
    told = prices.of({run.account.started.key.boot})[run.account.started.engine]
    spent = sum(posting.nano for window in windows for posting in window.postings if posting.phase)
    come = sum(round(window.features[name]) * told[name] for window in windows for name in FEATURES)
    assert come / 1_000_000 == pytest.approx(spent, rel=1e-3)


def test_beside_the_price_of_late_stands_that_of_a_full_engine(ledger):
    """Of the same recent work; output is dearer now than it could be, prompts are not, and pictures are not told."""
    ledger.add(raw_records(load_recording(TEXT)))
    keeper = accountant(ledger)
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert view.recent_unit_cost_nano.items() <= keeper.unit_prices.of({"b"})["h100"].items()
    assert set(view.saturated_unit_cost_nano) == {c.PREFILL, c.DECODE}
    assert 1.5 < view.recent_unit_cost_nano[c.DECODE] / view.saturated_unit_cost_nano[c.DECODE] < 4
    assert 0.9 < view.recent_unit_cost_nano[c.PREFILL] / view.saturated_unit_cost_nano[c.PREFILL] < 1.2


@pytest.mark.parametrize(("name", "phases"), [(TEXT, {c.PREFILL, c.DECODE}), (VISION, set(c.PHASES))])
def test_around_the_price_of_late_stand_the_least_and_the_most_that_it_may_be(ledger, name, phases):
    """By the fit's own intervals: busy time is metered, only its split is in doubt."""
    ledger.add(raw_records(load_recording(name)))
    keeper = accountant(ledger)
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert set(view.recent_unit_cost_bounds_nano) == phases
    for phase, (low, high) in view.recent_unit_cost_bounds_nano.items():
        assert 0.5 < low / view.recent_unit_cost_nano[phase] < 1 < high / view.recent_unit_cost_nano[phase] < 1.5
    assert keeper.unit_prices.bounds("another") == {}


def test_a_full_engine_is_one_of_as_many_requests_as_the_settings_say(ledger):
    """With one request at a time nothing could be cheaper than it is."""
    run = cost_recording(load_recording(TEXT), Settings(), PriceBook())
    one, many = UnitPrices(1), UnitPrices(10_000)
    for prices in (one, many):
        prices.observe(run.account.started, "e", run.entry.windows)
    (recent, alone), (same, crowded) = one.compared("e"), many.compared("e")
    assert recent == same
    assert alone[c.DECODE] > recent[c.DECODE] > crowded[c.DECODE]
    set_to = Settings.model_validate({"costing": {"saturated_requests": 7}})
    assert accountant(ledger, set_to).unit_prices.sequences == 7


def test_without_a_fit_nothing_is_said_of_a_full_engine():
    """The price of late is known all the same."""
    prices = UnitPrices()
    prices.observe(start(), "e", [window(5, (c.CHARGED, c.DECODE, 5), tokens={"engine_output": 5})])
    assert prices.compared("e") == ({c.DECODE: 1_000_000}, {})
    assert prices.compared("another") == ({}, {})
    assert prices.bounds("e") == {}


def test_a_sender_gets_the_prices_of_its_engine_and_of_no_other(ledger):
    """Through a real server: none before work is settled, then integers; an unpriced engine has none."""
    service = Service(Settings(), ledger)
    text = [item.record for item in wire_records(load_recording(TEXT), boot="text", engine="llama")]
    vision = [item.record for item in wire_records(load_recording(VISION), boot="vision", engine="qwen")]
    unpriced = [item.record for item in wire_records(load_recording(TEXT), boot="unpriced", engine="rtx")]
    unpriced[0]["gpu"] = "NVIDIA GeForce RTX 4090"

    def prices_of(url, *records):
        body = wire.encode(records)
        headers = {"content-encoding": "gzip"}
        answer = httpx.post(url + wire.path_of(records[0]), content=body, headers=headers, trust_env=False)
        assert answer.status_code == 200
        return answer.json()["unit_prices"]

    async def deliver(url, records):
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            await Sender(url, None, client).send(records)

    with served(service.app) as url:
        wait_until(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200, 10, "ready")
        assert prices_of(url, text[0]) == {}
        for records in (text, vision, unpriced[:1_000]):
            asyncio.run(deliver(url, records))
        states = ["down", "down", "unknown"]
        wait_until(lambda: [view.state for view in service.snapshot().engines] == states, 30, "costed")
        told = prices_of(url, text[0])
        assert list(told) == ["llama"]
        assert set(told["llama"]) == {c.PREFILL, c.DECODE, *FEATURES}
        assert all(type(nano) is int and nano > 0 for nano in told["llama"].values())
        assert set(prices_of(url, text[0], vision[0], unpriced[0])) == {"llama", "qwen"}
        assert prices_of(url, unpriced[0]) == {}
        assert prices_of(url, wire.lifecycle("nobody", 0, 5, at_ns=0, event="ready")) == {}


def test_while_the_past_is_read_again_there_is_no_price_of_it(ledger):
    """Right after a start the books stand somewhere in the past, and what work cost then is not what it costs now."""
    ledger.add(raw_records(load_recording(TEXT)))
    service = Service(Settings(), ledger)
    service._accountant.advance()
    body = wire.encode([wire.lifecycle("b", 0, 1, at_ns=0, event="ready")])

    async def post():
        # without its lifespan the service has not said yet that it is ready
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app)) as client:
            return await client.post(
                f"http://farthing{wire.WINDOWS_PATH}", content=body, headers={"content-encoding": "gzip"}
            )

    assert asyncio.run(post()).json()["unit_prices"] == {}
    service._ready = True
    assert set(asyncio.run(post()).json()["unit_prices"]["h100"]) == {c.PREFILL, c.DECODE, *FEATURES}
