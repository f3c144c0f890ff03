"""A recording made by a probe: its own records in place of steps and requests, of one boot or of several."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from tests.replay.conftest import TEXT

from farthing.domain.errors import RecordingError
from farthing.replay.offline import cost_recording, to_json
from farthing.replay.recording import PACKAGED, load_recording
from farthing.replay.wire_records import wire_records
from farthing.service.server import price_book
from farthing.settings import Settings


def write(folder, records):
    """Put records into a recording's folder."""
    with gzip.open(folder / "records.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module")
def sent():
    """What a probe would have sent of the packaged text recording: everything but the device's samples."""
    timed = wire_records(load_recording(TEXT), boot="b", engine="e")
    records = [item.record for item in timed if item.record["kind"] != "gpu"]
    return [{**record, "seq": sequence} for sequence, record in enumerate(records)]


@pytest.fixture
def folder(tmp_path):
    """A folder with the scrapes and the device's samples of the packaged recording."""
    for name in ("metrics", "nvml"):
        shutil.copy(PACKAGED / TEXT / f"{name}.jsonl.gz", tmp_path)
    return tmp_path


def costed(folder):
    """The JSON of an offline replay."""
    return to_json(cost_recording(load_recording(folder), Settings(), price_book(Settings())))


def test_a_probes_records_give_the_books_of_the_steps_and_requests_they_came_from(folder, sent):
    """One run, recorded in two ways: equal lines, tokens and joules."""
    write(folder, reversed(sent))
    ours = costed(folder)
    theirs = to_json(cost_recording(load_recording(TEXT), Settings(), price_book(Settings())))
    for key in set(theirs) - {"engine", "window"}:
        assert ours[key] == theirs[key], key
    assert all(check["ok"] for check in ours["checks"])


def test_a_recording_without_samples_has_the_books_and_no_joules(folder, sent):
    """A machine without NVML: the probe's word for the device is enough to price it, and energy stays unknown."""
    write(folder, sent)
    with_samples = costed(folder)
    (folder / "nvml.jsonl.gz").unlink()
    without = costed(folder)
    assert load_recording(folder).gpu == {"name": sent[0]["gpu"]}
    assert without["energy_joules"] is None
    assert with_samples["energy_joules"] > 0
    for key in ("bill_nano_usd", "residual_nano_usd", "tokens", "requests"):
        assert without[key] == with_samples[key], key
    assert all(check["ok"] for check in without["checks"])


def test_a_restart_in_a_recording_is_two_boots_in_the_books(folder, sent):
    """Each boot is billed from its start to its end; what was between them is not."""
    started = sent[0]
    later = 600_000_000_000
    again = [
        {**started, "boot": "b2", "at_ns": started["at_ns"], "wall_ns": started["wall_ns"] + later},
        *({**record, "boot": "b2"} for record in sent[1:]),
    ]
    write(folder, [*sent, *again])
    one = to_json(cost_recording(load_recording(TEXT), Settings(), price_book(Settings())))
    result = costed(folder)
    assert result["residual_nano_usd"] == 0
    assert abs(result["bill_nano_usd"] - 2 * one["bill_nano_usd"]) <= 1  # a cut of a nano-dollar
    assert result["requests"]["finished"] == 2 * one["requests"]["finished"]
    timed = wire_records(load_recording(folder), boot="x", engine="renamed")
    assert {item.record["boot"] for item in timed} == {"x", "x.1"}
    assert [item.wall_ns for item in timed] == sorted(item.wall_ns for item in timed)
    assert {item.record["engine"] for item in timed if item.record["kind"] == "started"} == {"renamed"}


