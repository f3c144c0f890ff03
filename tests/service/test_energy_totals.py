"""Energy of the books by engine, tenant and token, after any restart, and what it costs and emits."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from tests.service.books import accountant, raw_records
from tests.service.devices import as_devices, without_samples

from farthing.exporters.report import render
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.reports import report
from farthing.settings import CapacitySettings, EngineSettings, GpuSettings, Settings

TEXT = "h100-llama8b-vllm0.26"
MILLIJOULES = 139_680_093
EARLY = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def booked():
    """The books of a recorded engine with its device beside it."""
    raw = raw_records(load_recording(TEXT))
    ledger = Ledger.open("sqlite://")
    ledger.add([*without_samples(raw), *as_devices(raw)])
    books = accountant(ledger)
    books.advance()
    yield ledger, books
    ledger.close()


def _energy(ledger, settings=None):
    return accountant(ledger, settings).snapshot().energy


def test_every_line_of_an_engine_adds_up_to_its_devices_joules_now_and_after_a_restart(booked):
    """In integer millijoules, as do its tenants with what they own."""
    ledger, books = booked
    view = books.snapshot().energy
    (engine,) = view.engines.values()
    assert sum(engine.lines_mj.values()) == MILLIJOULES
    owned = sum(mj for (account, _, _), mj in engine.lines_mj.items() if account in {"charged", "aborted"})
    assert sum(view.tenants_mj.values()) == owned
    again = _energy(ledger)
    assert again.engines["h100"].lines_mj == engine.lines_mj
    assert again.tenants_mj == view.tenants_mj


def test_joules_per_token_are_those_of_the_last_minutes_and_of_their_phase(booked):
    """A prompt token takes less than an output token, and both are within what an H100 can draw for one."""
    (engine,) = booked[1].snapshot().energy.engines.values()
    assert set(engine.joules_per_token) == {"prefill", "decode"}
    assert 0.005 < engine.joules_per_token["prefill"] < 0.2
    assert engine.joules_per_token["prefill"] < engine.joules_per_token["decode"] < 5


def test_money_and_carbon_of_energy_go_by_tariff_grid_and_building(booked):
    """139,680.093 J are 0.0388 kWh; a capacity that is owned has a PUE and a tariff of its own."""
    ledger, _ = booked
    kwh = MILLIJOULES / 3.6e9
    assert _energy(ledger).engines["h100"].carbon_grams is None
    assert _energy(ledger).engines["h100"].cost_nano is None
    gpus = GpuSettings.model_validate({"carbon_g_per_kwh": 400, "pue": "1.25", "energy_usd_per_kwh": "0.10"})
    engine = _energy(ledger, Settings(gpus=gpus)).engines["h100"]
    assert engine.carbon_grams == pytest.approx(kwh * 1.25 * 400)
    assert engine.cost_nano == int(MILLIJOULES * 125 * 10**8 // 100 // 3_600_000_000)
    owned = {"capex_usd": 30_000, "lifetime_months": 48, "power_watts": 700, "pue": "1.5", "usd_per_kwh": "0.20"}
    capacity = CapacitySettings.model_validate(
        {"name": "own", "gpu": "H100-SXM", "gpus": 1, "kind": "owned", "owned": owned, "from": "2026-01-01"}
    )
    settings = Settings(
        gpus=gpus,
        capacity=(capacity,),
        engines=(EngineSettings(name="h100", url="http://127.0.0.1:8000", probe=True, capacity="own"),),
    )
    engine = _energy(ledger, settings).engines["h100"]
    assert engine.carbon_grams == pytest.approx(kwh * 1.5 * 400)
    assert engine.cost_nano == pytest.approx(kwh * 1.5 * 0.2 * 1e9, abs=1)


@pytest.mark.parametrize("by", ["tenant", "account", "phase"])
def test_reports_tell_programs_the_energy_of_everybody_and_everything(booked, by):
    """In integers that add up; the table for people has no room for it, and what is unknown is not 0."""
    ledger, _ = booked
    table = report(ledger, datetime(2026, 1, 1, tzinfo=UTC), by, "USD")
    rows = json.loads(render(table, "json"))
    assert rows["total"]["energy_mj"] == MILLIJOULES
    assert sum(row["energy_mj"] or 0 for row in rows["rows"]) == MILLIJOULES
    assert all(row["energy_mj"] is None or row["energy_mj"] > 0 for row in rows["rows"])
    assert "Energy" not in render(table, "table")
    nothing = json.loads(render(report(ledger, datetime(2026, 1, 1, tzinfo=UTC), by, "USD", until=EARLY), "json"))
    assert nothing["total"]["energy_mj"] is None
