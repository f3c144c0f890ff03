"""Every kind of exporter gives the same reading of the same device, and no reading of what it does not know."""

import gzip
import json
import re
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from farthing.collectors.gpu.exporters import ExporterSource, HttpFetch
from farthing.domain.conventions import FAULT_SENTINEL
from farthing.domain.devices import DevicesView, DeviceView
from farthing.domain.errors import ConfigError, GpuError
from farthing.domain.gpu import MIG, THROTTLE_REASONS, GpuReading
from farthing.exporters.prometheus_gpu import DeviceCollector
from farthing.vocabulary.gpus import QUANTITIES, THROTTLE
from farthing.vocabulary.loading import load_exporter

FIXTURES = Path(__file__).parents[2] / "fixtures" / "gpu"
RECORDED = Path(__file__).parents[3] / "app/farthing/replay/recordings/h100-llama8b-devices-vllm0.26"
URL = "http://gpu-host-1:9400/metrics"
KINDS = ("dcgm", "amd", "nvidia_smi", "xpum")
NOW = 1_795_445_251_000_000_000
UUID = "1f2e3d4c-5b6a-7988-a7b6-c5d4e3f20100"

TRUE = GpuReading(
    uuid=f"GPU-{UUID}",
    at_ns=NOW,
    source="",
    host="gpu-host-1",
    index=0,
    name="NVIDIA H100 80GB HBM3",
    pod="serving/llama-0",
    utilization=0.87,
    memory_utilization=0.41,
    sm_active=0.75,
    tensor_active=0.3125,
    dram_active=0.625,
    memory_used_bytes=76_800 * 2**20,
    memory_total_bytes=81_559 * 2**20,
    power_watts=612.5,
    power_limit_watts=700.0,
    energy_mj=139_680_123,
    temperature_celsius=66.0,
    memory_temperature_celsius=71.0,
    sm_clock_hz=1_755_000_000,
    memory_clock_hz=2_619_000_000,
    max_sm_clock_hz=1_980_000_000,
    throttle=frozenset({"power"}),
    ecc_corrected=2,
    ecc_uncorrected=1,
    remapped_rows_pending=False,
    xid=31,
    xid_count=2,
    pcie_tx_bytes_per_second=1.5e9,
    pcie_rx_bytes_per_second=2.5e8,
    nvlink_tx_bytes=4_000 * 1024,
    nvlink_rx_bytes=2_000 * 1024,
)
"""What every fixture's first device does."""
IDENTITY: dict[str, dict[str, Any]] = {
    "dcgm": {},
    "amd": {"uuid": UUID, "name": "AMD Instinct MI300X OAM"},
    # no label of it names a pod
    "nvidia_smi": {"pod": ""},
    # devices have no number
    "xpum": {"uuid": UUID, "name": "Intel(R) Data Center GPU Max 1550", "index": None},
}
OF_A_RATE = {"dcgm": {"nvlink_tx", "nvlink_rx"}, "xpum": {"pcie_tx", "pcie_rx"}}
"""What a catalogue tells as another dimension: a throughput where the reading has bytes, or the other way round."""
FIELD = MappingProxyType(
    {
        "memory_used": "memory_used_bytes",
        "memory_total": "memory_total_bytes",
        "power": "power_watts",
        "power_limit": "power_limit_watts",
        "energy": "energy_mj",
        "temperature": "temperature_celsius",
        "memory_temperature": "memory_temperature_celsius",
        "sm_clock": "sm_clock_hz",
        "memory_clock": "memory_clock_hz",
        "max_sm_clock": "max_sm_clock_hz",
        "pcie_tx": "pcie_tx_bytes_per_second",
        "pcie_rx": "pcie_rx_bytes_per_second",
        "nvlink_tx": "nvlink_tx_bytes",
        "nvlink_rx": "nvlink_rx_bytes",
    }
)
"""Quantity -> field of the reading, where they are not called the same."""


