"""Marks in prompts, pictures, tool arguments, headers, queries and error paths are in nothing that Farthing keeps,
sends or shows: no span, event, exemplar, audit record, usage record, spool, ledger, page, metric or log.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.probe.canary import Marks, search
from tests.service.running import wait_until
from tests.tracing.canaries import KNOWN_PROJECT, Sent, plan, troubled_plan
from tests.tracing.canary_app import BEHAVIOURS, MODEL
from tests.tracing.canary_stand import MODES, CanaryStand, canary_stand, keep_exports, running_engine_app
from tests.tracing.receiver import otlp_receiver

from farthing.domain import conventions as c

ATTRIBUTES = {value for name, value in vars(c).items() if name.startswith("ATTRIBUTE_")}
"""All that an edge span may carry."""
SETTLED_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Planted:
    """What was sent to both engines, and all that came of it is in the stand's files."""

    stand: CanaryStand
    marks: dict[str, bytes]
    sent: dict[str, list[Sent]]
    """By engine."""
    statuses: dict[str, int | None]
    spooled: int


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """Marked requests while nobody takes records, then with the service up, then with a collector that refuses."""
    marks: dict[str, bytes] = {}
    sent: dict[str, list[Sent]] = {mode: [] for mode in MODES}
    statuses: dict[str, int | None] = {}
    with canary_stand(tmp_path_factory.mktemp("canary")) as stand:

        def send(load: str, plan: Callable[[str], tuple[list[Sent], Marks]]) -> None:
            for mode, engine in stand.engines.items():
                wanted, made = plan(f"{load}-{mode}")
                marks.update({f"{name}, {load} {mode}": mark for name, mark in made.by_name.items()})
                sent[mode] += wanted
                statuses.update(engine.send(wanted))

        send("unheard", plan)
        wait_until(lambda: all(engine.metric("spooled_bytes") for engine in stand.engines.values()), 30, "a spool")
        spooled = stand.keep_spools()
        stand.serve.start()
        stand.serve.wait_ready()
        stand.wait_delivered()
        send("heard", plan)
        stand.wait_delivered()
        stand.receiver.wait_for(lambda spans: len(spans) >= sum(map(len, sent.values())), 30)
        before = len(stand.receiver.requests)
        stand.receiver.behave("error", error_status=400)
        send("refused", troubled_plan)
        stand.wait_delivered()
        stand.receiver.wait_for_requests(before + len(MODES), 30)
        stand.receiver.behave("ok")
        for mode, (one, *_) in sent.items():
            stand.keep_shown(mode, one.tag, one.trace_id)
        for engine in stand.engines.values():
            engine.stop()
        wait_until(lambda: _closed(stand), SETTLED_SECONDS, "the closing of the engines' books")
        wait_until(lambda: _audited(stand), SETTLED_SECONDS, "the audit trail to have both engines' requests")
        for mode, (one, *_) in sent.items():
            stand.keep_printed(f"{mode} told", "trace", one.tag)
        assert stand.serve.stop() == 0
        days = ("--from", "2026-01-01", "--to", "2126-01-01")
        stand.keep_printed("audit told", "audit", "export", str(stand.folder / "kept/audit.jsonl"), *days)
        keep_exports(stand.folder, stand.receiver)
        yield Planted(stand, marks, sent, statuses, spooled)


def _closed(stand: CanaryStand) -> bool:
    with stand.ledger() as ledger:
        boots = ledger.boots()
    return len(boots) == len(MODES) and all(boot.closed_ns is not None for boot in boots)


def _audited(stand: CanaryStand) -> bool:
    """Whether the trail has told of every boot that all of it is there."""
    trail = b"".join(path.read_bytes() for path in (stand.folder / "audit").glob("*.audit"))
    return trail.count(b'"boot_closed"') == len(MODES)


def test_every_mark_is_sent_and_every_way_to_go_wrong_is_taken():
    """What is searched for was there to be kept."""
    sent, marks = plan("load")
    whole = b"".join(f"{each.path}?{each.query} {dict(each.headers)}".encode() + each.content for each in sent)
    whole += b"".join(base64.b64decode(picture) for picture in re.findall(rb"base64,([A-Za-z0-9+/=]+)", whole))
    assert [name for name, mark in marks.by_name.items() if mark not in whole and json_text(mark) not in whole] == []
    assert {each.behaviour for each in sent} == set(BEHAVIOURS)
    kinds = {name.partition(",")[0].rpartition(" ")[0] for name in marks.by_name}
    assert kinds >= {
        "prompt", "system", "tool arguments", "tool description", "picture text", "image", "template", "malformed",
        "header", "nameofheader", "baggage", "tracestate", "query", "key bearer", "key cookie", "tenant claimed",
    }  # fmt: skip


