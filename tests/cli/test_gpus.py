"""``farthing gpus``: GPUs beside their engines, from a service, an agent or this host alone."""

import csv
import io
import json
import threading

import httpx
import pytest
from rich.console import Console
from starlette.applications import Starlette
from tests.exporters.snapshots import snapshot
from tests.service.running import served
from typer.testing import CliRunner

from farthing.cli.gpu_table import FAULT_WORDS, gpu_rows, gpu_table
from farthing.cli.gpus import FIRST_READING_SECONDS, GpuWatch, show_gpus
from farthing.cli.main import app
from farthing.collectors.gpu.exporters import TIMEOUT_SECONDS
from farthing.domain.conventions import FAULT_STUCK_UTILIZATION, FAULTS
from farthing.domain.devices import DevicesView, DeviceView, IdleGpu
from farthing.domain.errors import EngineUnreachableError
from farthing.domain.gpu import MIG, THROTTLE_IDLE, THROTTLE_POWER, THROTTLE_THERMAL, GpuReading
from farthing.exporters.web.gpus import gpu_routes, gpus_payload
from farthing.settings import Settings

NOWHERE = Settings.model_validate({"serve": {"port": 1}})
UUID = "GPU-1"


def reading(uuid=UUID, **fields):
    known = {
        "source": "nvml",
        "at_ns": 1,
        "host": "node-1",
        "index": 0,
        "name": "NVIDIA H100 80GB HBM3",
        "utilization": 0.98,
        "memory_used_bytes": 74 * 2**30,
        "memory_total_bytes": 80 * 2**30,
        "power_watts": 478.4,
        "power_limit_watts": 700.0,
        "temperature_celsius": 58.0,
        "throttle": frozenset({THROTTLE_POWER}),
    }
    return GpuReading(uuid=uuid, **{**known, **fields})


def payload_of(*readings, engines=None, **fields):
    """What a service would say of these devices."""
    view = DevicesView(1, tuple(DeviceView(one) for one in readings), {"nvml": True}, engines or {}, **fields)
    return gpus_payload(view, snapshot())


def lines_of(payload, note=""):
    """The table's lines as they stand on a screen."""
    text = io.StringIO()
    Console(file=text, width=160).print(gpu_table(payload, note))
    return [line.strip() for line in text.getvalue().splitlines() if line.strip()]


class Here:
    """A driver of this host."""

    name = "nvml"

    def __init__(self):
        self.closed = False

    def read(self):
        return [reading()]

    def close(self):
        self.closed = True


def nothing(gpus, said):
    """No driver: said once."""
    said("no NVIDIA driver on this host")
    return []


# ---- what is shown -----------------------------------------------------------------------------------


def test_an_engine_stands_beside_its_device_with_what_it_makes_of_it():
    """Tokens a second, dollars an hour, joules a token."""
    engine = snapshot().engines[0]
    payload = payload_of(
        *(reading(f"GPU-{number}", index=number) for number in range(engine.engine.gpu_count)),
        engines={f"GPU-{number}": (engine.engine.name,) for number in range(engine.engine.gpu_count)},
    )
    first, *others = (line for line in lines_of(payload) if "H100" in line)
    tokens, nano = engine.gauges.generation_tokens_per_second, engine.price_nano_per_hour
    assert tokens is not None
    assert nano is not None
    joules = 478.4 * engine.engine.gpu_count / tokens
    for shown in (engine.engine.name, f"{tokens:,.1f}", f"{nano / 1e9:,.2f}", f"{joules:,.3f}"):
        assert shown in first
    for shown in ("0 H100 80GB HBM3", "98%", "74.0/80", "478/700", "58", "power"):
        assert shown in first
    assert all(engine.engine.name not in line for line in others)


def test_a_device_without_an_engine_says_so_with_what_it_costs():
    """Paid for and serving nothing."""
    payload = payload_of(reading(), idle=(IdleGpu(UUID, "node-1", "NVIDIA H100 80GB HBM3", 2_490_000_000),))
    (line,) = (line for line in lines_of(payload) if "H100" in line)
    assert line.startswith("none")
    assert "2.49" in line


def test_an_engine_whose_devices_nobody_knows_is_shown_too():
    """Its devices are a dash."""
    engine = snapshot().engines[0].engine.name
    (line,) = (line for line in lines_of(payload_of()) if line.startswith(engine))
    assert line.count("—") >= 6


def test_what_is_unknown_is_a_dash_and_never_0():
    """A device that tells nothing but its name."""
    bare = GpuReading(uuid="GPU-2", at_ns=1, source="dcgm", name="AMD Instinct MI300X")
    (line,) = (line for line in lines_of(payload_of(bare)) if "MI300X" in line)
    assert "0%" not in line
    assert line.count("—") == 8


