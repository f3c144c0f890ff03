"""What key panels show equals what the recordings say, by arithmetic on their own lines."""

import math
from dataclasses import replace

import pytest
from tests.dashboards.grafana import Chosen, Span
from tests.dashboards.recorded_engines import CAPTURED
from tests.dashboards.recorded_truth import bucket_quantile, per_second, place, truth_of
from tests.dashboards.world import SCRAPE_SECONDS, placed

from farthing.domain import conventions as names
from farthing.domain.money import NANO

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

EXACT = 1e-6
COSTED = 0.01
"""Farthing settles a window's cost as a whole; its shares meet what the steps say within a percent."""
H100_USD = 3.348
VISION = "qwen2-vl-7b"
LLAMA = "llama-1"
LLAMA_LAPS, VISION_LAPS = 15, 5
"""So many laps are whole scrape intervals: 15 x 254 s, 5 x 192 s."""


class Shown:
    """Panels at one moment in the middle of the six hours, which nothing live has touched."""

    def __init__(self, panel_world):
        self.world = panel_world.world
        middle = float(self.world.times[0]) + 4 * 3600
        self.at = middle // 300 * 300
        self._store = panel_world.store(self.at)
        self._boards = {board.uid: board for board in panel_world.boards}

    def store(self, seconds):
        return replace(self._store, span=Span(self.at - seconds, self.at, SCRAPE_SECONDS))

    def query(self, where, choices=None, seconds=3600):
        """Labels and the last value of each series of a query: DASHBOARD/PANEL/LETTER."""
        uid, title, letter = where.split("/")
        board = self._boards[uid]
        (asked,) = [one for one in board.asked if (one.panel, one.letter) == (title, letter)]
        variables = {one.name: one for one in board.variables}
        chosen = {
            name: Chosen((value,), variables[name].all_value, variables[name].many)
            for name, value in (choices or {}).items()
            if name in variables
        }
        store = self.store(seconds)
        answer = store.ask(asked, board, chosen, store.options(board, chosen))
        return [(labels, points[-1][1]) for labels, points in answer.series]

    def value(self, where, choices=None, seconds=3600, **labels):
        """The only series with these labels."""
        found = [value for given, value in self.query(where, choices, seconds) if labels.items() <= given.items()]
        assert len(found) == 1, (where, labels, found)
        return found[0]

    def recorded_at(self, record, before=None):
        """When our rules last recorded a series before the moment that is shown, or another."""
        moment = {"time": repr(self.at if before is None else before)}
        answer = self._store.query(f"max(timestamp({record}))", "query", moment)
        ((_, ((_, at),)),) = answer.series
        return at


@pytest.fixture(scope="module")
def shown(panel_world):
    return Shown(panel_world)


def engines(kind):
    return [one for one in placed() if one.kind.name == kind]


def vision():
    return truth_of("h100-qwen2vl7b-vllm0.26")


def llama():
    return truth_of("h100-llama8b-vllm0.26")


def rate(shown, record, name, has=None):
    """Of all vision engines together, when the record was made."""
    at = shown.recorded_at(record)
    return sum(
        latest(lambda back, one=one: per_second(shown.world, one, at - back, name, has), 60)
        for one in engines("vision")
    )


def latest(known, seconds):
    """What was known last: now, or so many seconds ago, as long as Prometheus looks back."""
    return next(value for back in range(0, 300, seconds) if (value := known(back)) is not None)


def spread(shown, at, name):
    """Observations per second by upper bound, of all vision engines that answered twice within the minute."""

    def up_to(bound):
        return [
            per_second(shown.world, one, at, f"{name}_bucket", lambda labels: bool(labels["le"] == bound))
            for one in engines("vision")
        ]

    return [(float(bound), sum(filter(None, up_to(bound)))) for bound in vision().bounds(name)]