def json_text(mark: bytes) -> bytes:
    """A mark as it stands in JSON."""
    return json.dumps(mark.decode(errors="replace"))[1:-1].encode()


def test_no_content_is_in_anything_that_farthing_keeps_sends_or_shows(planted: Planted):
    """Whatever became of the request, and whoever sent its span."""
    assert planted.spooled >= len(MODES), "nothing was on disk to be searched"
    assert {200, 400, 401, 500} <= set(planted.statuses.values())
    assert search(planted.marks, planted.stand.files()) == []


def test_a_mark_in_any_of_those_places_would_have_been_found(planted: Planted):
    """Every place holds the name that it may hold, and the search sees it there."""
    files = planted.stand.files()
    where = {found.place for found in search({"project": KNOWN_PROJECT.encode()}, files)}
    assert where >= {"ledger.db, records", "ledger.db, requests", "audit.jsonl"}
    for beginning in ("spool-", "export-"):
        assert any(place.startswith(beginning) for place in where), beginning
    trail = {path.name for path in files if path.is_relative_to(planted.stand.folder / "audit")}
    assert trail & where, "nothing was in the trail to be searched"
    assert {found.place for found in search({"tenant": b"acme"}, files)} >= {"metrics", "exemplars", "snapshot"}
    for mode, (one, *_) in planted.sent.items():
        ids = {"request": one.tag.encode(), "trace": one.trace_id.encode()}
        shown = {found.place for found in search(ids, files)}
        assert shown >= {f"request of {mode}", f"trace of {mode}", f"{mode} told"}
    exemplars = (planted.stand.folder / "kept/exemplars").read_text()
    assert any(each.trace_id in exemplars for sent in planted.sent.values() for each in sent)


def test_every_request_has_a_span_of_nothing_but_the_fields_that_are_named(planted: Planted):
    """Attributes, events and resource are those of the conventions; there is no other text."""
    spans = planted.stand.receiver.spans
    came = [(span.resource[c.RESOURCE_INSTANCE], span.attributes[c.ATTRIBUTE_REQUEST_ID]) for span in spans]
    assert len(set(came)) == len(came), "a span came twice"
    for mode, sent in planted.sent.items():
        heard = {each.tag for each in sent if not each.tag.startswith("refused")}
        told = {tag for engine, tag in came if engine == f"engine-{mode}"}
        # the collector refuses most of the last load's
        assert heard <= told <= {each.tag for each in sent}
    assert {name for span in spans for name in span.attributes} <= ATTRIBUTES
    assert {(event.name, *event.attributes) for span in spans for event in span.events} == {
        (c.SPAN_FIRST_TOKEN,), (c.SPAN_ABORTED,),
    }  # fmt: skip
    assert {(span.trace_state, span.status_message, *span.links) for span in spans} == {("", "")}
    assert {span.name for span in spans} >= {f"chat {MODEL}", f"text_completion {MODEL}"}
    assert {span.attributes[c.ATTRIBUTE_OUTCOME] for span in spans} == {"finished", "aborted", "failed", "rejected"}


@pytest.mark.parametrize(
    ("mutation", "mark", "where"), [("header", "baggage", "export-"), ("error", "prompt", "probe-sdk.log")]
)
def test_a_probe_that_gives_something_away_is_found_out(tmp_path: Path, mutation: str, mark: str, where: str):
    """A header in a span, or an exception's text in the log, and the search says which and where."""
    sent, marks = troubled_plan("leak")
    with otlp_receiver() as receiver:
        with running_engine_app(tmp_path, "sdk", receiver.endpoint, receiver.url, mutation) as engine:
            engine.send(sent)
            receiver.wait_for(lambda spans: len(spans) >= len(sent), 30)
        keep_exports(tmp_path, receiver)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "salt"]
    found = {(each.mark.rpartition(" ")[0], each.place) for each in search(marks.by_name, files)}
    assert any(name == mark and place.startswith(where) for name, place in found), found
