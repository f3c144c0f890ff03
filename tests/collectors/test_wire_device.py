"""A device's samples on the wire: what is taken, what is refused, and what the inbox keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from farthing.collectors.wire import (
    decode_device,
    decode_line,
    decode_raw,
    device_line,
    device_record,
    refusal,
)
from farthing.domain.errors import RecordError
from farthing.domain.gpu import COUNTER, CPU, ENERGY_SHARE, MIG, NO_ENERGY, DeviceSamples
from farthing.domain.records import RecordKey

UUID = "GPU-5c1f0c5e-8d4b-2b7a-91f0-6f3d1c9a7e21"
BEGAN = 1_790_000_000_000_000_000
AT = tuple(BEGAN + second * 1_000_000_000 for second in range(3))
SAMPLES = DeviceSamples(
    key=RecordKey(f"device:{UUID}/{BEGAN}", 0, 4),
    uuid=UUID,
    name="NVIDIA H100 80GB HBM3",
    host="node-7",
    index=3,
    source="nvml",
    method=COUNTER,
    at_ns=AT,
    energy_mj=(10, 350, 700),
)


def changed(**fields: Any) -> bytes:
    """The line of SAMPLES with other fields; None leaves one out."""
    line = json.loads(device_line(SAMPLES)) | fields
    return json.dumps({name: value for name, value in line.items() if value is not None}).encode()


@pytest.mark.parametrize(
    "samples",
    [
        SAMPLES,
        replace(SAMPLES, method=NO_ENERGY, energy_mj=(0, 0, 0), index=-1, host=""),
        replace(SAMPLES, kind=MIG, parent="GPU-1", profile="1g.10gb", method=ENERGY_SHARE, pod="ml/chat-0"),
        replace(SAMPLES, kind=CPU, source="rapl", name="AMD EPYC 9654"),
    ],
)
def test_what_is_encoded_decodes_to_the_same(samples: DeviceSamples) -> None:
    """A reader of GPUs on another host sends what one in the service would have stored."""
    assert decode_device(device_line(samples)) == samples
    assert decode_raw(device_line(samples)) == device_record(samples)


def test_the_inbox_keeps_a_device_by_the_time_of_its_last_sample() -> None:
    """A device has no boot's clock: its time is UTC."""
    raw = device_record(SAMPLES)
    assert (raw.kind, raw.key, raw.event_ns) == ("device", SAMPLES.key, AT[-1])


def test_fields_that_the_schema_does_not_name_are_not_kept() -> None:
    """As of every other kind: a newer sender is understood, and nothing of its own is stored."""
    assert decode_raw(changed(colour="green")).line == device_line(SAMPLES)


@pytest.mark.parametrize(
    ("line", "field", "problem"),
    [
        (changed(uuid=None), "uuid", "is missing"),
        (changed(uuid="x" * 97), "uuid", "expected str of length <= 96"),
        (changed(boot="device:other/1"), "boot", "must be device:, the uuid, /"),
        (changed(boot=f"device:{UUID}/now"), "boot", "must be device:, the uuid, /"),
        (changed(boot="boot-1"), "boot", "must be device:, the uuid, /"),
        (changed(method="guess"), "method", "must be one of counter, integrated, share, none"),
        (changed(device_kind="tpu"), "device_kind", "must be one of gpu, mig, cpu"),
        (changed(at_ns=[]), "at_ns", "expected array of length >= 1"),
        (changed(at_ns=[3, 2, 4]), "at_ns", "time goes backwards (entry 1, counted from 0)"),
        (changed(energy_mj=[1, 2]), "energy_mj", "has 2 entries where at_ns has 3"),
        (changed(energy_mj=[-1, 2, 3]), "energy_mj", "expected int >= 0"),
        (changed(energy_mj=[1, 2, 2**56 + 1]), "energy_mj", "must be at most 72057594037927936 (entry 2"),
        (changed(method=NO_ENERGY), "energy_mj", "must be 0 where method is none"),
        (changed(host="a\x00b"), "host", "holds a control character"),
        (changed(index=-2), "index", "expected int >= -1"),
    ],
)
def test_a_wrong_line_is_refused_by_the_field(line: bytes, field: str, problem: str) -> None:
    """Whoever sends it is told what to mend."""
    with pytest.raises(RecordError) as refused:
        decode_raw(line)
    assert refused.value.field == field
    assert problem in refused.value.problem


def test_samples_that_would_be_refused_are_not_encoded() -> None:
    """A mistake shows where it is made."""
    with pytest.raises(RecordError, match="energy_mj"):
        device_line(replace(SAMPLES, energy_mj=(1, 2)))


def test_no_engine_sends_under_a_devices_name() -> None:
    """Samples are never ordered or billed as a boot, and a boot is never taken for a device."""
    stop = {"v": 1, "kind": "lifecycle", "boot": f"device:{UUID}/1", "proc": 0, "seq": 1, "at_ns": 1, "event": "stop"}
    with pytest.raises(RecordError, match="boot: must not begin with device:"):
        decode_raw(json.dumps(stop).encode())
    with pytest.raises(RecordError, match="which no engine sends"):
        decode_line(device_line(SAMPLES))


def test_nothing_is_kept_of_a_refused_device() -> None:
    """Nobody waits for a sample: there is no sequence to complete."""
    with pytest.raises(RecordError) as refused:
        decode_raw(changed(method="guess"))
    assert refusal(changed(method="guess"), refused.value) is None
