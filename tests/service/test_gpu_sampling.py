"""GPUs in the running service and in the agent: what is read is shown, kept, and sent to another host."""

import asyncio
import subprocess
import sys
import threading
import time

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.alerts.real_parts import free_port
from tests.collectors.gpu.fake_nvml import FakeNvml
from tests.collectors.gpu.nvml_host import gpu
from tests.exporters.snapshots import snapshot
from tests.service.running import FARTHING, served, wait_until

from farthing.collectors.gpu import nvml as nvml_source
from farthing.collectors.gpu.delivery import Delivery
from farthing.collectors.wire import decode_device
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.devices import DevicesView, DeviceView
from farthing.domain.errors import GpuError, LedgerError
from farthing.domain.gpu import COUNTER, DeviceSamples, GpuReading
from farthing.domain.records import RecordKey
from farthing.exporters.web.gpus import gpus_payload
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.service import gpu_sampling
from farthing.service.gpu_agent import Agent, run_agent
from farthing.service.gpu_sampling import GpuSampling, engines_on, open_sources
from farthing.service.pricing import price_book
from farthing.service.server import Service
from farthing.settings import EngineSettings, GpuSettings, Settings
from farthing_probe import wire

UUID = "GPU-6f0c8f7e-0000-4000-8000-000000000001"
H100 = "NVIDIA H100 80GB HBM3"
QUICK = GpuSettings(nvml="off", sample_seconds=0.1, batch_seconds=1.0)
ENGINE = EngineSettings(name="llama-8b", url="http://127.0.0.1:9", gpu="H100-SXM", gpu_uuids=(UUID,))


def reading(uuid=UUID, **fields):
    return GpuReading(**{"uuid": uuid, "at_ns": time.time_ns(), "source": "nvml", "name": H100, **fields})


class Turning:
    """A source of one H100 at 500 W whose counter goes with the clock."""

    name = "nvml"

    def __init__(self):
        self.began_ns = time.time_ns()
        self.closed = threading.Event()
        self.gone = False

    def read(self):
        if self.gone:
            return []
        one = reading(index=0, power_watts=500.0, power_limit_watts=700.0, utilization=0.97)
        used = (one.at_ns - self.began_ns) * 500_000 // SECOND
        return [reading(index=0, power_watts=500.0, power_limit_watts=700.0, utilization=0.97, energy_mj=10**9 + used)]

    def close(self):
        self.closed.set()


class Absent:
    """A driver that is not there."""

    name = "nvml"

    def __init__(self):
        self.closed = 0

    def read(self):
        raise GpuError("no NVIDIA driver on this host; install it")

    def close(self):
        self.closed += 1


@pytest.fixture
def ledger(tmp_path):
    """An empty ledger of its own."""
    opened = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.close()


def devices_in(ledger):
    """Records of devices in the inbox."""
    rows = ledger.select(sa.select(t.records).where(t.records.c.kind == "device").order_by(t.records.c.id))
    return [decode_device(bytes(row.line)) for row in rows]


def get(url, path):
    return httpx.get(f"{url}{path}", timeout=10, trust_env=False)


