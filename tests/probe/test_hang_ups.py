"""Clients that hang up: before the first token, after it, once they have all, and without saying so."""

import asyncio

import pytest
from tests.probe.answers import DONE, ROLE, TEXT, body, only, start
from tests.probe.rig import GONE, JSON

from farthing_probe.request_meter import RequestMeter


def streaming(rig, *, tokens, pieces, external="chatcmpl-abc", prompt=10):
    """An application that has streamed so far when its client hangs up; it then has the engine forget."""

    async def app(_scope, receive, send):
        await receive()
        (sequence,) = rig.engine.add(external, prompt)
        if pieces:
            await send(start())
        for _ in range(tokens):
            rig.clock.pass_(1)
            rig.step({sequence: 1})
        for piece in pieces:
            await send(body(piece))
        assert await receive() is GONE
        rig.engine.abort(sequence)
        rig.clock.pass_(0.5)

    return app


def test_an_abort_before_the_first_token_knows_the_prompt(rig):
    """Nobody knows what the engine has done of it: no statistics ever come."""
    rig.ask(streaming(rig, tokens=0, pieces=[]))
    assert rig.usages == [], "the engine may have a word to say yet"
    usage = only(rig.settle())
    assert (usage.outcome, usage.status, usage.seen_by) == ("aborted", 499, "client")
    assert (usage.prompt_tokens, usage.output_tokens, usage.sequences, usage.first_ns) == (10, None, (), None)


def test_an_abort_after_the_first_token_has_exact_counts(rig):
    """From the engine's own state, which the abort forgets."""
    rig.ask(streaming(rig, tokens=3, pieces=[ROLE, TEXT]))
    ended = rig.clock.now
    usage = only(rig.settle())
    assert (usage.outcome, usage.status, usage.seen_by) == ("aborted", 499, "both")
    assert (usage.output_tokens, usage.delivered_tokens) == (None, None), "nobody told the client"
    (sequence,) = usage.sequences
    assert (sequence.prompt_tokens, sequence.output_tokens) == (10, 3)
    assert usage.ended_ns == ended - 500_000_000, "the end is when the client hung up"


def test_what_the_engine_did_after_the_client_hung_up_is_counted(rig):
    """It stops a step or two later."""

    async def app(_scope, receive, send):
        (sequence,) = rig.engine.add("chatcmpl-abc")
        rig.step({sequence: 1})
        await send(start())
        await send(body(TEXT))
        await receive()
        rig.clock.pass_(1)
        rig.step({sequence: 1})
        rig.engine.abort(sequence)

    rig.ask(app, incoming=[])
    assert only(rig.settle()).sequences[0].output_tokens == 2


@pytest.mark.parametrize(
    "last",
    [
        DONE,
        TEXT + DONE,
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b'event: response.completed\ndata: {"response":{"output":"' + b"x" * 5000 + b'"}}\n\n',
    ],
    ids=["done", "text and done", "messages", "responses"],
)
def test_a_client_that_closes_once_it_has_all_is_not_an_abort(rig, last):
    """Many close right after the last event, before the empty piece that ends the body."""
    rig.ask(streaming(rig, tokens=1, pieces=[ROLE, TEXT, last]))
    assert (only(rig.settle()).outcome, only(rig.usages).status) == ("finished", 200)


@pytest.mark.parametrize("mark", [b"data: [DONE]", b"event: message_stop", b"\\n\\ndata: [DONE]\\n\\n"])
def test_an_answer_that_spells_the_end_is_not_at_its_end(rig, mark):
    """Line feeds are escaped inside a text, so that no text begins a line."""
    rig.ask(streaming(rig, tokens=1, pieces=[ROLE, TEXT.replace(b"hi", mark)]))
    assert only(rig.settle()).outcome == "aborted"


@pytest.mark.parametrize("status", [200, 400, 500])
def test_what_is_answered_to_nobody_is_an_abort(rig, status):
    """A server may answer 400 to a body that broke off because its client had gone."""

    async def app(_scope, receive, send):
        assert await receive() is GONE
        await send(start(status, JSON))
        await send(body(b'{"error":{}}', more=False))

    rig.ask(app, incoming=[])
    usage = only(rig.settle())
    assert (usage.outcome, usage.status) == ("aborted", 499)
    assert (usage.first_ns, usage.last_ns) == (None, None), "nothing of it left for the client"


def test_a_server_whose_send_raises_is_a_client_that_hung_up(rig):
    """ASGI 2.4: send raises an OSError once the client has gone."""

    async def app(_scope, _receive, send):
        (sequence,) = rig.engine.add("chatcmpl-abc")
        rig.step({sequence: 1})
        await send(start())
        try:
            await send(body(TEXT))
        finally:
            rig.engine.abort(sequence)

    async def talk():
        async def receive():
            return GONE

        async def send(message):
            if message["type"] == "http.response.body":
                raise OSError

        with pytest.raises(OSError, match=r"^$"):
            await RequestMeter(app)(rig.scope(), receive, send)

    asyncio.run(talk())
    assert (only(rig.settle()).outcome, rig.usages[0].status) == ("aborted", 499)


def test_a_cancelled_request_is_a_record(rig):
    """The server is going down, or has lost patience."""

    async def app(_scope, _receive, send):
        await send(start())
        await asyncio.sleep(60)

    async def talk():
        task = asyncio.create_task(rig.asked(app))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(talk())
    assert (only(rig.settle()).outcome, rig.usages[0].status) == ("failed", 500)
