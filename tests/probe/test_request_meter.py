"""One request, one record: what the middleware makes of every answer, and of what is not its business."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tests.probe.answers import DONE, ID, NO_USAGE, ROLE, TENANT, TEXT, USAGE, body, only, plain, start
from tests.probe.rig import BODY, CHAT, JSON, rigged

from farthing_probe import request_meter
from farthing_probe.request_meter import PATHS, RequestMeter

BROKEN = b'data: {"error": {"message": "boom", "type": "InternalServerError", "code": 500}}\n\n'


def test_a_finished_request_is_one_record_with_both_sides(rig):
    """Who, what, when: the client's times and counts, the engine's sequence, and no error counted."""

    async def app(scope, receive, send):
        await receive()
        (sequence,) = rig.engine.add(f"chatcmpl-{scope['headers'][0][1].decode()}")
        rig.clock.pass_(1)
        rig.step({sequence: 1}, cached=4)
        rig.clock.pass_(1)
        rig.step({sequence: 1}, {sequence: "stop"})
        await send(start(headers=JSON))
        await send(body(b'{"choices":[],' + USAGE[USAGE.index(b'"usage"') : -2], more=False))
        rig.clock.pass_(1)

    scope = rig.scope(headers=[ID, TENANT, (b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")])
    arrived = rig.clock.now
    rig.ask(app, scope=scope)
    usage = only(rig.usages)
    assert (usage.outcome, usage.status, usage.seen_by, usage.finish_reason) == ("finished", 200, "both", "stop")
    assert (usage.tenant, usage.model, usage.route, usage.request_id) == ("acme", "llama", CHAT, "abc")
    assert usage.trace_id == "a" * 32
    second = 1_000_000_000
    assert [usage.arrived_ns, usage.first_ns, usage.last_ns, usage.ended_ns] == [
        arrived, arrived + 2 * second, arrived + 2 * second, arrived + 3 * second,
    ]  # fmt: skip
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) == (10, 4, 2)
    assert usage.delivered_tokens is None
    (sequence,) = usage.sequences
    assert (sequence.prompt_tokens, sequence.cached_tokens, sequence.output_tokens) == (10, 4, 2)
    assert (sequence.first_ns, sequence.last_ns) == (arrived + second, arrived + 2 * second)
    assert (sequence.scheduled_ns, sequence.queued_ns) == (arrived + second // 2, second // 2)
    assert rig.probe.errors == 0


def test_a_streamed_answer_is_timed_by_its_pieces(rig):
    """First byte, last byte, end; the last usage counts."""

    async def app(_scope, receive, send):
        await receive()
        (sequence,) = rig.engine.add("chatcmpl-abc")
        await send(start())
        for tokens, piece in ((0, ROLE), (1, TEXT), (1, TEXT), (0, USAGE), (0, DONE)):
            rig.clock.pass_(1)
            if tokens:
                rig.step({sequence: 1}, {sequence: "stop"} if piece is TEXT and rig.engine.generated else None)
            await send(body(piece))
        rig.clock.pass_(1)
        await send(body(more=False))

    arrived = rig.clock.now
    rig.ask(app, scope=rig.scope(headers=[ID]))
    usage = only(rig.usages)
    assert (usage.outcome, usage.output_tokens, usage.seen_by) == ("finished", 2, "both")
    assert [(moment - arrived) // 10**9 for moment in (usage.first_ns, usage.last_ns, usage.ended_ns)] == [1, 5, 6]


BOOM = RuntimeError("boom")
OUTCOMES = {
    "finished": (plain(start(headers=JSON), NO_USAGE), "finished", 200),
    "streamed": (plain(start(), body(ROLE), body(TEXT), body(DONE), body(more=False)), "finished", 200),
    "streamed in one piece": (plain(start(), body(ROLE + TEXT + DONE, more=False)), "finished", 200),
    "400": (plain(start(400, JSON), body(b'{"error":{}}', more=False)), "rejected", 400),
    "404": (plain(start(404, JSON), body(b'{"error":{}}', more=False)), "rejected", 404),
    "429": (plain(start(429, JSON), body(b'{"error":{}}', more=False)), "rejected", 429),
    "500": (plain(start(500, JSON), body(b'{"error":{}}', more=False)), "failed", 500),
    "503": (plain(start(503, JSON), body(b'{"error":{}}', more=False)), "failed", 503),
    "an exception": (plain(error=BOOM), "failed", 500),
    "an exception in mid-stream": (plain(start(), body(ROLE), error=BOOM), "failed", 500),
    "an answer that stops": (plain(start(), body(ROLE), body(TEXT)), "failed", 500),
    "no answer": (plain(), "failed", 500),
    "an error in the stream": (plain(start(), body(ROLE), body(BROKEN), body(DONE), body(more=False)), "failed", 500),
    "an error at once": (plain(start(), body(BROKEN), body(DONE), body(more=False)), "failed", 500),
    "an error of v1/messages": (
        plain(start(), body(b'event: error\ndata: {"type":"error","error":{}}\n\n'), body(more=False)), "failed", 500
    ),
    "an error of v1/responses": (
        plain(start(), body(b'event: response.failed\ndata: {"response":{}}\n\n'), body(more=False)), "failed", 500
    ),
    "an answer that spells an error": (
        plain(start(), body(TEXT.replace(b"hi", b'data: {\\"error\\": ')), body(DONE), body(more=False)),
        "finished", 200,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("app", "outcome", "status"), OUTCOMES.values(), ids=OUTCOMES)
def test_every_answer_has_its_outcome(rig, app, outcome, status):
    """Where the engine was not asked the client's side is all there is."""
    answer = rig.ask(app)
    usage = only(rig.settle())
    assert (usage.outcome, usage.status, usage.seen_by) == (outcome, status, "client")
    assert answer.error in (None, BOOM)
    if outcome != "finished":
        assert (usage.first_ns, usage.last_ns) == (None, None), "what went out was no output"
    assert rig.probe.errors == 0


