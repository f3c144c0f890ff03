"""Devices as metrics: every one of the reference, in base units, absent where nobody knows."""

import subprocess
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.alerts.real_parts import program

from farthing.domain import conventions as names
from farthing.domain.devices import DevicesView, DeviceView, IdleGpu
from farthing.domain.gpu import (
    COUNTER,
    ENERGY_SHARE,
    INTEGRATED,
    MIG,
    NO_ENERGY,
    THROTTLE_POWER,
    THROTTLE_REASONS,
    THROTTLE_THERMAL,
    GpuReading,
)
from farthing.domain.metric_reference_gpu import DEVICE, DEVICE_METRICS
from farthing.exporters.prometheus import exposition
from farthing.exporters.prometheus_gpu import DeviceCollector

UUID = "GPU-1"
FULL = GpuReading(
    uuid=UUID,
    at_ns=1,
    source="nvml",
    host="node-1",
    index=0,
    name="NVIDIA H100 80GB HBM3",
    pod="llm/llama-8b-0",
    utilization=0.98,
    memory_utilization=0.89,
    memory_used_bytes=79_617_130_496,
    memory_total_bytes=85_520_809_984,
    power_watts=475.006,
    power_limit_watts=700.0,
    energy_mj=53_051_067,
    temperature_celsius=58.0,
    memory_temperature_celsius=61.0,
    sm_clock_hz=1_980_000_000,
    memory_clock_hz=2_619_000_000,
    max_sm_clock_hz=1_980_000_000,
    throttle=frozenset({THROTTLE_POWER}),
    ecc_corrected=3,
    ecc_uncorrected=0,
    xid=79,
    xid_count=2,
    pcie_tx_bytes_per_second=1e9,
    pcie_rx_bytes_per_second=2e9,
    nvlink_tx_bytes=10,
    nvlink_rx_bytes=20,
    processes=((4711, 78_000_000_000), (4712, None)),
    faults=frozenset({names.FAULT_SENTINEL}),
)
VIEW = DevicesView(
    taken_ns=1,
    devices=(DeviceView(FULL, COUNTER, 25_524_808),),
    sources={"nvml": True, "http://node-2:9400/metrics": False},
    engines={UUID: ("llama-8b",)},
    idle=(IdleGpu(UUID, "node-1", "NVIDIA H100 80GB HBM3", 2_490_000_000),),
    waiting=0,
    dropped=0,
)
BARE = GpuReading(uuid="GPU-2", at_ns=1, source="dcgm")


def families(view):
    """Sample name -> labels -> value, by way of the text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(DeviceCollector(lambda: view))
    body, _ = exposition(registry, "")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parse_text(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def values(view, name, **labels):
    """Of the series that have these labels."""
    return [value for given, value in families(view).get(name, {}).items() if labels.items() <= dict(given).items()]


def test_every_metric_of_the_reference_has_a_series_of_its_labels():
    """No metric is documented without being exported, and none with other labels or another type."""
    exported = {}
    for family in DeviceCollector(lambda: VIEW).collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels}
        exported[family.name + suffix] = (family.type, labels)
    assert exported == {entry.name: (entry.type, set(entry.labels)) for entry in DEVICE_METRICS}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (names.METRIC_GPU_UTILIZATION, 0.98),
        (names.METRIC_GPU_MEMORY_USED, 79_617_130_496),
        (names.METRIC_GPU_POWER, 475.006),
        (names.METRIC_GPU_ENERGY, 25_524.808),
        (names.METRIC_GPU_SM_CLOCK, 1.98e9),
        (names.METRIC_GPU_XID, 2),
        (names.METRIC_GPU_LAST_XID, 79),
        (names.METRIC_GPU_UNALLOCATED, 2.49),
        (names.METRIC_GPU_FAULT, 1),
    ],
)
def test_a_value_is_in_base_units(name, value):
    """As the name says: joules of millijoules, dollars of nano-dollars."""
    whose = dict(zip(DEVICE, (UUID, "node-1", "0", "NVIDIA H100 80GB HBM3"), strict=True))
    assert values(VIEW, name, **whose) == [value]


def test_what_nobody_knows_is_absent():
    """A device of which only its name is known has its name."""
    view = DevicesView(1, (DeviceView(BARE, NO_ENERGY, None),))
    assert set(families(view)) == {names.METRIC_GPU_INFO}


def test_why_clocks_are_held_down_is_a_series_for_each_reason():
    """0 of those that are not: an alert that ends needs to see its end. None at all where it is unknown."""
    assert {
        reason: values(VIEW, names.METRIC_GPU_THROTTLED, reason=reason) for reason in THROTTLE_REASONS
    } == {reason: [float(reason == THROTTLE_POWER)] for reason in THROTTLE_REASONS}  # fmt: skip
    unknown = replace(VIEW, devices=(DeviceView(replace(FULL, throttle=None)),))
    assert values(unknown, names.METRIC_GPU_THROTTLED) == []


def test_a_reason_that_the_source_does_not_tell_has_no_series():
    """AMD's exporter knows nothing of settings: 0 would say that they hold no clock down."""
    told = frozenset({THROTTLE_POWER, THROTTLE_THERMAL})
    view = replace(VIEW, devices=(DeviceView(replace(FULL, throttle_told=told)),))
    found = {reason: values(view, names.METRIC_GPU_THROTTLED, reason=reason) for reason in THROTTLE_REASONS}
    assert {reason: series for reason, series in found.items() if series} == {
        THROTTLE_POWER: [1],
        THROTTLE_THERMAL: [0],
    }


