"""The loader of recordings: the packaged ones load, and a broken one is named by file and line."""

import gzip
import json
import shutil

import pytest
from tests.replay.conftest import DEVICES, TEXT, VISION

from farthing.domain.errors import RecordingError
from farthing.replay.recording import PACKAGED, load_recording, packaged_names


@pytest.fixture
def folder(tmp_path):
    """A copy of a packaged recording that may be broken."""
    copy = tmp_path / "recording"
    shutil.copytree(PACKAGED / TEXT, copy)
    for path in copy.iterdir():
        path.chmod(0o644)
    copy.chmod(0o755)
    return copy


def test_the_packaged_recordings_load_by_name():
    """They ship with the program."""
    assert packaged_names() == [DEVICES, TEXT, VISION]
    for name in packaged_names():
        recording = load_recording(name)
        assert recording.name == name
        assert recording.start_ns < recording.end_ns
        assert "H100" in recording.gpu["name"]


def test_a_copy_in_a_folder_is_the_same_recording(folder):
    """A path and a name lead to one loader."""
    copy, packaged = load_recording(folder), load_recording(TEXT)
    assert (copy.steps, copy.requests, copy.scrapes) == (packaged.steps, packaged.requests, packaged.scrapes)


@pytest.mark.parametrize("name", ["no-such-recording", "..", "h100-llama8b-vllm0.26/..", ""])
def test_what_is_no_recording_is_named_with_the_packaged_ones(name, tmp_path, monkeypatch):
    """Whoever mistypes a name sees the right ones."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordingError):
        load_recording(name)


@pytest.mark.parametrize("file", ["steps", "requests", "metrics", "nvml"])
def test_a_missing_file_is_named(folder, file):
    """Without it there is nothing to replay."""
    (folder / f"{file}.jsonl.gz").unlink()
    with pytest.raises(RecordingError, match=rf"{file}\.jsonl\.gz: missing"):
        load_recording(folder)


@pytest.mark.parametrize("file", ["steps", "requests", "metrics", "nvml"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named_wherever_it_was_cut(folder, file, share):
    """A copy that broke off must not pass for a shorter recording."""
    path = folder / f"{file}.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RecordingError, match=rf"{file}\.jsonl\.gz: (truncated|empty)") as caught:
        load_recording(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "row", "problem"),
    [
        ("steps", "{not json", "not a JSON line"),
        ("steps", "[]", "a line must be a JSON object"),
        ("steps", {"t": 1.0, "m": 1.0, "run": 1}, "the field 'wait' is missing"),
        ("requests", {"id": "x", "tenant": "t", "t0": 1.0}, "the field 'end' is missing"),
        ("metrics", {"t": 1.0}, "the field 'body' is missing"),
        ("nvml", {"t": 1.0, "e_mj": 1, "p_mw": 1}, "the field 'mem' is missing"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(folder, file, row, problem):
    """File, line and field: enough to find it."""
    path = folder / f"{file}.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines[6] = row if isinstance(row, str) else json.dumps(row)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(RecordingError) as caught:
        load_recording(folder)
    assert f"{file}.jsonl.gz:7: {problem}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("steps", "t", "yesterday"),
        ("steps", "m", None),
        ("steps", "d", [1, 2]),
        ("steps", "run", "many"),
        ("requests", "t0", "soon"),
        ("requests", "usage", "much"),
        ("requests", "end", None),
        ("metrics", "t", {}),
        ("metrics", "body", 7),
        ("nvml", "e_mj", "lots"),
        ("nvml", "t", None),
    ],
)
def test_a_value_of_the_wrong_type_is_named_by_its_line(folder, file, field, value):
    """A field that is there but makes no sense is no better than one that is missing."""
    path = folder / f"{file}.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines[6] = json.dumps({**json.loads(lines[6]), field: value})
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(RecordingError) as caught:
        load_recording(folder)
    assert f"{file}.jsonl.gz:7: the field '{field}'" in str(caught.value)


def test_a_recording_without_any_scrape_that_succeeded_is_refused(folder):
    """Its exposition is what is replayed."""
    path = folder / "metrics.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    path.write_bytes(gzip.compress("\n".join(json.dumps({**row, "body": ""}) for row in rows).encode()))
    with pytest.raises(RecordingError, match="holds no scrape that succeeded"):
        load_recording(folder)