@pytest.mark.parametrize(
    ("where", "record", "counter"),
    [
        ("farthing-fleet/Tokens per second/A", names.REC_GENERATION_RATE, "vllm:generation_tokens_total"),
        ("farthing-fleet/Tokens per second/B", names.REC_PROMPT_RATE, "vllm:prompt_tokens_total"),
        ("farthing-fleet/Requests finished per second/A", names.REC_REQUEST_RATE, "vllm:request_success_total"),
    ],
)
def test_rates_are_the_growth_of_the_engines_counters(shown, where, record, counter):
    """Of the seven vision engines together."""
    expected = rate(shown, record, counter)
    assert expected > 0
    assert shown.value(where, model=VISION) == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize(
    ("where", "share", "record", "histogram"),
    [
        ("farthing-fleet/Time to first token/A", 0.95, names.REC_TTFT_P95, "vllm:time_to_first_token_seconds"),
        ("farthing-fleet/Time to first token/B", 0.5, names.REC_TTFT_P50, "vllm:time_to_first_token_seconds"),
        ("farthing-fleet/Inter-token latency/A", 0.95, names.REC_ITL_P95, "vllm:inter_token_latency_seconds"),
        ("farthing-fleet/Inter-token latency/B", 0.5, names.REC_ITL_P50, "vllm:inter_token_latency_seconds"),
    ],
)
def test_percentiles_are_interpolated_in_the_engines_buckets(shown, where, share, record, histogram):
    """The percentile's rule reads what the bucket's rule recorded last."""
    bucket = record.rpartition(":")[0] + "_bucket:rate1m"
    at = shown.recorded_at(bucket, before=shown.recorded_at(record))
    expected = bucket_quantile(spread(shown, at, histogram), share)
    assert shown.value(where, model=VISION) == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize(
    ("where", "record", "gauge"),
    [
        ("farthing-fleet/Requests running and waiting/A", names.REC_RUNNING, "vllm:num_requests_running"),
        ("farthing-fleet/Requests running and waiting/B", names.REC_WAITING, "vllm:num_requests_waiting"),
        ("farthing-fleet/Fullest KV cache/A", names.REC_KV, "vllm:kv_cache_usage_perc"),
    ],
)
def test_gauges_are_the_engines_own_of_each_instance(shown, where, record, gauge):
    """Batch size, queue and KV cache, of every engine at its last scrape."""
    at = shown.recorded_at(record) // SCRAPE_SECONDS * SCRAPE_SECONDS
    for one in [*engines("llama"), *engines("vision")]:
        truth = truth_of(one.kind.recording)
        expected = latest(
            lambda back, one=one, truth=truth: truth.gauge(place(shown.world, one, at - back)[1], gauge), SCRAPE_SECONDS
        )
        assert shown.value(where, {"instance": one.name}) == pytest.approx(expected, rel=EXACT), one.name


def owned_usd_per_hour():
    """One of eight GPUs: 260,000 USD over the 60 months from 2026 on, and 6 kW with what the building adds."""
    days = 5 * 365 + 1
    return (260_000 / (days * 24) + 6 * 1.3 * 0.12) / 8


def test_spend_per_hour_is_the_sum_of_prices(shown):
    """Thirteen rented GPUs, and seven of an owned rack of eight."""
    expected = 13 * H100_USD + 7 * owned_usd_per_hour()
    assert shown.value("farthing-fleet/Spend per hour/A") == pytest.approx(expected, rel=EXACT)


def test_every_engine_is_up_or_known(shown):
    """Of the twenty and the captured ones, the four that are restarted again and again may not be up; one is gone."""
    recorded, captured = len(placed()), len(CAPTURED)
    assert shown.value("farthing-fleet/Engine targets/B") == recorded + captured + 1
    up = shown.value("farthing-fleet/Engine targets/A")
    assert recorded + captured - 4 <= up <= recorded + captured


