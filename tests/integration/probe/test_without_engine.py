"""The trials themselves are on trial: plans are the same every time, and what they compare and search is found."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.alerts.real_parts import free_port
from tests.integration.probe.aborts import Abort, report
from tests.integration.probe.asks import (
    KEYED_TENANT,
    TENANTS,
    TEXT,
    VISION,
    Ask,
    HangUp,
    abort_plan,
    calm_plan,
    text_plan,
    vision_plan,
)
from tests.integration.probe.canary import answer_marks, picture_plan, search, text_marks_plan
from tests.integration.probe.chaos import FAULTS, erring_intake
from tests.integration.probe.counters import EngineCounts
from tests.integration.probe.load import Seen, Told, unexpected
from tests.integration.probe.reconcile import against_clients, against_engine, doubled, overtaken, uncertain

PLANS = (text_plan, vision_plan, calm_plan)


@pytest.mark.parametrize("make", PLANS, ids=lambda make: make.__name__)
def test_a_plan_is_its_seed(make):
    """Twice the same load, and another with another seed."""
    assert make("load", 1, 60) == make("load", 1, 60)
    assert make("load", 1, 60) != make("load", 2, 60)
    assert len({ask.tag for ask in make("load", 1, 60)}) == 60


@pytest.mark.parametrize(("make", "recipes"), [(text_plan, TEXT), (vision_plan, VISION)])
def test_a_plan_holds_every_recipe_and_every_tenant(make, recipes):
    """No kind of request is missing by chance."""
    plan = make("load", 3, 100)
    assert {ask.recipe for ask in plan} == {recipe.__name__ for recipe, _ in recipes}
    assert {ask.tenant for ask in plan} >= {*TENANTS, KEYED_TENANT}
    assert {ask.outcome for ask in plan} == {"finished", "aborted", "rejected"}
    assert any("X-Tenant-Id" not in ask.headers for ask in plan if ask.tenant == KEYED_TENANT)


def test_clients_name_requests_like_others_before_and_beside_them():
    """Ids that come twice in a row, ids that come again later, and one that is too long."""
    named = [ask.request_id for ask in text_plan("load", 20261126, 400) if ask.request_id]
    counts = Counter(named)
    assert any(count == 2 and name.startswith("twins-") for name, count in counts.items())
    assert any(count > 2 and name.startswith("again-") for name, count in counts.items())
    assert any(len(name) > 512 for name in named)


def test_aborts_are_the_same_whether_or_not_their_clients_are_told():
    """Only the option in the body differs."""
    silent, told = (abort_plan("load", 5, 12, told=told) for told in (False, True))
    assert [ask.hang_up for ask in silent] == [ask.hang_up for ask in told]
    assert all("stream_options" not in ask.body for ask in silent)
    assert [ask.streams for ask in told] == ["stream_options" in ask.body for ask in told]


# ---- reconciliation -------------------------------------------------------------------------------


def ask(tag="load-0000", **fields):
    """A chat request of one sequence."""
    known = {"recipe": "chat", "path": "/v1/chat/completions", "body": {}, "tenant": "acme", "user": "ann"}
    return Ask(tag=tag, **{**known, "prompts": ("x",), "output_tokens": 8, **fields})


def seen(asked, **fields):
    """An answer that went as planned."""
    told = {"status": 200, "complete": True, "told": Told(20, 8, 0), "prompt_tokens": [20]}
    return Seen(asked, **{**told, **fields})


def record(tag="load-0000", **fields):
    """What the probe says of that request."""
    sequence = {"prompt_tokens": 20, "cached_tokens": 0, "output_tokens": 8, "first_ns": 5}
    said = {"workload": tag, "tenant": "acme", "outcome": "finished", "status": 200, "model": "tiny"}
    said |= {"route": "/v1/chat/completions", "request_id": "r", "seen_by": "both", "sequences": [sequence]}
    return {**said, "prompt_tokens": 20, "cached_tokens": 0, "output_tokens": 8, **fields}


COUNTED = EngineCounts(prompt=20, computed=20, cached=0, output=8, finished=1, first_tokens=1)


def test_what_agrees_differs_in_nothing():
    """One request, its record and the engine's counters."""
    assert against_clients([seen(ask())], [record()]) == []
    assert against_engine([record()], COUNTED) == {}
    assert unexpected([seen(ask())]) == []
    assert uncertain([record()]) == {}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tenant": "globex"}, "tenant"),
        ({"outcome": "aborted"}, "outcome"),
        ({"status": 499}, "status"),
        ({"model": "adapter"}, "model"),
        ({"route": "/v1/completions"}, "route"),
        ({"tier": "batch"}, "tier"),
        ({"user": "ann"}, "user"),
        ({"prompt_tokens": 21}, "prompt_tokens"),
        ({"output_tokens": 9}, "output_tokens"),
        ({"sequences": []}, "sequences"),
    ],
)
def test_a_record_that_is_wrong_in_one_field_differs_in_it(change, field):
    """Each field by itself."""
    assert field in [difference.field for difference in against_clients([seen(ask())], [record(**change)])]


