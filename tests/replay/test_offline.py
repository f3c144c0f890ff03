"""A whole recording through costing: it adds up, equals the known truths, and comes out the same every time."""

import json
import os
import subprocess
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from tests.replay.conftest import TEXT, VISION, cost
from tests.service.books import content, journal_sums, total
from tests.service.running import FARTHING

from farthing.domain import conventions as c
from farthing.domain.errors import PriceError
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.offline import to_json

SCHEMA = {
    # the schema: key -> keys of what it holds; None where it holds a value
    "schema_version": None,
    "policy_version": None,
    "engine": None,
    "window": None,
    "bill_nano_usd": None,
    "charged_nano_usd": {"prefill", "decode", "vision"},
    "aborted_nano_usd": {"prefill", "decode", "vision"},
    "starting_nano_usd": None,
    "idle_nano_usd": None,
    "asleep_nano_usd": None,
    "down_nano_usd": None,
    "unattributed_nano_usd": None,
    "wip_nano_usd": {"prefill", "decode", "vision"},
    "residual_nano_usd": None,
    "busy_seconds": None,
    "phase_seconds": {"prefill", "decode", "vision"},
    "fit": {"method", "walk_forward_wape", "coefficients", "intervals"},
    "tokens": {"prompt_computed", "prompt_cached", "output", "image", "engine_output"},
    "requests": {"finished", "aborted", "failed"},
    "tenants": None,
    "usd_per_million": {"prefill", "decode", "vision"},
    "energy_joules": None,
}
TRUTHS: dict[str, dict[str, Any]] = {
    # recordings/README.md
    TEXT: {
        "requests": {"finished": 2_407, "aborted": 55, "failed": 2},
        "prompt": 5_490_029,
        "cached": 2_010_144,
        "generated": 432_109,
        "joules": 139_680,
    },
    VISION: {
        "requests": {"finished": 3_344 - 61, "aborted": 61, "failed": 0},
        "prompt": None,
        "cached": None,
        "generated": 223_073,
        "joules": 93_673,
    },
}


def lines_of(result):
    """Every line of the identity's right side."""
    yield from result["charged_nano_usd"].values()
    yield from result["aborted_nano_usd"].values()
    yield from (result[f"{account}_nano_usd"] for account in ("starting", "idle", "asleep", "down"))
    yield from result["unattributed_nano_usd"].values()
    yield from result["wip_nano_usd"].values()


@pytest.fixture
def result(run):
    """The JSON of a replay, read back."""
    return json.loads(json.dumps(to_json(run)))


