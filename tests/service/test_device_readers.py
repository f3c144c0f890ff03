"""One GPU that several programs tell of, or one whose clock is ahead: its energy is in the books once, and in time."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, content, raw_records
from tests.service.devices import UUID, as_devices, device, without_samples

from farthing.collectors.gpu.tracks import Track
from farthing.collectors.wire import decode_device, decode_line, decode_raw, device_record
from farthing.costing.energy import EnergyTrack, Readings
from farthing.domain.clock import SECOND
from farthing.domain.gpu import INTEGRATED, GpuReading
from farthing.domain.records import RecordKey, Started
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import verify
from farthing.replay.recording import load_recording

JOULES = {"h100-llama8b-vllm0.26": 139_680_093, "h100-qwen2vl7b-vllm0.26": 93_673_425}
"""Millijoules by the device's counter, from the first sample to the last."""


@pytest.fixture(scope="module", params=JOULES)
def recorded(request):
    """A recording's records, the device's samples among them, and what they come to."""
    return raw_records(load_recording(request.param)), JOULES[request.param]


@pytest.fixture(scope="module")
def text():
    """The records of the language model."""
    return raw_records(load_recording("h100-llama8b-vllm0.26"))


def _booked(*parts):
    """A ledger with the books of records that came one part after another."""
    ledger = Ledger.open("sqlite://")
    books = accountant(ledger)
    for part in parts:
        ledger.add(part)
        books.advance()
    return ledger


def _energy(ledger):
    """Millijoules of the windows; every other sum in the books comes to the same."""
    ((windows,),) = ledger.select(sa.select(sa.func.sum(t.windows.c.energy_mj)))
    assert ledger.select(sa.select(sa.func.sum(t.journal.c.millijoules))) == [(windows,)]
    assert [boot.energy_mj for boot in ledger.boots()] == [windows]
    assert [check for check in verify(ledger.engine) if not check.ok] == []
    return windows


def _windows(ledger):
    return ledger.select(sa.select(t.windows.c.start_ns, t.windows.c.energy_mj).order_by(t.windows.c.start_ns))


def _read_by(raw, run, *, later_ns=0, held=1):
    """The samples as another reader told them: by a clock that is later, of a counter that is asked less often."""
    found, kept, number = [], 0, 0
    for sequence, record in enumerate(raw):
        samples = decode_device(record.line)
        energy = []
        for value in samples.energy_mj:
            kept = kept if number % held else value
            number += 1
            energy.append(kept)
        key = RecordKey(f"device:{samples.uuid}/{run}", 0, sequence)
        at = tuple(moment + later_ns for moment in samples.at_ns)
        found.append(device_record(replace(samples, key=key, at_ns=at, energy_mj=tuple(energy))))
    return found


def _in_time(raw, samples, lag_ns=5 * SECOND):
    """A boot's records and devices' in the order in which they come: samples some seconds late."""
    started = next(one for one in map(_decoded, raw) if isinstance(one, Started))
    first = next(one for one in raw if one.kind == "started")
    timed = [(started.anchor.to_wall(one.event_ns), 0, one) for one in raw if one is not first]
    timed += [(one.event_ns + lag_ns, 1, one) for one in samples]
    return [first, *(one for *_, one in sorted(timed, key=lambda item: item[:2]))]


def _decoded(record):
    return decode_line(record.line)