def test_the_idle_share_is_the_time_without_steps(shown):
    """Of whole laps of one engine: what is neither busy nor down."""
    truth, seconds = llama(), LLAMA_LAPS * llama().lap_seconds
    idle = truth.seconds - truth.busy_seconds() - truth.down_seconds()
    found = shown.value("farthing-fleet/Idle share/A", {"instance": LLAMA}, seconds)
    assert found == pytest.approx(idle / truth.seconds, rel=0.03)


def test_busy_cost_is_busy_time_at_the_price(shown):
    """All phases together, charged and aborted, of whole laps of one engine."""
    seconds = LLAMA_LAPS * llama().lap_seconds
    panel = "farthing-economics/Cost per million tokens in range, and how it is known"
    rows = shown.query(f"{panel}/E", {"instance": LLAMA}, seconds)
    expected = LLAMA_LAPS * llama().busy_seconds() * H100_USD / 3_600
    assert sum(value for _, value in rows) == pytest.approx(expected, rel=COSTED)


def test_the_bill_is_allocated_time_at_the_price_and_its_lines_add_up_to_it(shown):
    """Since the ledger began, of one engine: the bill knows no line, and no line knows the bill."""
    panel = "farthing-economics/Bill = accounts - moved late + work in progress + residual, since the ledger began"
    bill, accounts, in_progress = (shown.value(f"{panel}/{letter}", {"instance": LLAMA}) for letter in "ABD")
    assert bill == pytest.approx(accounts + in_progress, rel=1e-9)
    lap, position = place(shown.world, engines("llama")[0], shown.at)
    expected = (lap * llama().seconds + position) * H100_USD / 3_600
    # each lap's bill is whole nano-dollars, and of what came about in the last seconds nobody knows yet
    assert expected - 15 * H100_USD / 3_600 <= bill <= expected + (lap + 1) / NANO


def test_tenants_bear_what_the_engines_did_for_them(shown):
    """The tenants of the vision engines together: busy time at the price of owned GPUs."""
    rows = shown.query("farthing-fleet/Cost by tenant/A", {"model": VISION}, VISION_LAPS * vision().lap_seconds)
    expected = 7 * VISION_LAPS * vision().busy_seconds() * owned_usd_per_hour() / 3_600
    assert {labels["tenant"] for labels, _ in rows} == {row["tenant"] for row in vision().requests}
    assert sum(value for _, value in rows) == pytest.approx(expected, rel=COSTED)


@pytest.mark.parametrize("tenant", ["clinic-a", "clinic-b", "claims", "research"])
def test_a_tenants_requests_and_tokens_are_its_clients(shown, tenant):
    """As many as its clients sent; tokens as they were told, or as many chunks as came until they hung up."""
    seconds, times = VISION_LAPS * vision().lap_seconds, 7 * VISION_LAPS
    rows = [row for row in vision().requests if row["tenant"] == tenant]
    requests = shown.value("farthing-fleet/Cost by tenant/C", {"model": VISION}, seconds, tenant=tenant)
    assert requests == pytest.approx(times * len(rows), rel=EXACT)
    tokens = sum(row["usage"]["completion_tokens"] if row["usage"] else max(0, row["chunks"] - 1) for row in rows)
    found = shown.value("farthing-fleet/Cost by tenant/D", {"model": VISION}, seconds, tenant=tenant)
    assert found == pytest.approx(times * tokens, rel=0.002)


@pytest.mark.parametrize("tenant", ["clinic-a", "research"])
def test_the_aborted_share_is_that_of_clients_that_hung_up(shown, tenant):
    """By tenant, of whole laps."""
    rows = [row for row in vision().requests if row["tenant"] == tenant]
    expected = sum(row["err"] == "aborted" and bool(row["first"]) for row in rows) / len(rows)
    seconds = VISION_LAPS * vision().lap_seconds
    found = shown.value("farthing-tenants/How requests ended, in range/A", {"model": VISION}, seconds, tenant=tenant)
    assert found == pytest.approx(expected, rel=EXACT)