@pytest.mark.parametrize("app", [case[0] for case in OUTCOMES.values()], ids=OUTCOMES)
def test_both_sides_see_what_they_would_without_the_probe(rig, app):
    """The same objects, in the same order, the same exception; the header that was missing is all that is new."""
    seen = []

    async def looking(scope, receive, send):
        seen.append(dict(scope))
        await app(scope, receive, send)

    scope = rig.scope(headers=[TENANT], query_string=b"a=b", client=("::1", 1))
    before = dict(scope)
    metered = rig.ask(looking, scope=scope)
    rig.probe.on = False
    bare = rig.ask(looking, scope=dict(before))
    assert all(ours is theirs for ours, theirs in zip(metered.sent, bare.sent, strict=True))
    assert all(ours is theirs for ours, theirs in zip(metered.received, bare.received, strict=True))
    assert metered.error is bare.error
    with_probe, without = seen
    assert without == before
    assert [pair for pair in with_probe["headers"] if pair[0] != b"x-request-id"] == before["headers"]
    assert {**with_probe, "headers": None} == {**before, "headers": None}


@pytest.mark.parametrize("given", [[], [(b"x-request-id", b"")]], ids=["absent", "empty"])
def test_a_request_without_an_id_gets_one(rig, given):
    """The engine would invent one that nobody else knows, and answer with yet another."""
    answer = rig.ask(plain(start(headers=JSON), NO_USAGE), scope=rig.scope(headers=given))
    assert only(rig.usages).request_id == answer.header
    assert len(answer.header) == 32


@pytest.mark.parametrize(("value", "known"), [(b"abc", "abc"), (b"\x00\xff", "?\xff"), (b"i" * 9999, "i" * 512)])
def test_the_clients_id_is_kept_and_made_to_fit(rig, value, known):
    """What the application sees is untouched."""
    scope = rig.scope(headers=[(b"x-request-id", value)])
    rig.ask(plain(start(headers=JSON), NO_USAGE), scope=scope)
    assert scope["headers"] == [(b"x-request-id", value)]
    assert only(rig.usages).request_id == known


def test_a_body_that_comes_in_order_is_all_that_the_application_reads(rig):
    """Uploads are read by the application alone, piece by piece."""
    pieces = [{"type": "http.request", "body": b"a", "more_body": True}, BODY]

    async def app(_scope, receive, send):
        assert [await receive(), await receive()] == pieces
        await send(start(headers=JSON))
        await send(NO_USAGE)

    assert rig.ask(app, incoming=pieces).error is None
    assert only(rig.usages).outcome == "finished"