def test_a_lost_record_turns_a_check_red(folder, sent):
    """A recording is not above suspicion."""
    lost = next(i for i, record in enumerate(sent) if i > len(sent) // 2 and record["kind"] == "steps")
    write(folder, sent[:lost] + sent[lost + 1 :])
    assert not all(check["ok"] for check in costed(folder)["checks"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"kind": "usage"}, "boot"),
        ({"v": 1, "kind": "lifecycle", "boot": "b", "proc": 0, "seq": 1, "at_ns": -1, "event": "ready"}, "at_ns"),
        ({"v": 1, "kind": "lifecycle", "boot": "c", "proc": 0, "seq": 0, "at_ns": 1, "event": "ready"}, "boot c"),
    ],
)
def test_a_wrong_record_is_named_with_its_field(folder, sent, line, problem):
    """As every other file of a recording."""
    write(folder, [sent[0], line])
    with pytest.raises(RecordingError, match=rf"records\.jsonl\.gz.*{problem}"):
        load_recording(folder)


RECORDINGS = Path(__file__).parents[1] / "fixtures/recordings"
PROBED = ("h100-llama8b-probe", "h100-llama8b-pressure")


@pytest.fixture(scope="module", params=PROBED)
def probed(request):
    """A run on an H100 that the probe itself recorded: loaded, its clients' own view, and costed."""
    recording = load_recording(RECORDINGS / request.param)
    with gzip.open(RECORDINGS / request.param / "clients.jsonl.gz", "rt", encoding="utf-8") as file:
        clients = {row["id"]: row for row in map(json.loads, file)}
    return recording, clients, cost_recording(recording, Settings(), price_book(Settings()))


def test_a_probes_run_on_an_h100_reconciles_to_the_token(probed):
    """Bill, lines and the engine's own counters: nothing is missing, of aborted requests neither."""
    recording, _, run = probed
    result = to_json(run)
    assert result["residual_nano_usd"] == 0
    assert [check for check in result["checks"] if not check["ok"]] == []
    detail = {check["name"]: check["detail"] for check in result["checks"]}
    assert detail["prompt_tokens_reconcile"].startswith("0 of ")
    assert detail["output_tokens_reconcile"].startswith("0 of ")
    assert sum(result["unattributed_nano_usd"].values()) < 0.001 * result["bill_nano_usd"]
    assert result["energy_joules"] > 0
    assert len(recording.boots) == len(run.accounts)


def test_every_client_of_a_probes_run_is_booked_once_to_its_tenant(probed):
    """What the load generator saw, request by request, against the records."""
    recording, clients, _ = probed
    usages = [row for boot in recording.boots for row in boot if row["kind"] == "usage"]
    # the server closed four kept-alive connections as their next request was on its way: no engine saw those
    unseen = [row for row in clients.values() if row["err"] not in {None, "aborted"}]
    assert all("Server disconnected" in row["err"] and row["first"] is None for row in unseen)
    assert len(unseen) <= 4
    reached = clients.keys() - {row["id"] for row in unseen}
    assert sorted(row["request_id"] for row in usages) == sorted(reached)
    for row in usages:
        client = clients[row["request_id"]]
        assert row["tenant"] == client["tenant"]
        assert row["outcome"] == ("aborted" if client["err"] else "finished")
        if client["usage"]:
            assert row["output_tokens"] == client["usage"]["completion_tokens"]
            assert sum(each["output_tokens"] for each in row["sequences"]) == row["output_tokens"]
            assert row["prompt_tokens"] == client["usage"]["prompt_tokens"]


def test_the_run_under_pressure_has_what_it_was_made_for():
    """Preemptions, two sequences for a prompt, speculation, aborts, and a restart."""
    recording = load_recording(RECORDINGS / "h100-llama8b-pressure")
    assert len(recording.boots) == 2
    for boot in recording.boots:
        marks = [row["marks"] for row in boot if row["kind"] == "steps"]
        assert sum(sum(each.get("preempted", ())) for each in marks) > 10
        # speculation schedules several tokens for a request
        decoded, asked = (sum(sum(each.get(n, ())) for each in marks) for n in ("decode_tokens", "decode_requests"))
        assert decoded > 1.5 * asked
        usages = [row for row in boot if row["kind"] == "usage"]
        assert sum(len(row.get("sequences", ())) == 2 for row in usages) > 30
        assert sum(row["outcome"] == "aborted" for row in usages) > 10