def text(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text()


def read(body: str, kind: str = "") -> list[GpuReading]:
    """The devices that an exporter with this exposition has."""
    return ExporterSource(URL, kind, lambda _: (body.encode(), "text/plain"), lambda: NOW).read()


def expected(kind: str) -> GpuReading:
    """The true reading, as far as the kind's catalogue says that the exporter tells it."""
    lacking = set(load_exporter(kind).lacking) | OF_A_RATE.get(kind, set())
    unknown: dict[str, Any] = {FIELD.get(name, name): None for name in lacking if not name.startswith(THROTTLE)}
    if all(THROTTLE + reason in lacking for reason in ("power", "thermal", "hardware")):
        unknown["throttle"] = None
    told = frozenset(reason for reason in THROTTLE_REASONS if THROTTLE + reason not in lacking)
    return replace(TRUE, source=kind, throttle_told=told, **unknown, **IDENTITY[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_reading_in_base_units(kind):
    """Percent, MiB, MHz, mJ and uJ become ratios, bytes, hertz and millijoules; what a kind lacks is None, never 0."""
    first, *_ = read(text(kind), kind)
    assert first == expected(kind)


def test_the_kinds_together_know_every_quantity():
    """A field that no fixture has would be compared with nothing."""
    told = {name for kind in KINDS for name in load_exporter(kind).quantities}
    assert told == set(QUANTITIES)
    named = {field.name for field in fields(GpuReading)}
    assert {FIELD.get(name, name) for name in QUANTITIES if not name.startswith(THROTTLE)} <= named


@pytest.mark.parametrize("kind", KINDS)
def test_why_clocks_are_held_down_is_passed_on_as_far_as_the_kind_tells_it(kind):
    """Each reason of its catalogue is a series of Farthing's, of every device; one that it lacks is none, never 0."""
    lines = shown(read(text(kind), kind)[0]).splitlines()
    reasons = {reason for reason in THROTTLE_REASONS for line in lines if is_throttled(line, reason)}
    assert reasons == {reason for reason in THROTTLE_REASONS if THROTTLE + reason in load_exporter(kind).quantities}


def test_a_time_of_dcgm_that_clocks_were_held_down_says_nothing_of_now():
    """It rises while they are: that takes two readings, and one says of no reason that it is none."""
    body = text("dcgm").replace("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_THERMAL_VIOLATION")
    first, *_ = read(body, "dcgm")
    assert (first.throttle, first.throttle_told) == (None, frozenset())


def is_throttled(line: str, reason: str) -> bool:
    return line.startswith("farthing_gpu_throttled{") and f'reason="{reason}"' in line


def shown(reading: GpuReading) -> str:
    """What Farthing exports of a device that it reads so."""
    registry = CollectorRegistry()
    registry.register(DeviceCollector(lambda: DevicesView(NOW, devices=(DeviceView(reading),))))
    return generate_latest(registry).decode()


def own_exposition() -> str:
    """What Farthing exports of the true device and of an engine on it."""
    read_by_nvml = replace(TRUE, source="nvml", sm_active=None, tensor_active=None, dram_active=None)
    view = DevicesView(
        NOW,
        devices=(DeviceView(read_by_nvml, method="counter", energy_mj=TRUE.energy_mj),),
        sources={"nvml": True},
        engines={TRUE.uuid: ("chat",)},
    )
    registry = CollectorRegistry()
    registry.register(DeviceCollector(lambda: view))
    return generate_latest(registry).decode()


def test_what_farthing_exports_of_a_device_is_the_same_reading_too():
    """An agent's metrics are read as any exporter's; every name of its catalogue is in a real exposition."""
    (reading,) = read(own_exposition())
    unknown: dict[str, Any] = dict.fromkeys(load_exporter("farthing").lacking)
    assert reading == replace(TRUE, source="farthing", **unknown)
    names = {line.partition("{")[0] for line in own_exposition().splitlines()}
    assert set(load_exporter("farthing").metric_names()) <= names


def test_a_recorded_h100_is_read_from_farthings_own_exposition():
    """While it served: the same device, idle, at its limit, and the joules that the driver was seen to count."""
    with gzip.open(RECORDED / "gpu_metrics.jsonl.gz", "rt") as lines:
        bodies = [json.loads(line) for line in lines]
    with gzip.open(RECORDED / "nvml.jsonl.gz", "rt") as lines:
        _, *looks = [json.loads(line) for line in lines]
    inside = [body for body in bodies if looks[0]["t"] <= body["t"] <= looks[-1]["t"]]
    told = [reading for body in inside for reading in read(body["body"])]
    assert len(told) == len(inside) > 40
    assert {(one.source, one.index, one.name) for one in told} == {("farthing", 0, "NVIDIA H100 80GB HBM3")}
    energies = [one.energy_mj or 0 for one in told]
    assert energies == sorted(energies)
    first, last = (min(looks, key=lambda look: abs(look["t"] - body["t"])) for body in (inside[0], inside[-1]))
    assert energies[-1] - energies[0] == pytest.approx(last["e_mj"] - first["e_mj"], rel=0.01)
    assert {frozenset({"idle"}), frozenset({"power"})} <= {one.throttle for one in told}
    assert {one.memory_total_bytes for one in told} == {81_559 * 2**20}
    assert max(one.memory_used_bytes or 0 for one in told) == pytest.approx(
        max(look["mem"] for look in looks), rel=0.01
    )
    assert max(one.utilization or 0 for one in told) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_found_out_by_its_names(kind):
    """So that a wrong setting is noticed, and none is needed."""
    assert read(text(kind)) == read(text(kind), kind)
    (wrong, *_) = [other for other in KINDS if other != kind]
    with pytest.raises(GpuError, match="is a Prometheus exposition but not of"):
        read(text(kind), wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentinel_is_unknown_and_a_fault(kind):
    """A blank, all bits set, a negative or no number: never a value, and said to be a fault."""
    first, second = read(text(kind), kind)
    assert first.faults == frozenset()
    assert second.faults == {FAULT_SENTINEL}
    assert second.power_watts is None
    assert second.memory_used_bytes is None
    assert second.energy_mj is None


@pytest.mark.parametrize(
    "blank",
    [
        *("2147483632", "2147483633", "2147483634", "2147483635", "2147483647"),
        *("9223372036854775792", "9223372036854775794", "9223372036854775807"),
        *("140737488355328.000000", "140737488355331.000000"),
        *("-1", "-9223372036854775808", "NaN", "+Inf"),
    ],
)
def test_every_blank_of_dcgm_is_left_out_of_every_quantity(blank):
    """As far as a field may have it: fields of 64 bits hold a blank of 32 as a value, 2.1 kJ or 2.1 GB/s."""
    wide = {"energy_mj", "throttle", "throttle_told", "pcie_tx_bytes_per_second", "pcie_rx_bytes_per_second"}
    may_hold = wide if blank.startswith(("2147483", "140737")) else set()
    body = re.sub(r"^(DCGM_\w+\{.*\}) .+$", rf"\1 {blank}", text("dcgm"), flags=re.MULTILINE)
    for reading in read(body, "dcgm"):
        assert reading.faults == {FAULT_SENTINEL}
        kept = {"uuid", "at_ns", "source", "host", "index", "name", "kind", "pod", "faults"} | may_hold
        said = {field.name: getattr(reading, field.name) for field in fields(reading) if field.name not in kept}
        assert {name for name, value in said.items() if value not in (None, "", (), frozenset())} == set()


@pytest.mark.parametrize("unknown", ["65535", "4294967295", "18446744073709551615"])
def test_a_share_of_time_that_amd_does_not_know_holds_no_clock_down(unknown):
    """All bits of a residency are more than 100 % of it: nobody says that heat takes the clock."""
    body = re.sub(r"^(gpu_violation_\w+\{.*\}) \S+$", rf"\1 {unknown}", text("amd"), flags=re.MULTILINE)
    assert body != text("amd")
    first, *_ = read(body, "amd")
    assert first.throttle is None
    assert FAULT_SENTINEL in first.faults


def test_a_counter_without_total_in_its_name_is_read():
    """DCGM's energy is a counter whose name has no suffix, which parsers add."""
    assert "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter" in text("dcgm")
    assert read(text("dcgm"))[0].energy_mj == 139_680_123


def test_energy_beyond_32_bits_is_energy():
    """Two hours at 600 W are more millijoules than a blank of 32 bits."""
    (first, _) = read(text("dcgm").replace(" 139680123", " 4320000000"))
    assert first.energy_mj == 4_320_000_000


def test_a_utilization_of_0_at_612_watts_is_passed_on_as_it_is():
    """That it is stuck is found out over time, by whoever watches it: one reading does not tell."""
    (first, _) = read(text("dcgm").replace("} 87\n", "} 0\n"))
    assert (first.utilization, first.power_watts, first.faults) == (0.0, 612.5, frozenset())


def test_a_sentinel_of_the_first_source_leaves_the_word_to_the_next():
    """A utilisation that is not supported, as on MIG, is told by the profiling counter."""
    (first, _) = read(text("dcgm").replace("} 87\n", "} 9223372036854775794\n"))
    assert first.utilization == 0.861205
    assert first.faults == {FAULT_SENTINEL}


def test_mig_slices_have_what_is_theirs_and_the_gpu_what_they_share():
    """DCGM repeats the GPU's power and energy for each slice: adding them up would charge it twice."""
    gpu, first, second = read(text("dcgm-mig"))
    assert (gpu.kind, gpu.power_watts, gpu.energy_mj, gpu.pod) == ("gpu", 412.5, 139_680_123, "")
    assert gpu.throttle == frozenset({"thermal", "hardware"})
    assert (gpu.utilization, gpu.memory_used_bytes) == (None, None)
    assert [one.uuid for one in (first, second)] == [f"{gpu.uuid}/1", f"{gpu.uuid}/2"]
    for one, used, busy in ((first, 36_000, 0.5), (second, 1_200, 0.0)):
        assert (one.kind, one.parent, one.profile) == (MIG, gpu.uuid, "3g.40gb")
        assert (one.power_watts, one.energy_mj, one.temperature_celsius, one.xid) == (None, None, None, None)
        assert (one.memory_used_bytes, one.utilization) == (used * 2**20, busy)
    assert (first.pod, second.pod) == ("serving/small-1", "serving/small-2")


def test_a_pod_is_the_workloads_and_not_the_exporters():
    """A ServiceMonitor that does not honour labels calls the workload's pod exported_pod."""
    gpu, first, _ = read(text("dcgm-mig"))
    assert gpu.host == "gpu-host-1"
    assert "dcgm-exporter" not in first.pod


def test_a_device_that_several_pods_share_is_of_none_and_counted_once():
    """With time slicing the exporter repeats each series for each pod."""
    body = text("dcgm")
    doubled = body + "".join(
        line.replace('pod="llama-0"', 'pod="llama-1"') + "\n" for line in body.splitlines() if 'pod="llama-0"' in line
    )
    (first, _) = read(doubled)
    assert replace(first, pod=TRUE.pod) == expected("dcgm")
    assert first.pod == ""


def test_a_device_without_a_series_of_it_is_not_there():
    """One that is gone is not in the readings."""
    body = "".join(line + "\n" for line in text("dcgm").splitlines() if f"{UUID[:-1]}1" not in line)
    assert [one.index for one in read(body)] == [0]


def test_amds_names_may_have_a_prefix():
    """MetricsFieldPrefix of its configuration."""
    body = re.sub(r"^(gpu_)", r"amd_\1", text("amd"), flags=re.MULTILINE)
    body = re.sub(r"^# (HELP|TYPE) ", r"# \1 amd_", body, flags=re.MULTILINE)
    assert read(body)[0] == expected("amd")


def test_the_power_of_other_partitions_than_the_first_is_unknown():
    """They have no sensor, and say 0."""
    body = text("amd").replace('gpu_partition_id="0"', 'gpu_partition_id="3"').replace("} 612.5\n", "} 0\n")
    (first, _) = read(body)
    assert (first.power_watts, first.energy_mj) == (None, None)
    assert first.utilization == 0.87


def test_a_serial_number_stands_for_a_uuid_that_is_not_exported():
    """Whatever is unique and lasts."""
    body = re.sub(r'gpu_uuid="[^"]*",', "", text("amd"))
    assert [one.uuid for one in read(body)] == ["692324000120", "692324000121"]


def test_xids_are_counted_as_none_only_where_they_are_listened_for():
    """Without the NVML backend an exporter without XIDs knows of none; with it there were none."""
    quiet = "".join(line + "\n" for line in text("nvidia_smi").splitlines() if "_xid_" not in line)
    assert [(one.xid, one.xid_count) for one in read(quiet)] == [(None, 0), (None, 0)]
    deaf = quiet.replace("nvidia_smi_nvml_return_code", "nvidia_smi_command_exit_code")
    assert [(one.xid, one.xid_count) for one in read(deaf)] == [(None, None), (None, None)]


def test_no_xid_yet_is_told_so_that_the_first_is_a_change():
    """DCGM's last code is 0 before the first: a series that is there, and changes with it."""
    labels = '{gpu="0",UUID="GPU-1",modelName="X",Hostname="h"}'
    for code in (0, 48):
        (device,) = read(f"DCGM_FI_DEV_XID_ERRORS{labels} {code}\nDCGM_FI_DEV_GPU_TEMP{labels} 40\n")
        registry = CollectorRegistry()
        view = DevicesView(NOW, devices=(DeviceView(device, method="none"),))
        registry.register(DeviceCollector(partial(replace, view)))
        named = {"uuid": "GPU-1", "hostname": "h", "device": "0", "gpu_model": "X"}
        assert registry.get_sample_value("farthing_gpu_last_xid", named) == code


@pytest.mark.parametrize("digits", ["9" * 5_000, "9" * 20, "²", "٣", "-1"])
def test_a_label_that_is_no_number_of_a_device_or_an_error_is_unknown(digits):
    """Python refuses a number of 5,000 digits; whoever sends one hides no other device and no value."""
    for kind, label in (("dcgm", "gpu"), ("amd", "gpu_id"), ("nvidia_smi", "index")):
        (first, second) = sorted(
            read(text(kind).replace(f'{label}="0"', f'{label}="{digits}"')), key=lambda one: one.uuid
        )
        assert (first.index, first.energy_mj) == (None, expected(kind).energy_mj)
        assert second.index == 1
    body = text("nvidia_smi").replace('xid="31"', f'xid="{digits}"')
    assert read(body)[0] == replace(expected("nvidia_smi"), xid=13)


def test_a_host_is_named_by_the_exporter_else_by_its_address():
    """nvidia_gpu_exporter has no label for it."""
    assert {one.host for one in read(text("nvidia_smi"))} == {"gpu-host-1"}
    source = ExporterSource("http://10.0.0.7:9835/metrics", "", lambda _: (text("nvidia_smi").encode(), ""))
    assert {one.host for one in source.read()} == {"10.0.0.7"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<html>sign in</html>\n", "answered an HTML or XML page"),
        ("up 1\n", "is a Prometheus exposition but not of NVIDIA DCGM exporter; check gpus.exporters"),
        ("", "answered an empty body"),
    ],
)
def test_what_is_no_exporter_is_refused_in_one_line(body, message):
    """With the URL, what came, and what to look at."""
    with pytest.raises(GpuError, match=message) as caught:
        read(body, "dcgm")
    assert URL in str(caught.value)
    assert "gpus.exporters[].url" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kind_without_a_catalogue_is_refused():
    """With the known ones."""
    with pytest.raises(ConfigError, match="exporter 'dgcm' has no catalogue; known exporters: farthing, dcgm, amd"):
        ExporterSource(URL, "dgcm")


def answering(handler):
    return HttpFetch(transport=httpx.MockTransport(handler), max_body=1000)


def test_an_exporter_is_fetched_over_http():
    """Text, without redirects."""
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, text="up 1\n", headers={"content-type": "text/plain"})

    fetch = answering(handler)
    assert fetch(URL) == (b"up 1\n", "text/plain")
    assert asked[0].headers["accept"].startswith("text/plain")
    fetch.close()
    fetch.close()


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(500), "answered HTTP 500"),
        (httpx.Response(302, headers={"location": "http://elsewhere"}), "answered HTTP 302"),
        (httpx.Response(200, text="x" * 2000), "answered more than 1000 bytes"),
        (httpx.ConnectError("connection refused"), r"did not answer \(connection refused\)"),
    ],
)
def test_what_an_exporter_may_not_do_is_an_error(response, message):
    """In one line."""

    def handler(_):
        if isinstance(response, Exception):
            raise response
        return response

    with pytest.raises(GpuError, match=message):
        answering(handler)(URL)


def test_an_exporter_that_drips_is_not_waited_for():
    """The time-out is of the whole answer, not of each of its bytes."""
    ticks = iter(range(0, 100, 3))
    fetch = HttpFetch(
        timeout_seconds=5,
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=iter([b"up ", b"1", b"\n"]))),
        clock=lambda: float(next(ticks)),
    )
    with pytest.raises(GpuError, match="was not read within 5 s"):
        fetch(URL)


def test_a_source_is_named_by_its_url_and_may_be_closed_twice():
    """Messages say which exporter it is."""
    source = ExporterSource(URL, "dcgm")
    assert source.name == URL
    source.close()
    source.close()
    with pytest.raises(GpuError, match="is closed"):
        source.read()
