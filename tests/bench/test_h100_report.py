"""The report of the run on one H100, over a recording that a probe made on one."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu.h100_figures import Run, agreement, load_run, raw_samples, recorded_joules
from benchmarks.gpu.h100_report import READINGS, main, recording_of, report
from benchmarks.gpu.report_data import Sampled, sampled

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.errors import RecordingError
from farthing.domain.gpu import COUNTER
from farthing.replay.recording import load_recording

RECORDED = Path(__file__).parents[1] / "fixtures/recordings/h100-llama8b-probe"
PRESSED = Path(__file__).parents[1] / "fixtures/recordings/h100-llama8b-pressure"
UUID = "GPU-ebaec9bf-ac86-baae-84f8-2985b50798e5"
BOOT = f"{c.DEVICE_BOOT}{UUID}/1"
COST: dict[str, Any] = {
    "period": 1.0,
    "wall": 230.0,
    "process_cpu": 0.69,
    "startup_cpu": 0.2,
    "read_cpu": 0.5,
    "rounds": 230,
    "share_of_a_core": 0.003,
    "longest_read": 0.004,
    "expositions": 46,
    "expose_cpu": 0.05,
    "errors": [],
}


@pytest.fixture(scope="module")
def run() -> Run:
    """The recording, costed."""
    return load_run(RECORDED)


@pytest.fixture(scope="module")
def reading() -> Sampled:
    """What our own source would have read once a second, from the recorded samples; the counter every other time."""
    rows = raw_samples(load_recording(RECORDED))[::10]
    for number, row in enumerate(rows):
        row |= {"uuid": UUID, "kind": "gpu", "processes": [[4711, 1]]}
        if number % 2:
            del row["energy_mj"]
    counted = [row for row in rows if "energy_mj" in row]
    record = {
        "v": 1,
        "kind": "device",
        "boot": BOOT,
        "proc": 0,
        "seq": 0,
        "uuid": UUID,
        "method": COUNTER,
        "name": "NVIDIA H100 80GB HBM3",
        "host": "h",
        "index": 0,
        "source": "nvml",
        "at_ns": [row["at_ns"] for row in counted],
        "energy_mj": [row["energy_mj"] for row in counted],
    }
    return Sampled(tuple(rows), (record,), ({"t": 1.0, "body": "x 1\n"},), COST)


def written(folder: Path, reading: Sampled) -> Path:
    """A run's folder."""
    shutil.copytree(RECORDED, folder, dirs_exist_ok=True)
    lines = [{"reading": row} for row in reading.readings] + [{"device": row} for row in reading.records]
    lines += [{"scrape": row} for row in reading.scrapes] + [{"cost": reading.cost}]
    for name in READINGS:
        with gzip.open(folder / name, "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    (folder / "run.json").write_text("{}")
    return folder


def test_the_counter_and_the_power_of_the_recording_agree(run):
    """134,902 J by the counter over 230 s, and 0.03 % more by power times time: the raw samples, ten a second."""
    agreed = agreement(raw_samples(run.recording))
    assert agreed is not None
    assert agreed.counter == pytest.approx(134_902, abs=1)
    assert abs(agreed.difference) < 0.001


def test_readings_once_a_second_agree_with_the_counter_within_two_percent(reading):
    """Though power changes within a second, and the counter is asked every other one."""
    agreed = agreement(reading.readings)
    assert agreed is not None
    assert abs(agreed.difference) < 0.02
    assert recorded_joules(reading) == pytest.approx(agreed.counter)


def test_a_stretch_with_one_value_of_the_counter_says_nothing():
    """A difference needs two."""
    rows = [{"at_ns": 0, "power_watts": 1.0, "energy_mj": 1}, {"at_ns": SECOND, "power_watts": 1.0}]
    assert agreement(rows) is None


def test_company_makes_tokens_cheap_in_dollars_and_joules(run):
    """From one client to 128 on the recorded H100: at least 40 times less a token, and 25 times less energy."""
    alone, full = run.phase("c1"), run.phase("c128")
    assert alone.usd_per_million(c.DECODE, alone.output) > 40 * full.usd_per_million(c.DECODE, full.output)
    assert alone.joules_per_token(c.DECODE, alone.output) > 25 * full.joules_per_token(c.DECODE, full.output)
    assert 0.95 < alone.sequences <= 1
    assert 110 < full.sequences <= 128


def test_a_phases_parts_add_up_to_its_bill_and_its_energy(run):
    """All of it, to the nano-dollar and the millijoule."""
    for phase in run.phases:
        assert sum(phase.nano.values()) == phase.bill_nano, phase.name
        if phase.energy_mj is not None:
            assert sum(phase.millijoules.values()) == phase.energy_mj, phase.name


def test_the_report_says_what_was_measured(run, reading, tmp_path):
    """Mapping, agreement, figures by concurrency beside the public ones, utilisation, cost of reading."""
    page = report(run, reading, None, {"phases": "c1:25", "flags": ["--x", "1"]}, "the command")
    assert "Made by `the command`" in page
    assert "--phases c1:25 -- --x 1" in page
    assert f"told `{UUID}`; the NVML source, outside of it, read `{UUID}`: the same." in page
    assert "within the 2% that are asked" in page
    assert "| c128 (128) | 8 |" in page
    assert "| 0.21 to 15.25 | arXiv 2606.11690" in page
    assert "0.12 at a batch of 64" in page
    assert "| prefill | 669 | 67.6% |" in page
    assert "takes 0.30% of a core: below the 0.5% that are allowed" in page


def test_the_report_hides_no_failure(run, reading):
    """Another device, a cost above the limit, energies that differ: in bold."""
    off = [{**row, "uuid": "GPU-other", "power_watts": row["power_watts"] * 1.1} for row in reading.readings]
    dear = {**COST, "share_of_a_core": 0.02}
    page = report(run, Sampled(tuple(off), reading.records, reading.scrapes, dear), None, {}, "x")
    assert "read `GPU-other`: **not the same**" in page
    assert "**outside of** the 2% that are asked" in page
    assert "takes 2.00% of a core: **not below** the 0.5%" in page


def test_the_command_writes_report_and_recording(tmp_path, reading):
    """And the recording plays, with the device's records and our own series beside it."""
    folder, page, target = written(tmp_path / "run", reading), tmp_path / "h100.md", tmp_path / "recording"
    main([str(folder), "--out", str(page), "--recording", str(target)])
    assert page.read_text().startswith("# One H100, measured\n")
    assert page.read_text().endswith("driver.\n")
    assert load_recording(target).boots == load_recording(RECORDED).boots
    (device,) = load_recording(target).devices
    assert (device.uuid, device.method) == (UUID, COUNTER)
    assert device.energy_mj[-1] - device.energy_mj[0] == pytest.approx(134_902_000, rel=0.01)
    assert [scrape.body for scrape in load_recording(target).gpu_scrapes] == ["x 1\n"]


def test_a_device_record_that_is_none_is_refused_with_its_line(tmp_path, reading):
    """As every other line of a recording."""
    target = tmp_path / "recording"
    recording_of(written(tmp_path / "run", reading), reading, target)
    with gzip.open(target / "devices.jsonl.gz", "at") as file:
        file.write(json.dumps({**reading.records[0], "seq": 1, "method": "guess"}) + "\n")
    with pytest.raises(RecordingError, match=r"devices.jsonl.gz:2: method: must be one of"):
        load_recording(target)


def test_equal_runs_make_equal_recordings(tmp_path, reading):
    """No time of day in the files."""
    folder = written(tmp_path / "run", reading)
    for name in ("a", "b"):
        recording_of(folder, sampled(folder / "readings-1s.jsonl.gz"), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_recording_of_two_boots_is_refused():
    """Its phases would be of two engines."""
    with pytest.raises(ValueError, match="has 2 boots"):
        load_run(PRESSED)


def test_without_readings_of_ours_there_is_no_recording_of_them(tmp_path, capsys):
    """The command says so, and writes nothing."""
    with pytest.raises(SystemExit):
        main([str(RECORDED), "--recording", str(tmp_path / "x")])
    assert "there is no device to record" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
