"""The sender: everything arrives, in order, through whatever outage; what can never arrive is an error."""

import asyncio
import gzip
import json
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware

from farthing.collectors.intake import IntakeCounts, IntakeLimits, intake_routes
from farthing.domain.errors import ConfigError, FarthingError
from farthing.domain.records import RawRecord
from farthing.replay.sender import Sender
from farthing.service.access import Access, Guard
from farthing_probe import wire

URL = "http://intake:9464"


def usage(seq: int) -> dict[str, Any]:
    return wire.usage(
        "boot-1", 0, seq, request_id=f"r{seq}", engine_index=0, model="m", outcome="finished", status=200,
        arrived_ns=1, ended_ns=2,
    )  # fmt: skip


def ready(seq: int) -> dict[str, Any]:
    return wire.lifecycle("boot-1", 0, seq, at_ns=1, event="ready")


def ok(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"accepted": len(sequences_of(request)), "duplicate": 0, "refused": []})


def sequences_of(request: httpx.Request) -> list[int]:
    return [json.loads(line)["seq"] for line in gzip.decompress(request.content).splitlines()]


class Script:
    """An intake that follows a script of answers and then accepts; remembers what it accepted, in order."""

    def __init__(self, *answers: httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.seen: list[httpx.Request] = []
        self.delivered: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers.pop(0) if self.answers else ok
        if isinstance(answer, Exception):
            raise answer
        response = answer if isinstance(answer, httpx.Response) else answer(request)
        if response.status_code == 200:
            self.delivered += sequences_of(request)
        return response


def deliver(script: Script, records: Sequence[dict[str, Any]], token: str | None = None, **options: Any) -> Sender:
    """The sender after it has sent the records to the scripted intake."""

    async def run() -> Sender:
        async with httpx.AsyncClient(transport=httpx.MockTransport(script)) as client:
            settings = {"first_wait_seconds": 0.001, "max_wait_seconds": 0.002, **options}
            sender = Sender(URL, token, client, **settings)
            assert await sender.send(records) == len(records)
            return sender

    return asyncio.run(run())


def test_records_go_to_their_paths_compressed_and_with_the_token():
    """What intake expects of a sender."""
    script = Script()
    sender = deliver(script, [ready(0), usage(1)], token="crown")
    assert [request.url.path for request in script.seen] == [wire.WINDOWS_PATH, wire.USAGE_PATH]
    assert {request.headers["authorization"] for request in script.seen} == {"Bearer crown"}
    assert {request.headers["content-encoding"] for request in script.seen} == {"gzip"}
    assert (sender.delivered.accepted, sender.delivered.posts, sender.delivered.retries) == (2, 2, 0)


def test_without_a_token_no_authorization_is_sent():
    """An open intake gets no empty credential."""
    script = Script()
    deliver(script, [usage(0)])
    assert "authorization" not in script.seen[0].headers


def test_nothing_to_send_sends_nothing():
    """No records, no posts."""
    script = Script()
    assert deliver(script, []).delivered.posts == 0
    assert script.seen == []


def test_batches_are_cut_by_size_and_by_path():
    """Neighbours of one path travel together; records of the other path are never overtaken."""
    script = Script()
    deliver(script, [ready(0), *(usage(n) for n in range(1, 6)), ready(6), ready(7)], batch_records=2)
    assert [sequences_of(request) for request in script.seen] == [[0], [1, 2], [3, 4], [5], [6, 7]]


TROUBLES = [
    httpx.Response(429),
    httpx.Response(500, text="boom"),
    httpx.Response(503, json={"error": "the records could not be stored; send them again"}),
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.ReadTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("Server disconnected without sending a response."),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=repr)
def test_what_may_pass_is_tried_again(trouble, caplog):
    """Connection errors, time-outs, 429 and 5xx; an outage is logged once, however long it lasts."""
    script = Script(trouble, trouble, trouble)
    with caplog.at_level(logging.INFO, "farthing"):
        sender = deliver(script, [usage(0)])
    assert script.delivered == [0]
    assert (sender.delivered.retries, sender.delivered.posts) == (3, 1)
    assert len([record for record in caplog.records if record.name == "farthing.replay.sender"]) == 1


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from([usage, ready]), max_size=12),
    troubles=st.lists(st.none() | st.sampled_from(TROUBLES), max_size=12),
    size=st.integers(1, 4),
)
def test_retrying_never_reorders_loses_or_repeats_what_was_answered(kinds, troubles, size):
    """Whatever fails whenever, the intake takes the sequence in order."""
    script = Script(*(trouble or ok for trouble in troubles))
    sender = deliver(script, [kind(seq) for seq, kind in enumerate(kinds)], batch_records=size)
    assert script.delivered == list(range(len(kinds)))
    assert sender.delivered.records == len(kinds)


def test_concurrent_sends_do_not_interleave():
    """Two callers of one sender: the second batch waits for the first, retries included."""
    script = Script(httpx.Response(503), httpx.Response(503))

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(script)) as client:
            sender = Sender(URL, None, client, batch_records=1, first_wait_seconds=0.001)
            sent = await asyncio.gather(sender.send([usage(0), usage(1)]), sender.send([usage(2)]))
            assert tuple(sent) == (2, 1)

    asyncio.run(run())
    assert script.delivered == [0, 1, 2]