def samples(url):
    """Sample name -> its labels and values."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parse_text(get(url, "/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


# ---- which engine is where ---------------------------------------------------------------------------


def test_an_engine_is_where_its_probe_says_else_its_settings_else_its_pod():
    """Who is nearest to the engine is believed."""
    probed = EngineSettings(name="probed", url="http://x", gpu_uuids=("GPU-9",), pod="llm/probed")
    listed = EngineSettings(name="listed", url="http://x", gpu_uuids=("GPU-2",), pod="llm/listed-*")
    podded = EngineSettings(name="podded", url="http://x", pod="llm/podded-*")
    readings = [
        reading("GPU-1", pod="llm/podded-7d9f-abcde"),
        reading("GPU-2"),
        reading("GPU-3", pod="llm/listed-0"),
        reading("GPU-4", pod="other/podded-1"),
        reading("GPU-9"),
    ]
    assert engines_on(readings, (probed, listed, podded), {"probed": ["GPU-3"], "unknown": ["GPU-4"]}) == {
        "GPU-1": ("podded",),
        "GPU-2": ("listed",),
        "GPU-3": ("probed",),
        "GPU-4": ("unknown",),
    }


def test_two_engines_of_one_device_are_both_named():
    """Each has a fraction of it."""
    both = tuple(EngineSettings(name=name, url="http://x", gpu_uuids=(UUID,)) for name in "ba")
    assert engines_on([reading()], both, {}) == {UUID: ("a", "b")}


# ---- which sources there are -------------------------------------------------------------------------


def test_without_a_driver_auto_says_so_once_and_goes_on(monkeypatch):
    """Whoever has no GPU needs no setting."""
    absent = Absent()
    said: list[str] = []
    monkeypatch.setattr(gpu_sampling, "_nvml", lambda _: absent)
    assert open_sources(GpuSettings(), said.append) == []
    (text,) = said
    assert "no NVIDIA driver" in text
    assert absent.closed == 1


def test_without_a_driver_on_keeps_trying(monkeypatch):
    """Whoever asks for it wants to see that it is missing."""
    absent = Absent()
    monkeypatch.setattr(gpu_sampling, "_nvml", lambda _: absent)
    assert open_sources(GpuSettings(nvml="on")) == [absent]


def test_off_loads_nothing(monkeypatch):
    """Not even the bindings."""
    monkeypatch.setattr(gpu_sampling, "_nvml", lambda _: pytest.fail("loaded"))
    assert open_sources(GpuSettings(nvml="off")) == []


def test_exporters_come_after_the_driver(monkeypatch):
    """A device that both have is read from the driver."""
    driver = Turning()
    monkeypatch.setattr(gpu_sampling, "_nvml", lambda _: driver)
    exporters = [{"url": "http://node-2:9400/metrics", "kind": "dcgm"}, {"url": "http://node-3:9835/metrics"}]
    opened = open_sources(GpuSettings.model_validate({"exporters": exporters}))
    # looked at, and given back: the sampler's first reading is its first
    assert driver.closed.is_set()
    assert [source.name for source in opened] == ["nvml", "http://node-2:9400/metrics", "http://node-3:9835/metrics"]
    for source in opened:
        source.close()


@pytest.mark.parametrize("asked", [False, True])
def test_pcie_is_measured_only_where_it_is_asked_for(monkeypatch, asked):
    """The driver lets its caller wait for it."""
    monkeypatch.setattr(nvml_source, "_bindings", lambda: FakeNvml(gpu()))
    (source,) = open_sources(GpuSettings(nvml="on", pcie=asked))
    (found,) = source.read()
    source.close()
    assert (found.pcie_tx_bytes_per_second is not None) == asked


# ---- farthing serve ----------------------------------------------------------------------------------


def idle_nano(url):
    """What the only device costs that no engine of the books has, in nano-dollars an hour; None without it."""
    (device,) = get(url, "/api/v1/gpus").json()["devices"]
    return device["unallocated_per_hour_nano"]


def test_the_service_shows_its_devices_and_keeps_their_energy(ledger, monkeypatch):
    """One reading is on /metrics, in the API and, as samples, in the inbox; at the end the rest is kept too."""
    source = Turning()
    monkeypatch.setattr(gpu_sampling, "open_sources", lambda _: [source])
    service = Service(Settings(engines=(ENGINE,), gpus=QUICK), ledger)
    with served(service.app) as url:
        wait_until(lambda: devices_in(ledger), 30, "a record of a device")
        wait_until(lambda: idle_nano(url) is not None, 30, "what it costs while its engine has never answered")
        shown = samples(url)
        payload = get(url, "/api/v1/gpus").json()
    ((labels, watts),) = shown[c.METRIC_GPU_POWER]
    assert (labels[c.LABEL_UUID], labels[c.LABEL_GPU_MODEL], watts) == (UUID, H100, 500)
    ((labels, _),) = shown[c.METRIC_GPU_ENGINE]
    assert labels[c.LABEL_ENGINE] == "llama-8b"
    assert shown[c.METRIC_GPU_SOURCE_UP] == [({c.LABEL_SOURCE: "nvml"}, 1)]
    (device,) = payload["devices"]
    assert (device["engines"], device["power_watts"], device["utilization"]) == (["llama-8b"], 500, 0.97)
    assert device["unallocated_per_hour_nano"] == price_book(Settings()).tariff(H100, 1).nano_per_hour(time.time_ns())
    assert source.closed.wait(30)
    records = devices_in(ledger)
    assert {(record.uuid, record.method) for record in records} == {(UUID, COUNTER)}
    assert [record.key.sequence for record in records] == list(range(len(records)))
    at, energy = [at for one in records for at in one.at_ns], [mj for one in records for mj in one.energy_mj]
    assert (energy[-1] - energy[0]) / ((at[-1] - at[0]) / SECOND) == pytest.approx(500_000, rel=0.02)


def test_a_gpu_that_serves_nothing_is_shown_with_what_it_costs(ledger, monkeypatch):
    """Dollars an hour, by the default price of its kind."""
    monkeypatch.setattr(gpu_sampling, "open_sources", lambda _: [Turning()])
    with served(Service(Settings(gpus=QUICK), ledger).app) as url:
        wait_until(lambda: c.METRIC_GPU_UNALLOCATED in samples(url), 30, "what it costs")
        ((labels, dollars),) = samples(url)[c.METRIC_GPU_UNALLOCATED]
    assert labels[c.LABEL_UUID] == UUID
    assert dollars == pytest.approx(price_book(Settings()).tariff(H100, 1).nano_per_hour(time.time_ns()) / 1e9)


def test_an_engine_is_on_the_device_that_its_probe_tells(ledger, monkeypatch):
    """Without a word in the settings."""
    monkeypatch.setattr(gpu_sampling, "open_sources", lambda _: [Turning()])
    now = time.time_ns()
    started = wire.started(
        "boot-1", 0, 0, at_ns=1, wall_ns=now, engine="probed", engine_kind="vllm", version="0.26", model="m",
        gpu=H100, gpu_count=1, gpu_uuids=[UUID],
    )  # fmt: skip
    with served(Service(Settings(gpus=QUICK), ledger).app) as url:
        headers = {"Content-Encoding": "gzip"}
        posted = httpx.post(f"{url}{wire.WINDOWS_PATH}", content=wire.encode([started]), headers=headers, timeout=10)
        assert posted.json()["accepted"] == 1
        wait_until(lambda: c.METRIC_GPU_ENGINE in samples(url), 30, "an engine on the device")
        ((labels, _),) = samples(url)[c.METRIC_GPU_ENGINE]
        wait_until(lambda: c.METRIC_GPU_UNALLOCATED not in samples(url), 30, "that somebody has it")
    assert (labels[c.LABEL_UUID], labels[c.LABEL_ENGINE]) == (UUID, "probed")


def test_a_gpu_that_goes_away_ends_its_series_keeps_its_energy_and_may_come_back(ledger, monkeypatch):
    """Off its bus in the middle of a record, and there again: two boots of one device, none of it lost."""
    source = Turning()
    monkeypatch.setattr(gpu_sampling, "open_sources", lambda _: [source])
    gpus = QUICK.model_copy(update={"batch_seconds": 600.0})
    with served(Service(Settings(gpus=gpus), ledger).app) as url:
        wait_until(lambda: c.METRIC_GPU_POWER in samples(url), 30, "a device's series")
        source.gone = True
        wait_until(lambda: c.METRIC_GPU_POWER not in samples(url), 30, "their end")
        assert samples(url)[c.METRIC_GPU_SOURCE_UP] == [({c.LABEL_SOURCE: "nvml"}, 1)]
        wait_until(lambda: devices_in(ledger), 30, "the record of what it used")
        source.gone = False
        wait_until(lambda: c.METRIC_GPU_POWER in samples(url), 30, "its series again")
    assert source.closed.wait(30)
    before, after = devices_in(ledger)
    assert before.uuid == after.uuid == UUID
    assert before.key.boot != after.key.boot
    assert before.energy_mj[-1] <= after.energy_mj[0]


def test_without_a_device_the_service_says_nothing_of_devices(ledger):
    """No series, an empty list, and no thread."""
    service = Service(Settings(gpus=GpuSettings(nvml="off")), ledger)
    with served(service.app) as url:
        wait_until(lambda: get(url, "/readyz").status_code == 200, 30, "readiness")
        assert [name for name in samples(url) if name.startswith("farthing_gpu_")] == []
        assert get(url, "/api/v1/gpus").json()["devices"] == []


def record(sequence):
    return DeviceSamples(
        RecordKey(f"device:{UUID}/1", 0, sequence), UUID, H100, "node-1", 0, "nvml", COUNTER, (sequence + 1,), (1,)
    )


def test_records_wait_for_a_ledger_that_cannot_be_written(caplog):
    """In memory, and said once."""

    class Full:
        def __init__(self):
            self.kept = []
            self.full = True

        def add(self, records):
            if self.full:
                raise LedgerError("the disk is full")
            self.kept += records
            return len(records)

    async def story():
        full = Full()
        sampling = GpuSampling(Settings(gpus=QUICK), full, lambda: None)
        sampling._queue.put([record(0), record(1)])
        await sampling._store()
        await sampling._store()
        assert len(sampling._queue) == 2
        full.full = False
        await sampling._store()
        assert [raw.key.sequence for raw in full.kept] == [0, 1]
        assert len(sampling._queue) == 0

    asyncio.run(story())
    assert caplog.text.count("the disk is full") == 1


def test_a_queue_that_is_full_lets_the_oldest_go_also_while_they_are_stored():
    """Those that were stored meanwhile are not taken away twice."""
    queue = gpu_sampling._Queue(length=3)
    queue.put([record(0), record(1), record(2)])
    assert [raw.key.sequence for raw in queue.first(2)] == [0, 1]
    queue.put([record(3)])
    queue.done(2)
    assert [raw.key.sequence for raw in queue.first(9)] == [2, 3]
    assert queue.dropped == 1


# ---- the agent ---------------------------------------------------------------------------------------


def test_the_agent_sends_what_it_reads_to_the_service_and_shows_it(ledger):
    """From a GPU host into the inbox of another, with the token, and on metrics of its own."""
    service = Service(Settings(gpus=GpuSettings(nvml="off")), ledger)
    source = Turning()
    settings = Settings(engines=(ENGINE,), gpus=QUICK)
    with served(service.app) as url, httpx.Client(trust_env=False) as client:
        agent = Agent(settings, [source], Delivery(url, None, client))
        with served(agent.app) as own:
            wait_until(lambda: devices_in(ledger), 30, "a record of a device")
            shown = samples(own)
            assert get(own, "/healthz").text == "ok\n"
            (device,) = get(own, "/api/v1/gpus").json()["devices"]
        sent = len(devices_in(ledger))
    assert sent == len({one.key for one in devices_in(ledger)}) > 0
    assert source.closed.is_set()
    assert device["uuid"] == UUID
    assert shown[c.METRIC_GPU_DROPPED] == [({}, 0)]
    assert [labels[c.LABEL_ENGINE] for labels, _ in shown[c.METRIC_GPU_ENGINE]] == ["llama-8b"]


def test_a_record_that_is_refused_is_among_the_dropped_of_an_agents_metrics():
    """Whoever watches them sees every loss."""
    with httpx.Client(trust_env=False) as client:
        delivery = Delivery("http://farthing:9464", None, client)
        delivery.refused, delivery.dropped = 3, 4
        assert Agent(Settings(gpus=QUICK), [Turning()], delivery).view().dropped == 7


def test_an_agent_that_is_ended_sends_what_it_read_last(ledger, tmp_path):
    """As a process, reading another agent's metrics as an exporter's, ended by SIGTERM in the middle of a record."""
    shown = Agent(Settings(gpus=QUICK), [Turning()], None)
    with served(Service(Settings(gpus=GpuSettings(nvml="off")), ledger).app) as url, served(shown.app) as exporter:
        config = tmp_path / "farthing.yaml"
        config.write_text(
            "gpus: {nvml: off, sample_seconds: 0.1, batch_seconds: 600, "
            f'exporters: [{{url: "{exporter}/metrics"}}]}}\nserve: {{token_file: null}}\n'
        )
        own = free_port()
        words = ["gpus", "--agent", "--url", url, "--config", str(config), "--port", str(own)]
        agent = subprocess.Popen([FARTHING, *words], stderr=subprocess.PIPE, text=True)
        wait_until(lambda: energy_shown(own) > 0, 60, "energy on the agent's metrics")
        assert devices_in(ledger) == []
        agent.terminate()
        _, said = agent.communicate(timeout=30)
        assert agent.returncode == 0, said
    (last,) = devices_in(ledger)
    assert (last.uuid, last.source, last.method) == (UUID, "farthing", COUNTER)
    assert len(last.at_ns) > 1


def energy_shown(port):
    """Joules on an agent's metrics; 0 before it serves any."""
    try:
        return sum(value for _, value in samples(f"http://127.0.0.1:{port}").get(c.METRIC_GPU_ENERGY, ()))
    except httpx.HTTPError:
        return 0