def test_serious_reasons_and_faults_are_told_and_idling_is_not():
    """Having nothing to do is nobody's fault."""
    faults = frozenset({FAULT_STUCK_UTILIZATION})
    shown = lines_of(
        payload_of(
            reading(throttle=frozenset({THROTTLE_IDLE})),
            reading("GPU-2", index=1, throttle=frozenset({THROTTLE_THERMAL}), utilization=None, faults=faults, xid=79),
        )
    )
    idle, hot = (line for line in shown if "H100" in line)
    assert "idle" not in idle
    assert "thermal, busy stuck at 0, XID 79" in hot


def test_a_slice_is_named_by_its_profile():
    """Behind its GPU."""
    part = reading("MIG-1", kind=MIG, parent=UUID, profile="3g.40gb", power_watts=None, utilization=None)
    assert any("0 H100 80GB HBM3 3g.40gb" in line for line in lines_of(payload_of(reading(), part)))


def test_hosts_are_named_where_there_are_several():
    """One host needs no name."""
    assert not any("node-1" in line for line in lines_of(payload_of(reading())))
    assert any("node-2 0 H100" in line for line in lines_of(payload_of(reading(), reading("GPU-2", host="node-2"))))


def test_a_name_cannot_move_the_cursor():
    """Names come from other machines."""
    assert not any("\x1b" in line for line in lines_of(payload_of(reading(name="\x1b[2J\x1b[31mH100"))))