@pytest.mark.parametrize(("xid", "count", "shown"), [(None, 0, [0]), (None, None, []), (13, None, [13]), (79, 1, [79])])
def test_the_last_xid_is_0_only_where_somebody_listens(xid, count, shown):
    """A change from 0 is the first error; where nobody listens there is no series."""
    view = replace(VIEW, devices=(DeviceView(replace(FULL, xid=xid, xid_count=count)),))
    assert values(view, names.METRIC_GPU_LAST_XID) == shown


def test_a_process_whose_memory_is_unknown_has_no_series():
    """Beside one whose memory is known."""
    assert values(VIEW, names.METRIC_GPU_PROCESS_MEMORY, pid="4711") == [78_000_000_000]
    assert values(VIEW, names.METRIC_GPU_PROCESS_MEMORY, pid="4712") == []


def test_a_process_that_is_listed_twice_has_one_series():
    """As with two instances of a GPU; two series of the same labels would end the whole scrape."""
    view = replace(VIEW, devices=(DeviceView(replace(FULL, processes=((1, 5), (1, 7), (2, None), (2, 3)))),))
    assert values(view, names.METRIC_GPU_PROCESS_MEMORY, pid="1") == [12]
    assert values(view, names.METRIC_GPU_PROCESS_MEMORY, pid="2") == [3]


def test_a_slice_says_whose_it_is_and_that_its_energy_is_a_share():
    """Nobody takes it for measured."""
    part = GpuReading("MIG-1", 1, "nvml", kind=MIG, parent=UUID, profile="3g.40gb", index=0)
    view = replace(VIEW, devices=(*VIEW.devices, DeviceView(part, ENERGY_SHARE, 1_000)))
    assert values(view, names.METRIC_GPU_INFO, uuid="MIG-1", kind=MIG, parent=UUID, profile="3g.40gb") == [1]
    assert values(view, names.METRIC_GPU_ENERGY, uuid="MIG-1", method=ENERGY_SHARE) == [1]


def test_energy_has_a_series_for_each_method_with_that_methods_part():
    """They add up to the device's energy, also when its method changes to and fro."""
    both = DeviceView(FULL, COUNTER, 5_000, ((COUNTER, 3_000), (INTEGRATED, 2_000)))
    view = replace(VIEW, devices=(both,))
    assert values(view, names.METRIC_GPU_ENERGY, uuid=UUID, method=COUNTER) == [3]
    assert values(view, names.METRIC_GPU_ENERGY, uuid=UUID, method=INTEGRATED) == [2]


def test_two_engines_of_one_device_have_a_series_each():
    """Halves of one GPU."""
    view = replace(VIEW, engines={UUID: ("a", "b"), "GPU-elsewhere": ("c",)})
    assert values(view, names.METRIC_GPU_ENGINE, uuid=UUID, engine="a") == [1]
    assert len(values(view, names.METRIC_GPU_ENGINE)) == 2


def test_a_source_is_up_or_down():
    """Also where it has no device."""
    assert values(VIEW, names.METRIC_GPU_SOURCE_UP, source="nvml") == [1]
    assert values(VIEW, names.METRIC_GPU_SOURCE_UP, source="http://node-2:9400/metrics") == [0]


def test_openmetrics_takes_every_family():
    """Stricter than the older text: units, suffixes and the end."""
    registry = CollectorRegistry()
    registry.register(DeviceCollector(lambda: VIEW))
    body, content_type = exposition(registry, "application/openmetrics-text;version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert len(list(parse_openmetrics(body.decode()))) == len(DEVICE_METRICS)


@pytest.mark.real
def test_promtool_finds_nothing_to_lint():
    """Prometheus' own linter is clean on the text exposition."""
    registry = CollectorRegistry()
    registry.register(DeviceCollector(lambda: VIEW))
    body, _ = exposition(registry, "")
    done = subprocess.run([program("promtool"), "check", "metrics"], input=body, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_device_that_is_gone_has_no_series():
    """Not one with its last value: the reader has it no more, nor have the books."""
    before, after = families(VIEW), families(replace(VIEW, devices=(), idle=()))
    assert set(before) - set(after) == {entry.name for entry in DEVICE_METRICS if set(DEVICE) <= set(entry.labels)}