def test_an_answer_that_waiting_cannot_mend_is_an_error_with_the_intakes_words():
    """401, 400, 404: a person has to act."""
    script = Script(httpx.Response(401, json={"error": "a valid bearer token is required"}))
    with pytest.raises(FarthingError) as caught:
        deliver(script, [usage(0)])
    assert str(caught.value) == (
        "http://intake:9464/v1/usage: the intake answered 401: a valid bearer token is required"
    )
    assert len(script.seen) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(404, text="<html>\n  Not\nfound"), "answered 404: <html> Not found"),
        (httpx.Response(404), "answered 404: Not Found"),
        (httpx.Response(302, headers={"location": "https://login"}), "answered 302: Found"),
        (httpx.Response(200, text="<html>welcome"), "answered 200, but not as Farthing's intake does; check the URL"),
        (httpx.Response(200, json=[]), "answered 200, but not as Farthing's intake does; check the URL"),
    ],
)
def test_somebody_else_at_the_address_is_told_in_one_line(answer, words):
    """A proxy's page, a login, another service."""

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as client:
            await Sender(URL, None, client).send([usage(0)])

    with pytest.raises(FarthingError) as caught:
        asyncio.run(run())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_that_is_too_large_is_halved_until_it_fits():
    """The sender need not know the intake's limit."""

    def small(request: httpx.Request) -> httpx.Response:
        return httpx.Response(413) if len(sequences_of(request)) > 2 else ok(request)

    script = Script(*[small] * 20)
    sender = deliver(script, [usage(n) for n in range(7)])
    assert script.delivered == list(range(7))
    assert sender.delivered.records == 7


def test_a_record_that_is_too_large_alone_is_an_error():
    """There is nothing left to halve."""
    script = Script(*[httpx.Response(413, json={"error": "the body is larger than 10 bytes"})] * 3)
    with pytest.raises(FarthingError, match="413: the body is larger than 10 bytes"):
        deliver(script, [usage(0), usage(1)])


def test_records_refused_one_by_one_are_counted_and_logged(caplog):
    """The rest of the batch is delivered; the field of the first refusal is in the log."""
    refusal = {"line": 2, "field": "tenant", "problem": "holds a control character"}
    script = Script(httpx.Response(200, json={"accepted": 1, "duplicate": 1, "refused": [refusal]}))
    sender = deliver(script, [usage(0), usage(1), usage(2)])
    assert (sender.delivered.accepted, sender.delivered.duplicate, sender.delivered.refused) == (1, 1, 1)
    assert "holds a control character" in caplog.text


def test_stopping_ends_the_wait_for_an_absent_intake():
    """A shutdown does not sit out an hour's back-off, and says how much got through."""
    stop = asyncio.Event()
    script = Script(ok, *[httpx.ConnectError("refused")] * 5)

    async def run() -> tuple[int, int]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(script)) as client:
            sender = Sender(URL, None, client, stop=stop, batch_records=1, first_wait_seconds=60, max_wait_seconds=60)
            sending = asyncio.create_task(sender.send([usage(0), usage(1)]))
            while sender.delivered.retries == 0:
                await asyncio.sleep(0.001)
            stop.set()
            return await asyncio.wait_for(sending, 2), await sender.send([usage(2)])

    assert asyncio.run(run()) == (1, 0)
    assert script.delivered == [0]


@pytest.mark.parametrize("url", ["", "intake:9464", "ftp://intake", "http://", "/v1/usage", "http://[::1", "\0"])
def test_a_url_that_is_none_is_said_at_once(url):
    """Retrying for ever would hide a slip of the pen."""
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9464"):
        Sender(url, None, httpx.AsyncClient())


@pytest.mark.parametrize("token", ["", "two\nlines", "crown\u00e9"])
def test_a_token_that_no_header_can_carry_is_said_at_once(token):
    """The token itself is not repeated."""
    with pytest.raises(ConfigError) as caught:
        Sender(URL, token, httpx.AsyncClient())
    assert not token or token not in str(caught.value)


class KeptRecords:
    """A store that outlives the servers in front of it."""

    def __init__(self) -> None:
        self.sequences: list[int] = []

    def add_each(self, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
        time.sleep(0.01)  # so that a shutdown, which takes a tenth of a second, falls into the middle
        return [self._add(records) for records in batches]

    def _add(self, records: Sequence[RawRecord]) -> int:
        new = [record.key.sequence for record in records if record.key.sequence not in self.sequences]
        self.sequences += new
        return len(new)


def test_everything_arrives_in_order_although_the_intake_restarts():
    """A real server on a real socket that is absent at first, dies twice and comes back."""
    store = KeptRecords()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def serve_until(reached: int) -> None:
        routes = intake_routes(store, IntakeLimits(1 << 20), IntakeCounts(), lambda: None)
        app = Starlette(routes=routes, middleware=[Middleware(Guard, access=Access(intake_token="crown"))])
        config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while len(store.sequences) < reached:
            await asyncio.sleep(0.002)
        server.should_exit = True
        await running
        assert reached == 120 or len(store.sequences) < 120, "the server should have gone in the middle"

    async def run() -> Sender:
        async with httpx.AsyncClient(timeout=5) as client:
            sender = Sender(
                f"http://127.0.0.1:{port}/", "crown", client, batch_records=3, first_wait_seconds=0.01,
                max_wait_seconds=0.05,
            )  # fmt: skip
            records = [(usage if n % 4 else ready)(n) for n in range(120)]
            sending = asyncio.create_task(sender.send(records))
            await asyncio.sleep(0.05)
            for reached in (30, 60, 120):
                await serve_until(reached)
            await sending
            return sender

    sender = asyncio.run(run())
    assert store.sequences == list(range(120))
    assert sender.delivered.records == 120
    assert sender.delivered.retries > 0
