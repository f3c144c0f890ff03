"""A server of vLLM's shape, with the real probe inside, whose application quotes requests wherever it can.

    python -m tests.tracing.canary_app PORT LOG [MUTATION]

Answers, errors, exceptions and the engine's own request states repeat what a client sent. The header ``x-behaviour``
says what becomes of a request. Everything that is logged goes to LOG, but for the server's own lines: those are of
whoever serves, not of the probe. ``/metrics`` shows the process's series, as vLLM's would. A MUTATION makes the probe
give away what it should not, so that a search can be seen to find it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import uvicorn
from prometheus_client import generate_latest
from tests.probe.rig import JSON, SSE, FakeEngine

from farthing_probe import request_meter
from farthing_probe.probe import Probe
from farthing_probe.request_meter import RequestMeter
from farthing_probe.stat_logger import StepLog

__all__ = ["BEHAVIOURS", "MODEL", "MUTATIONS"]

MODEL = "tiny"
PROMPT, IMAGE = 40, 16
PIECES = 4
STEP_SECONDS = 0.004


class Application:
    """Answers whatever it is asked for; an answer takes a few steps of its engine."""

    def __init__(self, engine: FakeEngine, log: Any) -> None:
        self.engine, self.log = engine, log
        self.state = SimpleNamespace(engine_client=engine)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/metrics":
            await answer(send, 200, generate_latest())
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        text = await whole(receive)
        behave = BEHAVIOURS[headers.get("x-behaviour", "answer")]
        try:
            json.loads(text)
        except ValueError as error:
            await answer(send, 400, f"{error}: {text} {headers} {scope['query_string']!r}".encode())
            return
        await behave(Work(self, headers, text), receive, send)


class Work:
    """One request in the engine; its states quote it."""

    def __init__(self, app: Application, headers: dict[str, str], text: str) -> None:
        self.engine, self.log, self.text, self.headers = app.engine, app.log, text, headers
        self.ids: list[str] = []

    def begin(self) -> None:
        """Hand it to the engine, with everything that a state could give away."""
        images = [IMAGE] if "image_url" in self.text else []
        self.ids = self.engine.add(self.headers["x-request-id"], prompt=PROMPT, images=images)
        for each in self.ids:
            state: Any = self.engine.request_states[each]
            state.prompt = state.detokenizer = state.queue = self.text

    def step(self, *, last: bool = False) -> None:
        """One token of each sequence."""
        finish = dict.fromkeys(self.ids, "stop") if last else None
        iteration = self.engine.step(dict.fromkeys(self.ids, 1), finish)
        self.log.record(self.engine.state(), iteration)

    async def pieces(self, number: int = PIECES) -> Any:
        """The answer, which repeats the request."""
        self.begin()
        for at in range(1, number + 1):
            await asyncio.sleep(STEP_SECONDS)
            self.step(last=at == number)
            yield f"{self.text} {self.headers}"

    @property
    def usage(self) -> dict[str, int]:
        """What a client is told."""
        return {"prompt_tokens": PROMPT, "completion_tokens": PIECES, "total_tokens": PROMPT + PIECES}


async def whole(receive: Any) -> str:
    """The request's body."""
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body.decode("utf-8", "replace")


def compact(content: Any) -> str:
    """JSON without blanks, as vLLM writes it."""
    return json.dumps(content, separators=(",", ":"))


async def answer(send: Any, status: int, body: bytes) -> None:
    """A whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": JSON})
    await send({"type": "http.response.body", "body": body})


async def event(send: Any, data: str) -> None:
    """One event of a stream."""
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


async def plain(work: Work, receive: Any, send: Any) -> None:
    """An answer at once."""
    texts = [piece async for piece in work.pieces()]
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in texts]
    await answer(send, 200, compact({"choices": choices, "usage": work.usage}).encode())


async def stream(work: Work, receive: Any, send: Any) -> None:
    """A stream to its end."""
    await send({"type": "http.response.start", "status": 200, "headers": SSE})
    async for text in work.pieces():
        await event(send, compact({"choices": [{"delta": {"content": text}}]}))
    await event(send, compact({"choices": [], "usage": work.usage}))
    await event(send, "[DONE]")
    await send({"type": "http.response.body", "body": b""})


async def fail_late(work: Work, receive: Any, send: Any) -> None:
    """A stream that ends with an error which quotes the request."""
    await send({"type": "http.response.start", "status": 200, "headers": SSE})
    async for text in work.pieces():
        await event(send, compact({"choices": [{"delta": {"content": text}}]}))
    await event(send, compact({"error": {"message": work.text, "type": work.text, "code": work.text}}))
    await send({"type": "http.response.body", "body": b""})


async def break_off(work: Work, receive: Any, send: Any) -> None:
    """An exception in the middle of a stream."""
    await send({"type": "http.response.start", "status": 200, "headers": SSE})
    async for text in work.pieces():
        await event(send, text)
        work.engine.abort(*work.ids)
        raise RuntimeError(text)


async def stumble(work: Work, receive: Any, send: Any) -> None:
    """An exception before any answer, such as a chat template's."""
    raise ValueError(f"template error in {work.text} of {work.headers}")