def test_missing_doubled_and_unasked_records_are_found():
    """None, two, and one of a request that nobody made."""
    one = [seen(ask())]
    assert [(d.field, d.found) for d in against_clients(one, [])] == [("records", 0)]
    assert [(d.field, d.found) for d in against_clients(one, [record(), record()])] == [("records", 2)]
    assert [d.field for d in against_clients(one, [record(), record("load-0001")])] == ["requests"]
    assert doubled([record(), record()]) == ["load-0000"]


def test_tokens_that_the_engine_counted_and_nobody_claims_are_found():
    """Kind by kind, with both numbers."""
    assert against_engine([], COUNTED) == {
        "prompt": (20, 0),
        "computed": (20, 0),
        "output": (8, 0),
        "first_tokens": (1, 0),
    }


def test_an_abort_that_the_engine_had_finished_is_no_difference_and_is_named():
    """All of its tokens are there; with one less it would have been an abort."""
    left = ask(outcome="aborted", status=499, hang_up=HangUp(chunks=1), body={"max_tokens": 8})
    gone = seen(left, complete=False, hung_up=True, told=None, delivered=3)
    short = record(sequences=[{**record()["sequences"][0], "output_tokens": 7}])
    assert against_clients([gone], [record()]) == []
    assert overtaken([gone], [record()]) == {"load-0000"}
    assert [d.field for d in against_clients([gone], [short])] == ["outcome", "status"]
    assert overtaken([gone], [short]) == set()


def test_a_prompt_that_was_never_prefilled_is_named_with_the_reason():
    """By workload and request id."""
    early = record(outcome="aborted", sequences=[])
    assert "before its first token" in uncertain([early])["load-0000", "r"]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (seen(ask(), status=500, text="oops"), "status 500, not 200: oops"),
        (seen(ask(), complete=False), "broke off"),
        (seen(ask(), told=Told(20, 7)), "told of 7 output tokens, not 8"),
        (seen(ask(hang_up=HangUp(seconds=1.0))), "before its client hung up"),
        (seen(ask(), problem="ReadError"), "ReadError"),
    ],
)
def test_a_request_that_did_not_go_as_planned_is_named(made, why):
    """A load that fails proves nothing."""
    (said,) = unexpected([made])
    assert why in said


def test_the_report_of_aborts_counts_what_was_claimed_too_much_and_too_little():
    """Sums can cancel; the largest error and the number of exact ones cannot."""
    exact = Abort("a", "midway", 10, 10, 20, 20, None)
    more, less = replace(exact, claimed=13, told=9), replace(exact, claimed=7, told=5)
    lines = report([exact], [exact, more, less]).splitlines()
    assert lines[1].split() == ["told", "nothing", "1", "1", "10", "0", "0", "0"]
    assert lines[2].split() == ["continuous_usage_stats", "3", "1", "30", "0", "3", "0"]
    assert lines[3].endswith("6 tokens of 20")


# ---- canaries -------------------------------------------------------------------------------------


