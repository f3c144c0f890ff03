"""Sends a plan of requests to an engine, and keeps what each client was told."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.integration.probe.asks import Ask, HangUp

__all__ = ["Seen", "Told", "count_prompts", "drive", "unexpected"]

CONCURRENCY = 8
PATIENCE_SECONDS = 120.0
MOMENT_SECONDS = 0.2
"""In which a server takes in what it has been sent."""
PICTURE = re.compile(r"data:image/png;base64,[^\"]+")


@dataclass(frozen=True, slots=True)
class Told:
    """Tokens as a client was told: cached and image tokens are parts of the prompt's; None where not said."""

    prompt: int
    output: int
    cached: int | None = None
    image: int | None = None


@dataclass(slots=True)
class Seen:
    """One request as its client saw it."""

    ask: Ask
    status: int | None = None
    """None: the client left before any answer began."""
    complete: bool = False
    """The answer was read to its end."""
    hung_up: bool = False
    left_ns: int | None = None
    """When the socket was closed on an answer, by the clock that the probe goes by."""
    chunks: int = 0
    """Chunks with output."""
    delivered: int | None = None
    """Output tokens whose ids arrived; None where the client did not ask for ids."""
    told: Told | None = None
    response_id: str = ""
    text: str = ""
    """All that the model wrote, of all sequences."""
    problem: str = ""
    prompt_tokens: list[int] = field(default_factory=list)
    """Length of each prompt, as the engine's tokenizer counts it; filled in by ``count_prompts``."""


async def drive(url: str, plan: Sequence[Ask], concurrency: int = CONCURRENCY) -> list[Seen]:
    """What became of every request of the plan, in its order; up to ``concurrency`` are in flight.

    A picture that is on its way is not sent again before that request has ended: vLLM's server and its engine keep
    caches of pictures that must agree, and of two requests that bring a new one together they may fail one
    ("P0/P1 cache drift", answered with status 500).
    """
    gate = asyncio.Semaphore(concurrency)
    ended: dict[str, asyncio.Event] = {}

    async def one(client: httpx.AsyncClient, ask: Ask) -> Seen:
        async with gate:
            pictures = PICTURE.findall(json.dumps(ask.body))
            while on_its_way := [ended[each] for each in pictures if each in ended and not ended[each].is_set()]:
                await on_its_way[0].wait()
            own = asyncio.Event()
            ended.update(dict.fromkeys(pictures, own))
            try:
                return await _send(client, url, ask)
            finally:
                own.set()

    async with _client() as client:
        return list(await asyncio.gather(*(one(client, ask) for ask in plan)))


def unexpected(seen: Iterable[Seen]) -> list[str]:
    """Requests that did not go as planned, each with the reason: a load that fails proves nothing of the probe."""
    return [f"{s.ask.tag} {s.ask.recipe}: {_surprise(s)}" for s in seen if _surprise(s)]


async def count_prompts(url: str, seen: Iterable[Seen]) -> None:
    """Let the engine's tokenizer count every prompt of text, whether or not a client was told.

    Pictures are not counted: their prompts keep an empty list.
    """
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(client: httpx.AsyncClient, item: Seen) -> None:
        if any(_has_picture(prompt) for prompt in item.ask.prompts):
            return
        async with gate:
            for prompt in item.ask.prompts:
                asked = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
                body = {"model": item.ask.model, **asked}
                response = await client.post(f"{url}/tokenize", json=body, headers=item.ask.headers)
                response.raise_for_status()
                item.prompt_tokens.append(int(response.json()["count"]))

    async with _client() as client:
        await asyncio.gather(*(one(client, item) for item in seen))


def _client() -> httpx.AsyncClient:
    # a connection for each request: several API servers share a port by connections
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS, limits=limits)


def _has_picture(prompt: Any) -> bool:
    return not isinstance(prompt, str) and any(isinstance(message["content"], list) for message in prompt)


def _surprise(seen: Seen) -> str:
    if seen.problem:
        return seen.problem
    if seen.ask.hang_up is not None:
        return "" if seen.hung_up else f"was answered ({seen.status}) before its client hung up"
    if seen.status != seen.ask.status:
        return f"status {seen.status}, not {seen.ask.status}: {seen.text[:300]}"
    if not seen.complete:
        return "its answer broke off"
    expected = seen.ask.output_tokens
    if seen.told and expected is not None and seen.told.output != expected:
        return f"told of {seen.told.output} output tokens, not {expected}"
    return ""