async def refuse(work: Work, receive: Any, send: Any) -> None:
    """400, with the request in its explanation."""
    await answer(send, 400, compact({"error": {"message": f"{work.text} {work.headers}"}}).encode())


async def turn_away(work: Work, receive: Any, send: Any) -> None:
    """401, which quotes the key."""
    await answer(send, 401, compact({"error": {"message": f"{work.headers}"}}).encode())


async def break_inside(work: Work, receive: Any, send: Any) -> None:
    """An answer whose request states raise an exception that quotes the request when the probe reads them."""
    work.begin()
    for each in work.ids:
        work.engine.request_states[each].stats = Broken(work.text)  # type: ignore[assignment] # that is the point
    await answer(send, 200, compact({"choices": [{"text": work.text}]}).encode())
    work.engine.abort(*work.ids)


async def go_on(work: Work, receive: Any, send: Any) -> None:
    """A stream that ends when the client does."""
    await send({"type": "http.response.start", "status": 200, "headers": SSE})
    gone = asyncio.ensure_future(receive())
    async for text in work.pieces(2_000):
        await event(send, compact({"choices": [{"delta": {"content": text}}]}))
        if gone.done():
            break
    work.engine.abort(*work.ids)


class Broken:
    """Statistics that cannot be read, and say why in the client's words."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Any:
        raise LookupError(f"{name}: {self._text}")


BEHAVIOURS: dict[str, Callable[[Work, Any, Any], Any]] = {
    "answer": plain,
    "stream": stream,
    "fail late": fail_late,
    "break off": break_off,
    "stumble": stumble,
    "refuse": refuse,
    "turn away": turn_away,
    "break inside": break_inside,
    "go on": go_on,
}
"""What ``x-behaviour`` may say."""


def metered(app: Application) -> Any:
    """The application behind the probe's middleware; Starlette tells its application in the scope, so this does."""
    meter: Any = RequestMeter(app)  # type: ignore[arg-type] # a scope is a dict

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await meter({**scope, "app": app}, receive, send)

    return serve


def give_away_header() -> None:
    """Put what stands in the header ``baggage`` into the field of the tier."""
    names: Any = request_meter
    attribute = names.attribute

    def more(headers: Any, settings: Any) -> dict[str, str]:
        return {**attribute(headers, settings), "tier": headers.get(b"baggage", b"").decode()}

    names.attribute = more


def give_away_error() -> None:
    """Log what an exception says, which the probe otherwise does not."""
    failed = Probe.failed

    def tell(probe: Probe, where: str, error: BaseException) -> None:
        logging.getLogger("farthing_probe").warning("%s: %s", where, error)
        failed(probe, where, error)

    Probe.failed = tell  # type: ignore[method-assign, assignment] # a mutation


MUTATIONS = {"": lambda: None, "header": give_away_header, "error": give_away_error}


def main(port: str, log: str, mutation: str = "") -> None:
    """Serve until told to end."""
    MUTATIONS[mutation]()
    logging.basicConfig(filename=log, level=logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(name).propagate = False
        logging.getLogger(name).addHandler(logging.NullHandler())
    engine = FakeEngine(time)  # type: ignore[arg-type] # the clock is the real one
    engine.vllm_config = SimpleNamespace(model_config=SimpleNamespace(served_model_name=MODEL))
    step_log: Any = StepLog(engine.vllm_config, 0)
    step_log.log_engine_initialized()
    # uvicorn ends well and then sends itself the signal again, which would leave the probe no last word
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = metered(Application(engine, step_log))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_config=None, lifespan="off")


if __name__ == "__main__":
    main(*sys.argv[1:])