def test_eighty_columns_have_room_for_names_and_figures():
    """Memory and temperature stand back; nothing is folded letter by letter."""
    text = io.StringIO()
    payload = payload_of(reading(faults=frozenset({FAULT_STUCK_UTILIZATION})))
    Console(file=text, width=80).print(gpu_table(payload, "", 80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 12
    assert not any("74.0/80" in line for line in lines)
    assert any("478/700" in line and "98%" in line for line in lines)


def test_every_fault_has_words_for_the_table():
    """Short ones."""
    assert set(FAULT_WORDS) == set(FAULTS)


def test_a_source_that_is_down_is_told():
    """Its devices are missing, which nobody would see."""
    payload = gpus_payload(DevicesView(1, (), {"http://node-2:9400/metrics": False}), None)
    assert lines_of(payload, "Live from here")[-3:] == [
        "No device is read.",
        "Live from here",
        "http://node-2:9400/metrics cannot be read.",
    ]


def test_why_a_source_gives_nothing_is_told_in_one_line_below():
    """Whoever asks need not look for it in the log of the service; the source is not named twice."""
    url = "http://node-2:9400/metrics"
    for complaint, told in (
        (f"{url} did not answer (refused)\n; is it running?", "did not answer (refused) ; is it running?"),
        (f"{url}: ZeroDivisionError", "ZeroDivisionError"),
        ("the answer of another is [red]no[/red] exposition", "the answer of another is [red]no[/red] exposition"),
    ):
        payload = gpus_payload(DevicesView(1, (), {url: False}, complaints={url: complaint}), None)
        assert lines_of(payload, "Live from here")[-1] == f"{url} cannot be read: {told}"


def test_a_service_of_an_earlier_version_tells_no_reason():
    """Its answer has no complaint: the source is down all the same."""
    payload = gpus_payload(DevicesView(1, (), {"nvml": False}), None)
    del payload["sources"][0]["complaint"]
    assert lines_of(payload)[-1] == "nvml cannot be read."


def test_rows_for_programs_are_exact_and_have_every_device():
    """Nano-dollars, bytes and watts as they are."""
    engine = snapshot().engines[0]
    table = gpu_rows(payload_of(reading(), engines={UUID: (engine.engine.name,)}))
    row = dict(zip((column.key for column in table.columns), table.rows[0], strict=True))
    assert row["per_hour"] == engine.price_nano_per_hour
    assert (row["memory_used_bytes"], row["power_watts"], row["throttle"]) == (74 * 2**30, 478.4, "power")
    assert len(table.rows) == len(snapshot().engines)


# ---- where it comes from -----------------------------------------------------------------------------


def test_a_service_that_answers_is_asked(capsys):
    """What it says is printed as it is, with where it came from."""
    view = DevicesView(1, (DeviceView(reading()),), {"nvml": True})
    with served(Starlette(routes=gpu_routes(lambda: view, snapshot))) as url:
        show_gpus(NOWHERE, url, "json", interval_seconds=1, once=True, opened=nothing)
        told = json.loads(capsys.readouterr().out)
        assert told.pop("from") == f"{url}/api/v1/gpus"
        assert told == json.loads(json.dumps(gpus_payload(view, snapshot())))
        show_gpus(NOWHERE, url, "csv", interval_seconds=1, once=True, opened=nothing)
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[-1]["uuid"] == UUID


def test_without_a_service_this_host_is_read_and_says_so(capsys):
    """The driver alone: no engine's figures, and the settings' engines by their UUIDs."""
    settings = Settings.model_validate(
        {"serve": {"port": 1}, "engines": [{"name": "llama-8b", "url": "http://x", "gpu_uuids": [UUID]}]}
    )
    here = Here()
    show_gpus(settings, None, "table", interval_seconds=1, once=True, opened=lambda *_: [here])
    out = capsys.readouterr().out
    assert "llama-8b" in out
    assert "478/700" in out
    assert "Of this host alone: no farthing serve answers at http://127.0.0.1:1" in out
    assert here.closed


def test_without_a_driver_either_it_says_so_once_and_goes_on(capsys):
    """However often it looks."""
    said: list[str] = []
    with GpuWatch(NOWHERE, opened=nothing, said=said.append) as watch:
        assert [watch.payload()["devices"] for _ in range(3)] == [[], [], []]
    assert said == ["no NVIDIA driver on this host"]


def test_a_source_that_has_not_answered_yet_is_named(monkeypatch):
    """Its devices are missing, which nobody would see; an exporter is given all the time that it may take."""
    assert FIRST_READING_SECONDS > TIMEOUT_SECONDS
    monkeypatch.setattr("farthing.cli.gpus.FIRST_READING_SECONDS", 0.05)
    answered = threading.Event()

    class Slow(Here):
        name = "http://node-2:9400/metrics"

        def read(self):
            answered.wait(30)
            return []

    said: list[str] = []
    with GpuWatch(NOWHERE, opened=lambda *_: [Slow()], said=said.append) as watch:
        assert watch.payload()["devices"] == []
        answered.set()
    assert said == ["http://node-2:9400/metrics has not answered yet; its devices are not shown"]


def test_a_service_that_comes_up_takes_over():
    """Whoever looks on need not start again."""
    view = DevicesView(1, (DeviceView(reading("GPU-of-the-service")),), {})
    with served(Starlette(routes=gpu_routes(lambda: view, snapshot))) as url:
        port = int(url.rpartition(":")[2])
        settings = Settings.model_validate({"serve": {"port": port}, "gpus": {"nvml": "off"}})
        with GpuWatch(settings, opened=lambda *_: [Here()]) as watch:
            assert [one["uuid"] for one in watch.payload()["devices"]] == ["GPU-of-the-service"]
            assert watch.note == f"Live from {url}/api/v1/gpus"
    with GpuWatch(settings, opened=lambda *_: [Here()]) as watch:
        assert [one["uuid"] for one in watch.payload()["devices"]] == [UUID]


def test_a_service_that_was_named_must_answer():
    """Whoever asks for one host does not mean another."""
    with (
        GpuWatch(NOWHERE, "http://127.0.0.1:1", opened=nothing) as watch,
        pytest.raises(EngineUnreachableError, match="check --url"),
    ):
        watch.payload()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        "text",
        {"devices": []},
        {"sources": [], "engines": [], "devices": [{"uuid": "GPU-1"}]},
        {"sources": [{}], "engines": [], "devices": []},
        {"sources": [], "engines": {"a": 1}, "devices": []},
        {**gpus_payload(DevicesView(1, (DeviceView(reading()),)), None), "engines": [{"name": 1, "devices": None}]},
    ],
)
def test_another_program_at_that_url_is_told_in_one_line(answer):
    """Many programs answer JSON at any path."""

    def other(request):
        return httpx.Response(200, json=answer)

    with (
        GpuWatch(
            NOWHERE, "http://other", opened=nothing, client=httpx.Client(transport=httpx.MockTransport(other))
        ) as watch,
        pytest.raises(EngineUnreachableError, match=r"not Farthing.*check --url"),
    ):
        watch.payload()


def test_live_it_is_drawn_again_until_somebody_ends_it(monkeypatch):
    """On a terminal, without --once."""
    drawn = []

    def sleep(seconds):
        drawn.append(seconds)
        if len(drawn) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("farthing.cli.gpus.time.sleep", sleep)
    text = io.StringIO()
    screen = Console(file=text, force_terminal=True, width=120)
    settings = Settings.model_validate({"serve": {"port": 1}, "gpus": {"nvml": "off"}})
    show_gpus(settings, None, "table", interval_seconds=0.5, once=False, console=screen, opened=lambda *_: [])
    assert drawn == [0.5] * 3
    assert text.getvalue().count("No device is read.") >= 3


def test_an_agent_shows_nothing():
    """What it reads is on its metrics."""
    answer = CliRunner().invoke(app, ["gpus", "--agent", "--once"])
    assert answer.exit_code == 2
    assert "--agent shows nothing" in answer.output