# ---- what passes by -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scope",
    [
        {"type": "lifespan"},
        {"type": "websocket", "path": CHAT, "headers": []},
        {"type": "http", "method": "GET", "path": CHAT, "headers": []},
        {"type": "http", "method": "POST", "path": "/tokenize", "headers": []},
        {"type": "http", "method": "POST", "path": "/v1/chat/completions/render", "headers": []},
        {"type": "http", "method": "POST", "path": CHAT + "/", "headers": []},
        {"type": "http", "method": "POST", "path": "/base" + CHAT, "headers": []},
    ],
    ids=lambda scope: " ".join(str(scope.get(name, "")) for name in ("type", "method", "path")),
)
def test_what_does_not_generate_is_handed_on_as_it_is(rig, scope):
    """The application gets the server's own objects."""
    calls = []

    async def app(*arguments):
        calls.append(arguments)

    given: Any = (scope, object(), object())
    before = dict(scope)
    asyncio.run(RequestMeter(app)(*given))
    assert all(ours is theirs for ours, theirs in zip(calls[0], given, strict=True))
    assert scope == before
    assert rig.settle() == []


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_route_that_generates_is_metered(rig, path):
    """By its path below the root path, whether or not a proxy has taken that off."""
    for given in ({}, {"root_path": "/llm"}):
        rig.ask(plain(start(headers=JSON), NO_USAGE), scope=rig.scope(path, **given))
    rig.ask(plain(start(headers=JSON), NO_USAGE), scope=rig.scope("/llm" + path, root_path="/llm"))
    assert [usage.route for usage in rig.settle()] == [path] * 3


# ---- engines that are not as expected -----------------------------------------------------------


class Hostile:
    """Every attribute raises, but for those of the language."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(name)


@pytest.mark.parametrize(
    "client",
    [None, object(), Hostile(), SimpleNamespace(output_processor=None), SimpleNamespace(output_processor=Hostile())],
    ids=["none", "bare", "hostile", "no processor", "hostile processor"],
)
def test_an_engine_client_of_an_unknown_shape_costs_the_engines_side_only(rig, client):
    """The request is served and recorded; the probe's error is counted once, not for each request."""
    rig.engine = client
    app = plain(start(), body(ROLE), body(TEXT), body(TEXT), body(DONE), body(more=False))
    for _ in range(3):
        assert rig.ask(app).error is None
    assert [(usage.outcome, usage.seen_by, usage.delivered_tokens) for usage in rig.usages] == [
        ("finished", "client", 2)
    ] * 3, "a chunk each, without the one that names the role and the one that ends"
    assert rig.probe.errors == (client is not None)


def test_a_server_without_an_engine_client_costs_the_engines_side_only(rig):
    """Another application behind the same middleware."""
    app = plain(start(headers=JSON), NO_USAGE)
    for scope in (rig.scope(app=SimpleNamespace(state=SimpleNamespace())), rig.scope(app=None)):
        assert rig.ask(app, scope=scope).error is None
    scope = rig.scope()
    del scope["app"]
    assert rig.ask(app, scope=scope).error is None
    assert [usage.outcome for usage in rig.usages] == ["finished"] * 3


def test_before_any_probe_the_middleware_makes_it(monkeypatch):
    """Where the plugin is not loaded, VLLM_PLUGINS for one, the first request begins the boot."""
    with rigged() as rig:
        made: Any = rig.probe
        configs: list[object] = []

        def obtain(config):
            configs.append(config)
            return made

        monkeypatch.setattr(request_meter, "current", lambda: None)
        monkeypatch.setattr(request_meter, "obtain", obtain)
        rig.ask(plain(start(headers=JSON), NO_USAGE))
        assert configs == [rig.engine.vllm_config]
        assert rig.events == ["started", "ready"]
        assert len(rig.usages) == 1


def test_without_a_probe_everything_passes_by(monkeypatch):
    """Its settings could not be used, or there is no engine."""
    with rigged() as rig:
        monkeypatch.setattr(request_meter, "current", lambda: None)
        monkeypatch.setattr(request_meter, "obtain", lambda _: None)
        scope = rig.scope()
        answer = rig.ask(plain(start(headers=JSON), NO_USAGE), scope=scope)
        assert (len(answer.sent), scope["headers"], rig.records) == (2, [], [])


class HostileState:
    """A request state of a version to come: nothing is where it was."""

    request_id = external_req_id = "chatcmpl-abc"
    parent_req = lora_name = None

    @property
    def stats(self):
        """Gone."""
        raise RuntimeError("stats")


def test_a_request_state_that_cannot_be_read_leaves_the_clients_side(rig):
    """Counted, and the request is still a record."""

    class States(dict[str, object]):
        def get(self, _name, _default=None):
            return HostileState()

    async def app(_scope, _receive, send):
        rig.engine.add("chatcmpl-abc")
        await send(start(headers=JSON))
        await send(NO_USAGE)

    rig.engine.output_processor.request_states = States()
    rig.ask(app)
    usage = only(rig.settle(7200))
    assert (usage.outcome, usage.seen_by) == ("finished", "client")
    assert rig.probe.errors == 1