@pytest.mark.parametrize("first", ["driver", "exporter"])
def test_two_readers_of_a_recorded_gpu_come_to_its_counter(recorded, first):
    """An agent, and `serve` that reads an exporter which asks the driver twice a minute, whoever began first."""
    raw, joules = recorded
    plain, samples = without_samples(raw), as_devices(raw)
    runs = ("1", "2") if first == "driver" else ("2", "1")
    both = [*_read_by(samples, runs[0]), *_read_by(samples, runs[1], later_ns=SECOND // 2, held=30)]
    found = _energy(_booked([*both, *plain]))
    # of an exporter the last half a minute is not told yet
    assert found == joules if first == "driver" else joules - 30_000_000 < found <= joules
    assert _windows(_booked([*both[::-1], *plain])) == _windows(_booked(plain[:1], both, plain[1:]))


@pytest.mark.parametrize("method", ["counter", INTEGRATED])
def test_an_agent_restarted_while_the_old_one_runs_counts_once(recorded, method):
    """Both read for a while; the old one's last records come last."""
    raw, _ = recorded
    plain, samples = without_samples(raw), as_devices(raw, method=method)
    half = len(samples) // 2
    old, new = _read_by(samples[: half + 5], "1"), _read_by(samples[half - 5 :], "2", later_ns=SECOND // 3)
    whole = _energy(_booked([*samples, *plain]))
    # a clock that is a third of a second later tells a third of a second more
    assert _energy(_booked([*old, *new, *plain])) == pytest.approx(whole, abs=700_000 / 3)
    assert _windows(_booked([*old, *new, *plain])) == _windows(_booked([*new, *plain[:1]], old, plain[1:]))


def test_a_driver_loaded_anew_while_its_agent_was_away_counts_from_nothing(text):
    """Its new value is what was used since, as the agent says where it is there to see it."""
    plain, samples = without_samples(text), as_devices(text)
    half = len(samples) // 2
    before, after = _read_by(samples[:half], "1"), _read_by(samples[half:], "2")
    gap_ns = decode_device(after[0].line).at_ns[0] - decode_device(before[-1].line).at_ns[-1]
    base = decode_device(after[0].line).energy_mj[0]
    since = 200 * gap_ns // 10**6
    anew = []
    for record in after:
        samples_of = decode_device(record.line)
        energy = tuple(value - base + since for value in samples_of.energy_mj)
        anew.append(device_record(replace(samples_of, energy_mj=energy)))
    lost = base - decode_device(before[-1].line).energy_mj[-1]
    assert _energy(_booked([*before, *anew, *plain])) == 139_680_093 - lost + since


def _agent(begin, end, loaded):
    """What an agent sends of seconds of a device that draws 500 W, whose driver was loaded at some of them."""
    track = Track(300.0)
    for second in range(begin, end):
        counter = (second - max(at for at in loaded if at <= second)) * 500_000
        track.add(
            GpuReading(UUID, second * SECOND, "nvml", energy_mj=counter, power_watts=500.0, power_limit_watts=700.0)
        )
    track.finish()
    return track.pending


LOADED = [(-100,), (-100, 101), (-100, 130), (-100, 101, 130), (-2, 101), (-2, 101, 170)]


@pytest.mark.parametrize("loaded", LOADED)
def test_what_is_used_is_told_whenever_a_driver_is_loaded_and_an_agent_starts_anew(loaded):
    """A driver loaded while nobody reads, or before: from 0 to 200 s are 100 kJ, less what no counter has.

    An agent that starts knows the driver's counter alone, and none of what an earlier one added to that.
    """
    sent = [*_agent(0, 121, loaded), *_agent(131, 201, loaded)]
    found = EnergyTrack()
    for one in random.Random(1).sample(sent, len(sent)):  # noqa: S311 - seeded trials
        found.add_readings(Readings(UUID, one.key.boot, one.method, one.at_ns, one.energy_mj))
    # between the last reading before and the loading nobody counts
    lost = {130: 10, 101: 1, 170: 1}
    least = 100_000_000 - sum(lost.get(at, 0) for at in loaded) * 500_000
    assert least <= found.since_origin(200 * SECOND) <= 100_000_000


def test_a_counter_that_flips_begins_a_series_once_a_minute_at_most():
    """Two hosts behind one exporter, say: records stay as few as they were."""
    track = Track(300.0)
    for second in range(200):
        energy = 10**9 + second * 500_000 + second % 2 * 10**10
        track.add(GpuReading(UUID, second * SECOND, "dcgm", energy_mj=energy, power_watts=500.0))
    track.finish()
    assert len(track.pending) <= 4
    assert {one.key.boot.split("/")[0] for one in track.pending} == {f"device:{UUID}"}


@pytest.mark.parametrize("ahead", [61, 240, 3_600])
@pytest.mark.parametrize("run", ["1", "3"])
def test_one_sample_of_a_clock_that_is_ahead_takes_no_energy_from_the_others(text, ahead, run):
    """Of the run before or of its own: the clock is set back, and the reader begins another run."""
    plain, samples = without_samples(text), as_devices(text)
    rest = [*_read_by(samples[:20], "1"), *_read_by(samples[20:], "2")]
    told = decode_device(samples[20].line)
    at, energy = (told.at_ns[0] + ahead * SECOND,), (told.energy_mj[0] + 1,)
    future = device_record(replace(told, key=RecordKey(f"device:{UUID}/{run}", 0, 999), at_ns=at, energy_mj=energy))
    records = _in_time(plain, rest)
    normal = _booked(*_cut(records))
    assert _energy(normal) == 139_680_093
    records.insert(records.index(rest[20]), future)
    assert _windows(_booked(*_cut(records))) == _windows(normal)


def _cut(records, size=10):
    return [records[start : start + size] for start in range(0, len(records), size)]


def test_a_device_whose_clock_is_ahead_does_not_delay_another(text):
    """Tensor parallel: windows wait for both, and one's lone sample of the future is no news of it."""
    plain = without_samples(text, ("GPU-a", "GPU-b"))
    one, other = as_devices(text, uuid="GPU-a"), as_devices(text, uuid="GPU-b")
    last = decode_device(one[-1].line)
    future = device([last.at_ns[0] + 400 * SECOND], [last.energy_mj[-1] + 1], uuid="GPU-b", sequence=9_999)
    ledger = _booked([future], *_cut(_in_time(plain, [*one, *other])))
    assert _energy(ledger) == 2 * 139_680_093
    assert all(boot.closed_ns for boot in ledger.boots())


def test_a_gpu_that_its_boots_own_records_tell_and_an_agent_too_counts_once(recorded):
    """Whichever of them there is, and with both: they were added up."""
    raw, joules = recorded
    named = []
    for record in raw:
        line = json.loads(record.line)
        if record.kind == "started":
            line["gpu_uuids"] = [UUID]
        named.append(decode_raw(json.dumps(line).encode()))
    samples = as_devices(raw)
    for parts in ([samples, named], [named, samples], [[*samples[::2], *named], samples[1::2]]):
        assert _energy(_booked(*parts)) == joules
    assert content(_booked(samples, named))["windows"] == content(_booked(named, samples))["windows"]


def test_an_agent_tells_what_a_boots_own_records_do_not(text):
    """Those end halfway: the rest is told by whoever reads the device."""
    started = next(record for record in text if record.kind == "started")
    line = json.dumps(json.loads(started.line) | {"gpu_uuids": [UUID]}).encode()
    own = [record for record in text if record.kind == "gpu"]
    kept = [decode_raw(line) if one is started else one for one in text if one not in own[len(own) // 2 :]]
    numbered = [decode_raw(json.dumps(json.loads(one.line) | {"seq": n}).encode()) for n, one in enumerate(kept)]
    assert _energy(_booked(as_devices(text), numbered)) == pytest.approx(139_680_093, rel=1e-3)
