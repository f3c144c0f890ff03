"""The recording with our own readings of its device: they agree with what was sampled beside them, and make a page."""

import re
from bisect import bisect_left
from pathlib import Path

import pytest
from benchmarks.gpu.h100_figures import load_run
from benchmarks.gpu.h100_report import made_of
from tests.replay.conftest import DEVICES

from farthing.collectors.engines.exposition import parse_exposition
from farthing.domain import conventions as names
from farthing.domain.clock import SECOND, nanoseconds
from farthing.domain.gpu import COUNTER
from farthing.replay.recording import PACKAGED, load_recording

PAGE = Path(__file__).parents[2] / "docs" / "h100.md"
FOLDER = PACKAGED / DEVICES
NUMBER = re.compile(r"(?<![\w.-])[+-]?\d[\d,]*(?:\.\d+)?")


@pytest.fixture(scope="module")
def recording():
    """The packaged one."""
    return load_recording(DEVICES)


@pytest.fixture(scope="module")
def run():
    """The same, costed."""
    return load_run(FOLDER)


def test_the_device_that_was_read_is_the_one_that_the_probe_runs_on(recording):
    """By its UUID alone: a probe in a container and a reader on its host share nothing else."""
    assert {samples.uuid for samples in recording.devices} == set(recording.boots[0][0]["gpu_uuids"])
    assert {(samples.source, samples.method, samples.name) for samples in recording.devices} == {
        ("nvml", COUNTER, recording.gpu["name"])
    }


def test_the_records_of_the_device_tell_the_energy_that_was_sampled_beside_them(recording):
    """Between the same moments, within 0.1 %: two processes asked one counter."""
    sampled = [(nanoseconds(row["t"]), int(row["e_mj"])) for row in recording.gpu_samples]
    times = [at for at, _ in sampled]
    read = [pair for samples in recording.devices for pair in zip(samples.at_ns, samples.energy_mj, strict=True)]
    read = [(at, energy) for at, energy in read if times[0] <= at <= times[-1]]
    (begin, first), (end, last) = read[0], read[-1]
    beside = sampled[bisect_left(times, end)][1] - sampled[bisect_left(times, begin)][1]
    assert end - begin > 210 * SECOND
    assert last - first == pytest.approx(beside, rel=0.001)
    assert beside > 99_000_000


def test_our_own_series_end_at_the_energy_of_the_records(recording):
    """What a Prometheus would have scraped, and what an inbox got, are of one meter."""
    last = recording.gpu_scrapes[-1]
    (energy,) = parse_exposition(last.body.encode(), "text/plain; version=0.0.4", DEVICES).find(names.METRIC_GPU_ENERGY)
    read = [pair for samples in recording.devices for pair in zip(samples.at_ns, samples.energy_mj, strict=True)]
    known = [mj for at, mj in read if at <= last.wall_ns][-1] - read[0][1]
    assert energy.value * 1_000 == pytest.approx(known, abs=1)
    assert energy.labels[names.LABEL_UUID] == recording.devices[0].uuid


def test_every_check_of_its_replay_is_green(run):
    """1,137 requests, all finished, none lost, and the bill is its lines."""
    assert [check.name for check in run.costed.checks if not check.ok] == []
    assert len(run.costed.entry.requests) == 1_137


def test_reading_once_a_second_took_less_than_half_a_percent_of_a_core():
    """As the process told of itself, beside the engine under load."""
    page = made_of(FOLDER)
    assert re.search(r"takes 0\.[0-4]\d% of a core: below the 0\.5%", page)
    assert "**not the same**" not in page
    assert "**outside of**" not in page


def test_the_page_is_made_of_the_recording():
    """Word for word; figures within 1 % and a unit of their last place, since another machine's last digits differ."""
    written = PAGE.read_text()
    made = made_of(FOLDER, FOLDER.relative_to(PAGE.parents[1]).as_posix())
    assert NUMBER.sub("#", written) == NUMBER.sub("#", made)
    for old, new in zip(NUMBER.findall(written), NUMBER.findall(made), strict=True):
        last_place = 10.0 ** -len(old.partition(".")[2])
        assert float(old.replace(",", "")) == pytest.approx(float(new.replace(",", "")), rel=0.01, abs=1.5 * last_place)