def test_an_agent_without_anything_to_read_ends_with_one_line():
    """Whoever started it there made a mistake."""
    with pytest.raises(GpuError, match="no GPU of this host"):
        run_agent(Settings(), None, "127.0.0.1", 0, opened=lambda _: [])


def test_what_an_engine_draws_per_token_is_known_only_when_all_its_devices_are(ledger):
    """Half of the power of two GPUs would be half a truth."""
    (engine, *_) = snapshot().engines
    name, count = engine.engine.name, engine.engine.gpu_count
    assert engine.gauges.generation_tokens_per_second
    known = tuple(DeviceView(reading(f"GPU-{number}", power_watts=400.0)) for number in range(count))
    everywhere = {view.reading.uuid: (name,) for view in known}
    payload = gpus_payload(DevicesView(1, known, {}, everywhere), snapshot())
    (shown,) = (one for one in payload["engines"] if one["name"] == name)
    assert shown["watts"] == 400 * count
    assert shown["joules_per_token"] == 400 * count / engine.gauges.generation_tokens_per_second
    for view in (
        DevicesView(1, known[1:], {}, everywhere),
        DevicesView(1, (DeviceView(reading("GPU-0")), *known[1:]), {}, everywhere),
        DevicesView(1, known, {}, {**everywhere, "GPU-0": (name, "another")}),
    ):
        (shown,) = (one for one in gpus_payload(view, snapshot())["engines"] if one["name"] == name)
        assert (shown["watts"], shown["joules_per_token"]) == (None, None)


def test_an_agent_loads_neither_the_books_nor_what_they_compute_with():
    """It runs beside engines, on every GPU host: 50 MB instead of 130."""
    program = "import sys, farthing.service.gpu_agent; print({'numpy', 'scipy', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"