def test_a_promise_is_missed_as_often_as_clients_waited_too_long(shown):
    """First tokens of people who chat with the vision model within half a second; over an hour, not whole laps."""
    tiers = engines("vision")[0].kind.tiers
    rows = [row for row in vision().requests if row["phase"] not in tiers]
    bad = sum(not row["first"] or row["first"] - row["t0"] > 0.5 for row in rows)
    burn = shown.value(
        "farthing-slo/Every promise/A", {"model": VISION, "slo": "chat-first-token"}, slo="chat-first-token"
    )
    assert burn * 0.05 == pytest.approx(bad / len(rows), rel=0.03)


def device(shown, one, record):
    """The row of the device's samples that its series last showed."""
    at = shown.recorded_at(record) // SCRAPE_SECONDS * SCRAPE_SECONDS
    return truth_of(one.kind.recording).sample(place(shown.world, one, at)[1])


@pytest.mark.parametrize(
    ("where", "record", "column", "scale"),
    [
        ("farthing-gpus/Power and its limit/A", names.REC_GPU_POWER, "p_mw", 0.001),
        ("farthing-gpus/Temperature/A", names.REC_GPU_TEMPERATURE, "temp", 1),
        ("farthing-gpus/Clocks/A", names.REC_GPU_SM_CLOCK, "sm", 1e6),
        ("farthing-gpus/Utilisation of each GPU/A", names.REC_GPU_UTILIZATION, "gpu", 0.01),
    ],
)
def test_a_gpu_shows_what_its_driver_said(shown, where, record, column, scale):
    """Of every recorded engine's device."""
    for one in [*engines("llama"), *engines("vision")]:
        expected = device(shown, one, record)[column] * scale
        found = shown.value(where, {}, 3600, hostname=one.host, device=str(one.device))
        assert found == pytest.approx(expected, rel=EXACT), one.name


@pytest.mark.parametrize(
    ("where", "per_joule"),
    [
        ("farthing-gpus/Energy, in range/A", 1.0),
        ("farthing-gpus/Energy cost, in range/A", 1.25 * 0.15 / 3.6e6),
        ("farthing-gpus/Carbon dioxide, in range/A", 1.25 * 380 / 3.6e6),
    ],
)
def test_energy_is_the_drivers_counter(shown, where, per_joule):
    """139,680 J a lap; with the building's share at the tariff and the grid's intensity."""
    found = shown.value(where, {"instance": LLAMA}, LLAMA_LAPS * llama().lap_seconds)
    assert found == pytest.approx(LLAMA_LAPS * llama().joules() * per_joule, rel=1e-3)


def test_joules_per_output_token(shown):
    """Of the vision engines: all their energy by all the tokens that they generated."""
    seconds = VISION_LAPS * vision().lap_seconds
    energy = shown.value("farthing-gpus/Energy, in range/A", {"model": VISION}, seconds)
    tokens = sum(value for _, value in shown.query("farthing-fleet/Cost by tenant/D", {"model": VISION}, seconds))
    told = sum(row["usage"]["completion_tokens"] if row["usage"] else row["chunks"] - 1 for row in vision().requests)
    assert energy / tokens == pytest.approx(vision().joules() / told, rel=0.002)


def test_budgets_are_those_of_the_settings(shown):
    """And what is spent of one is its ratio."""
    for board in ("farthing-economics/Budgets of this month",):
        amounts = {tuple(sorted(labels.items())): value for labels, value in shown.query(f"{board}/C")}
        assert amounts[("model", VISION),] == 20_000
        assert amounts[("tenant", "acme"),] == 6_000
        spent = {tuple(sorted(labels.items())): value for labels, value in shown.query(f"{board}/B")}
        for labels, ratio in shown.query(f"{board}/A"):
            key = tuple(sorted(labels.items()))
            assert math.isclose(ratio, spent[key] / amounts[key], rel_tol=EXACT)