async def _send(client: httpx.AsyncClient, url: str, ask: Ask) -> Seen:
    seen = Seen(ask)
    try:
        if ask.hang_up is not None and ask.hang_up.chunks is None:
            await _ask_and_leave(url, seen, ask.hang_up)
        else:
            await _exchange(client, url, seen)
    except (httpx.HTTPError, OSError) as error:
        seen.problem = f"{type(error).__name__}: {error}"
    return seen


async def _ask_and_leave(url: str, seen: Seen, hang_up: HangUp) -> None:
    """Send a request, or half of one, wait for an answer so long, and close the socket: no client library does that.

    An answer that lies there when its client, held up by a crowded machine, wakes after its time was up is left
    unread, and what the record then says is for ``overtaken`` to judge.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    body = json.dumps(seen.ask.body).encode()
    head = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body)), **seen.ask.headers}
    lines = [f"POST {seen.ask.path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write("\r\n".join(lines).encode() + (body[: len(body) // 2] if hang_up.asking else body))
        await writer.drain()
        async with asyncio.timeout(hang_up.seconds or MOMENT_SECONDS) as patience:
            answer = await reader.readline()
        if (up := patience.when()) is not None and asyncio.get_running_loop().time() >= up:
            _leave(seen)
        else:
            seen.status = int(answer.split()[1])
    except TimeoutError:
        _leave(seen)
    finally:
        writer.close()


async def _exchange(client: httpx.AsyncClient, url: str, seen: Seen) -> None:
    """Leaving the block early closes the connection: that is how a client hangs up."""
    ask = seen.ask
    leave_after = ask.hang_up.chunks if ask.hang_up else None
    async with client.stream("POST", url + ask.path, json=dict(ask.body), headers=dict(ask.headers)) as response:
        seen.status = response.status_code
        if leave_after == 0:
            _leave(seen)
            return
        if "text/event-stream" not in response.headers.get("content-type", ""):
            _take_whole(seen, await response.aread())
            return
        async for event in _events(response):
            _take_event(seen, event)
            if leave_after is not None and seen.chunks >= leave_after:
                _leave(seen)
                return
        seen.complete = True


def _leave(seen: Seen) -> None:
    seen.hung_up, seen.left_ns = True, time.monotonic_ns()


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _take_whole(seen: Seen, body: bytes) -> None:
    seen.complete = True
    try:
        answer = json.loads(body)
    except json.JSONDecodeError:
        seen.text = body.decode(errors="replace")
        return
    if seen.status != httpx.codes.OK:
        seen.text = json.dumps(answer)
        return
    seen.response_id = answer.get("id", "")
    _take_usage(seen, answer.get("usage"))
    for choice in answer.get("choices", ()):
        seen.text += choice.get("text") or choice.get("message", {}).get("content") or ""
    for part in answer.get("content", ()):
        seen.text += part.get("text", "")
    for item in answer.get("output", ()):
        seen.text += "".join(part.get("text", "") for part in item.get("content", ()))


def _take_event(seen: Seen, event: dict[str, Any]) -> None:
    """One event of any route's stream: OpenAI's chunks, or the typed events of responses and messages."""
    if "error" in event:
        seen.problem = f"error in the stream: {event['error']}"
    inner = event.get("response") or event.get("message") or event
    seen.response_id = seen.response_id or inner.get("id", "")
    if event.get("type") != "message_start":
        _take_usage(seen, inner.get("usage"))
    for choice in event.get("choices", ()):
        _take_output(seen, choice.get("text") or choice.get("delta", {}).get("content") or "", choice.get("token_ids"))
    delta = event.get("delta")
    if isinstance(delta, str):
        _take_output(seen, delta, None)
    elif isinstance(delta, dict) and "text" in delta:
        _take_output(seen, delta["text"], None)


def _take_output(seen: Seen, text: str, token_ids: list[int] | None) -> None:
    seen.text += text
    if token_ids:
        seen.delivered = (seen.delivered or 0) + len(token_ids)
    if text or token_ids:
        seen.chunks += 1


def _take_usage(seen: Seen, usage: dict[str, Any] | None) -> None:
    if not usage:
        return
    if "prompt_tokens" in usage:
        details = usage.get("prompt_tokens_details") or {}
        image = (details.get("multimodal_tokens") or {}).get("image")
        seen.told = Told(usage["prompt_tokens"], usage["completion_tokens"], details.get("cached_tokens"), image)
        return
    # messages count tokens that came from the cache or went into it beside the others, responses among them
    read, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    cached = read if read is not None else (usage.get("input_tokens_details") or {}).get("cached_tokens")
    seen.told = Told(usage["input_tokens"] + (read or 0) + (written or 0), usage["output_tokens"], cached)