def test_the_lines_add_up_to_the_bill_and_none_is_negative(result, run):
    """The bill is the recording's span times the price, computed without the lines."""
    span_ns = run.recording.end_ns - run.recording.start_ns
    assert abs(result["bill_nano_usd"] - span_ns * 3_348_000_000 // (3_600 * 10**9)) <= 1
    assert result["residual_nano_usd"] == 0
    assert sum(lines_of(result)) == result["bill_nano_usd"]
    assert all(nano >= 0 for nano in lines_of(result))
    assert all(isinstance(nano, int) for nano in lines_of(result))


def test_nothing_is_left_in_progress_and_little_is_unattributed(result):
    """At most 2 % of busy cost has no owner, and each nano-dollar of it has a reason."""
    assert sum(result["wip_nano_usd"].values()) == 0
    unattributed = sum(result["unattributed_nano_usd"].values())
    busy = unattributed + sum(result["charged_nano_usd"].values()) + sum(result["aborted_nano_usd"].values())
    assert unattributed <= 0.02 * busy
    assert set(result["unattributed_nano_usd"]) <= set(c.REASONS)
    assert busy == pytest.approx(result["bill_nano_usd"] * result["busy_seconds"] / _span_seconds(result), rel=1e-6)


def _span_seconds(result):
    begin, end = (moment.removesuffix("Z") for moment in result["window"])
    day = begin[:10]
    assert end.startswith(day)
    return _seconds(end) - _seconds(begin)


def _seconds(moment):
    hours, minutes, seconds = moment[11:].split(":")
    return int(hours) * 3_600 + int(minutes) * 60 + float(seconds)


def test_tokens_requests_and_energy_equal_the_known_truths(result, run):
    """What the engine and the clients counted for themselves."""
    truth = TRUTHS[run.recording.name]
    tokens = result["tokens"]
    assert result["requests"] == truth["requests"]
    assert tokens["engine_output"] == truth["generated"]
    if truth["prompt"] is not None:
        assert tokens["prompt_computed"] + tokens["prompt_cached"] == truth["prompt"]
        assert tokens["prompt_cached"] == truth["cached"]
    assert result["energy_joules"] == pytest.approx(truth["joules"], rel=1e-3)
    # output of aborted requests is counted in chunks that reached the client
    assert tokens["output"] == pytest.approx(tokens["engine_output"], rel=5e-4)


def test_tenants_add_up_to_what_is_charged_and_aborted(result, run):
    """Nobody pays twice, and no tenant is missing."""
    tenants = result["tenants"]
    for phase in c.PHASES:
        assert sum(tenant["by_phase"][phase] for tenant in tenants.values()) == result["charged_nano_usd"][phase]
    charged = sum(tenant["cost_nano_usd"] for tenant in tenants.values())
    aborted = sum(tenant["aborted_nano_usd"] for tenant in tenants.values())
    rest = sum(result[f"{account}_nano_usd"] for account in ("starting", "idle", "asleep", "down"))
    rest += sum(result["unattributed_nano_usd"].values()) + sum(result["wip_nano_usd"].values())
    assert aborted == sum(result["aborted_nano_usd"].values())
    assert charged + aborted + rest == result["bill_nano_usd"]
    assert sum(tenant["requests"] for tenant in tenants.values()) == len(run.recording.requests)
    assert set(tenants) == {row["tenant"] for row in run.recording.requests}
    output = sum(tenant["tokens"]["output"] for tenant in tenants.values())
    assert output == result["tokens"]["output"]


def test_the_phases_add_up_to_the_busy_time(result):
    """Every busy nanosecond is of one phase, and only an engine that sees images has vision."""
    assert sum(result["phase_seconds"].values()) == pytest.approx(result["busy_seconds"], abs=1e-6)
    assert (result["phase_seconds"]["vision"] > 0) == (result["engine"] == VISION)


def test_the_keys_are_those_of_the_schema_and_the_checks(result):
    """Other tools read it: no key is missing and none is extra."""
    assert set(result) == {*SCHEMA, "checks"}
    for key, inner in SCHEMA.items():
        if inner is not None:
            assert set(result[key]) == inner, key
    for tenant in result["tenants"].values():
        assert {"cost_nano_usd", "by_phase", "requests", "tokens"} <= set(tenant)
    assert {check["name"] for check in result["checks"]} == set(c.CHECKS) - {c.CHECK_PRICED}
    assert all(check["ok"] for check in result["checks"])


def test_two_runs_give_the_same_bytes(recording, run):
    """Nothing depends on the clock, on memory addresses or on what was costed before."""
    assert json.dumps(to_json(cost(recording))) == json.dumps(to_json(run))


def test_another_process_with_another_hash_seed_gives_the_same_bytes(recording, run, tmp_path):
    """No order of a set or a dictionary of strings reaches the books."""
    for seed in ("1", "4242"):
        printed = subprocess.run(
            [FARTHING, "replay", recording.name, "--offline", "--output", "json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        assert printed == (json.dumps(to_json(run), indent=2) + "\n").encode()


def test_the_ledger_holds_what_the_json_says_and_takes_it_only_once(run, result, tmp_path):
    """SQL sums equal the JSON line by line, and a second run into the same ledger changes nothing."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    run.write(ledger)
    lines = journal_sums(ledger, "debit", "phase")
    for account in (c.CHARGED, c.ABORTED):
        for phase in c.PHASES:
            assert lines[account, phase] == result[f"{account}_nano_usd"][phase]
    by_account = journal_sums(ledger, "debit")
    for account in (c.STARTING, c.IDLE, c.ASLEEP, c.DOWN):
        assert by_account[account,] == result[f"{account}_nano_usd"]
    reasons = {reason: nano for (reason,), nano in journal_sums(ledger, "reason").items() if reason}
    assert reasons == result["unattributed_nano_usd"]
    assert sum(by_account.values()) == total(ledger, t.boots.c.bill_nano) == result["bill_nano_usd"]
    assert total(ledger, t.windows.c.bill_nano) == result["bill_nano_usd"]
    assert total(ledger, t.windows.c.busy_ns) / 1e9 == pytest.approx(result["busy_seconds"])
    assert total(ledger, t.windows.c.engine_output) == result["tokens"]["engine_output"]
    q = t.requests.c
    outcomes = dict(tuple(row) for row in ledger.select(sa.select(q.outcome, sa.func.count()).group_by(q.outcome)))
    assert outcomes == {outcome: count for outcome, count in result["requests"].items() if count}
    before = content(ledger), total(ledger, t.records.c.id)
    run.write(ledger)
    cost(run.recording).write(ledger)
    assert (content(ledger), total(ledger, t.records.c.id)) == before
    ledger.close()


def test_a_gpu_without_a_price_is_an_error_and_not_free(recording):
    """What it would have to be told is in the message."""
    unpriced = replace(recording, gpu={**recording.gpu, "name": "NVIDIA GeForce RTX 4090"})
    with pytest.raises(PriceError, match="no price for GPU 'NVIDIA GeForce RTX 4090'; add it under prices:"):
        cost(unpriced)
