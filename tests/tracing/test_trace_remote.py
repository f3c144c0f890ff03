"""``farthing trace --url`` of a place that may be anything: no control characters, no traceback, no end of bytes."""

import gzip
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from tests.service.running import served

from farthing.cli.report_remote import print_remote_report
from farthing.cli.trace import print_remote_trace
from farthing.domain import conventions as c
from farthing.domain.errors import ServiceError
from farthing.service.report_api import REPORT_PATH, TRACE_PATH
from farthing.service.trace_view import PhaseCost, Rest, Step, TracedRequest, TraceView, trace_document

TRACE = "1" * 32
OUTPUTS = ("table", "json", "csv")
EVIL = "\x1b[2J\x9b31m\x07\x7f\r\n\u202e"
REQUEST = TracedRequest(
    request_id="r", trace_id=TRACE, span_id="2" * 16, parent_span_id="", engine="e", model="m", tenant="acme",
    project="", tier="chat", outcome=c.FINISHED, status=200, arrived_ns=10, ended_ns=40,
    steps=(Step("queue", 10, 20),), prompt_tokens=5, cached_tokens=1, image_tokens=0, output_tokens=2, state="settled",
    phases=(PhaseCost(c.DECODE, 1_000, ("modelled",)),), cost_nano=1_000, fit_error=0.1, estimate_nano=900,
    energy_mj=0, saved_nano=5,
)  # fmt: skip
REST = Rest(2, 50, "settled", (PhaseCost(c.PREFILL, 7, ()),), 7, 8)
VIEW = TraceView(TRACE, "USD", (REQUEST,), REST)


@pytest.fixture(scope="module")
def place():
    """Somebody's server, and what it says: body and headers."""
    says: dict[str, Any] = {"body": b"", "headers": {}}

    async def answer(_):
        return Response(says["body"], headers=says["headers"])

    with served(Starlette(routes=[Route(f"{TRACE_PATH}/x", answer), Route(REPORT_PATH, answer)])) as url:
        yield url, says


def asked(place, body, output="table", headers=None):
    """Ask the place, which says that."""
    url, says = place
    says |= {"body": body if isinstance(body, bytes) else json.dumps(body).encode(), "headers": headers or {}}
    print_remote_trace(url, None, "x", output)


def odd(view, word):
    """The trace with every text in it in such words; a state is one of few, which the shape demands."""

    def over(value):
        texts = [field.name for field in fields(value) if type(getattr(value, field.name)) is str]
        return replace(value, **{name: f"{getattr(value, name)}{word}" for name in texts if name != "state"})

    def phases(value):
        return replace(value, phases=tuple(replace(over(one), methods=(word,)) for one in value.phases))

    requests = tuple(replace(phases(over(one)), steps=tuple(map(over, one.steps))) for one in view.requests)
    return replace(over(view), requests=requests, rest=phases(view.rest))


@pytest.mark.parametrize("output", OUTPUTS)
def test_no_word_of_a_trace_moves_a_cursor(place, output, capsys):
    """Whichever field it stands in: sequences of a terminal, other writing directions, ends of lines."""
    asked(place, trace_document(odd(VIEW, "word")), output)
    plain = capsys.readouterr().out
    asked(place, trace_document(odd(VIEW, EVIL)), output)
    out = capsys.readouterr().out
    assert {one for one in out if not one.isprintable()} == {"\n"}
    assert out.count("\n") == plain.count("\n")
    if output == "json":
        assert json.loads(out)["requests"][0]["tenant"] == f"acme{EVIL}"


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"requests":' + b"[" * 200_000,
        [],
        {"requests": []},
        {"requests": [1]},
        {**trace_document(VIEW), "requests": []},
        {**trace_document(VIEW), "requests": None},
        {**trace_document(VIEW), "rest": []},
        trace_document(replace(VIEW, requests=(REQUEST,) * 501)),
        trace_document(replace(VIEW, requests=(replace(REQUEST, steps=(Step("queue", 1, 2),) * 17),))),
        b'{"trace_id":"\\ud800","currency":"USD","requests":[]}',
        trace_document(replace(VIEW, rest=replace(REST, phases=REST.phases * 17))),
        trace_document(replace(VIEW, trace_id="x" * 1_025)),
        trace_document(replace(VIEW, requests=(replace(REQUEST, request_id="x" * 1_025),))),
        trace_document(replace(VIEW, requests=(replace(REQUEST, phases=(PhaseCost("p", 1, ("m",) * 17),)),))),
        trace_document(replace(VIEW, requests=(replace(REQUEST, phases=(PhaseCost("p" * 1_025, 1, ()),)),))),
    ],
    ids=range(20),
)
def test_what_is_no_trace_is_one_line(place, body, output, capsys):
    """However it is shaped."""
    with pytest.raises(ServiceError) as caught:
        asked(place, body, output)
    assert str(caught.value).startswith(place[0])
    assert "is Farthing there" in str(caught.value)
    assert str(caught.value).isprintable()
    assert capsys.readouterr().out == ""


def test_a_moment_that_nothing_can_have_is_no_trace(place):
    """Nobody can draw it."""
    with pytest.raises(ServiceError, match="no trace"):
        asked(place, trace_document(replace(VIEW, requests=(replace(REQUEST, arrived_ns=10**40, ended_ns=10**41),))))


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}])
def test_an_answer_without_end_is_not_read_to_it(place, headers, monkeypatch, capsys):
    """Nor one that becomes so when it is unpacked."""
    monkeypatch.setattr("farthing.cli.trace.MOST_BYTES", 2**20)
    body = b" " * 2**22
    with pytest.raises(ServiceError, match="answers more than 1 MiB"):
        asked(place, gzip.compress(body) if headers else body, headers=headers)
    assert capsys.readouterr().out == ""


def test_a_report_moves_no_cursor_either(place, capsys):
    """Its lines stay lines."""
    url, says = place
    says |= {"body": "acme\x1b[2J  1.00\nglobex\x9b  2.00\n".encode(), "headers": {}}
    print_remote_report(url, None, {})
    assert capsys.readouterr().out == "acme\ufffd[2J  1.00\nglobex\ufffd  2.00\n"