def test_every_field_that_holds_a_clients_words_holds_a_mark():
    """All routes, streamed and not, refused ones included."""
    plan, marks = text_marks_plan("load")
    sent = json.dumps([[one.path, one.body, one.headers] for one in plan])
    assert all(json.dumps(mark.decode())[1:-1] in sent for mark in marks.by_name.values())
    assert {one.path for one in plan} >= {"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"}
    assert {one.status for one in plan} == {200, 400, 401, 404}
    kinds = {name.rpartition(" ")[0] for name in marks.by_name}
    assert kinds >= {"prompt", "system", "tool arguments", "tool result", "stop", "user field", "user header"}


def test_a_picture_carries_marks_in_its_text_its_pixels_and_its_file():
    """So that neither a decoded nor an encoded picture goes unnoticed."""
    plan, marks = picture_plan("load")
    (part,) = [p for p in plan[0].body["messages"][0]["content"] if p["type"] == "image_url"]
    url = part["image_url"]["url"].encode()
    encoded = [mark for name, mark in marks.by_name.items() if name.startswith("picture in base64")]
    assert len(encoded) >= 3
    assert all(mark in url for mark in encoded)


MARK = b'canary "0123456789abcdef" of nobody'


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("prompt", MARK),
        ("prompt", json.dumps({"text": MARK.decode()}).encode()),
        ("prompt", MARK.hex().upper().encode()),
        ("prompt", b"%22".join(MARK.replace(b" ", b"%20").split(b'"'))),
        ("key", hashlib.sha256(MARK).hexdigest().encode()),
        ("user", hashlib.md5(MARK).hexdigest()[:20].encode()),  # noqa: S324 - what somebody might have kept
    ],
)
@pytest.mark.parametrize("kept", ["plainly", "compressed"])
def test_a_mark_is_found_however_it_is_kept(tmp_path: Path, name: str, written: bytes, kept: str):
    """In a file of text, and in one of the spool."""
    place = tmp_path / "place"
    content = b"before " + written + b" after"
    place.write_bytes(content if kept == "plainly" else gzip.compress(content))
    assert [found.mark for found in search({name: MARK}, [place])][:1] == [name]
    assert search({name: MARK[:-1] + b"!"}, [place]) == []


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_mark_is_found_in_base64_wherever_it_begins(tmp_path: Path, before: int):
    """What comes before it shifts its letters."""
    place = tmp_path / "place"
    place.write_bytes(base64.b64encode(b"x" * before + MARK + b"yz"))
    assert search({"prompt": MARK}, [place])


@pytest.mark.parametrize("value", [MARK, MARK.decode()], ids=["blob", "text"])
def test_a_mark_is_found_in_a_cell_of_a_database(tmp_path: Path, value: bytes | str):
    """Also in one that is spread over pages."""
    place = tmp_path / "ledger.db"
    with sqlite3.connect(place) as database:
        database.execute("CREATE TABLE kept (id INTEGER, line)")
        long = "x" * 9_000 if isinstance(value, str) else b"x" * 9_000
        database.execute("INSERT INTO kept VALUES (1, ?)", (long + value + long,))  # type: ignore[operator]
    database.close()
    assert "ledger.db, kept" in {found.place for found in search({"prompt": MARK}, [place])}


def test_what_a_model_answered_is_looked_for_in_pieces(tmp_path: Path):
    """Half an answer is an answer."""
    answered = seen(ask(), text="once upon a time there was a model that wrote noise")
    marks = answer_marks([answered]).by_name
    place = tmp_path / "place"
    place.write_bytes(answered.text[:20].encode())
    assert len(search(marks, [place])) == 1


# ---- chaos ----------------------------------------------------------------------------------------


def test_an_erring_intake_errs_in_every_way():
    """One after the other; a connection closed without a word among them."""
    port = free_port()
    answers: list[int | None] = []
    with erring_intake(port) as posts, httpx.Client(trust_env=False) as client:
        for _ in FAULTS:
            try:
                answers.append(client.post(f"http://127.0.0.1:{port}/v1/usage", content=b"x").status_code)
            except httpx.HTTPError:
                answers.append(None)
    assert answers == [status for status, _ in FAULTS]
    assert posts == ["/v1/usage"] * len(FAULTS)
