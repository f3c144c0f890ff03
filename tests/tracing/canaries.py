"""Requests with marks in everything that a client may send, error paths and trace contexts among them."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.integration.probe.canary import Marks, picture_plan, text_marks_plan

__all__ = ["KNOWN_PROJECT", "Sent", "plan", "send_all", "troubled_plan"]

KNOWN_PROJECT = "known-project"
"""May be kept: it shows that the search sees what is there."""
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Sent:
    """One request."""

    tag: str
    path: str
    headers: Mapping[str, str]
    content: bytes
    behaviour: str
    query: str = ""
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))


def plan(load: str) -> tuple[list[Sent], Marks]:
    """Requests by every route, with every behaviour of the application, and all their marks."""
    marks = Marks()
    sent = []
    for asks, planted in (text_marks_plan(f"{load}-text"), picture_plan(f"{load}-pictures")):
        marks.by_name |= {f"{name}, {asks[0].tag}": mark for name, mark in planted.by_name.items()}
        for ask in asks:
            behaviour = {200: "stream" if ask.body.get("stream") else "answer", 401: "turn away"}.get(ask.status)
            headers = _headers(marks, ask.tag, ask.headers)
            sent.append(Sent(ask.tag, ask.path, headers, json.dumps(ask.body).encode(), behaviour or "refuse"))
    wrong, planted = troubled_plan(load)
    marks.by_name |= {f"{name}, {load}-trouble": mark for name, mark in planted.by_name.items()}
    return [*sent, *wrong], marks


def troubled_plan(load: str) -> tuple[list[Sent], Marks]:
    """Those requests alone that go wrong, and their marks."""
    marks = Marks()
    sent = []
    for number, (behaviour, content) in enumerate(_troubles(marks)):
        tag = f"{load}-trouble-{number:04d}"
        # who sent a wrong key may claim to be anybody: what it claims is not kept either
        names = ("Tenant", "Project", "Workload") if behaviour == "turn away" else ()
        claimed = {f"X-{name}-Id": marks(f"{name.lower()} claimed") for name in names}
        headers = _headers(marks, tag, claimed)
        sent.append(Sent(tag, CHAT, headers, content, behaviour, _query(marks)))
    return sent, marks


async def send_all(url: str, plan: list[Sent]) -> dict[str, int | None]:
    """Status of each request by its tag; None of one that was not answered. A stream without end is left."""
    found: dict[str, int | None] = {}
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        for each in plan:
            found[each.tag] = None
            path = f"{each.path}?{each.query}" if each.query else each.path
            context = {"traceparent": f"00-{each.trace_id}-{secrets.token_hex(8)}-01"}
            headers = {**context, **each.headers, "X-Behaviour": each.behaviour}
            with suppress(httpx.HTTPError):
                async with client.stream("POST", path, headers=headers, content=each.content) as response:
                    found[each.tag] = response.status_code
                    async for _ in response.aiter_raw():
                        if each.behaviour == "go on":
                            break
    return found


WORDS = {
    "X-User-Id": ("user header", "{}"),
    "Authorization": ("key bearer", "Bearer {}"),
    "X-Api-Key": ("key header", "{}"),
    "Cookie": ("key cookie", "session={}"),
    "Baggage": ("baggage", "{}=1"),
    "Tracestate": ("tracestate", "vendor={}"),
    "User-Agent": ("agent", "{}"),
    "Referer": ("referer", "http://example.test/{}"),
    "X-Forwarded-For": ("forwarded", "{}"),
    "X-Something-Else": ("header", "{}"),
}
"""Headers that hold a mark: its name, and what it stands in."""


def _headers(marks: Marks, tag: str, given: Mapping[str, str]) -> dict[str, str]:
    """Everything that a client or a proxy may add to what is given; a few of them are what requests are known by."""
    known = {"X-Request-Id": tag, "X-Tenant-Id": "acme", "X-Project-Id": KNOWN_PROJECT, **given}
    marked = {name: form.format(marks(mark)) for name, (mark, form) in WORDS.items() if name not in given}
    return {**known, **marked, f"X-{marks('nameofheader')}": "1"}


def _query(marks: Marks) -> str:
    return f"api_key={marks('key query')}&{marks('query')}=1"


def _troubles(marks: Marks) -> Iterator[tuple[str, bytes]]:
    """(behaviour, body) of requests that go wrong in every way."""
    tool = {"type": "function", "function": {"name": marks("toolname"), "arguments": marks("tool arguments")}}
    for behaviour in ("stumble", "fail late", "break off", "refuse", "turn away", "break inside", "go on", "go on"):
        body: dict[str, Any] = {
            "model": marks("model"),
            "messages": [{"role": "system", "content": marks("system")}, {"role": "user", "content": marks("prompt")}],
            "tools": [tool],
            "response_format": {"type": "json_schema", "json_schema": {"name": marks("schema")}},
            "chat_template": "{{ " + marks("template") + " }}",
            "image": "data:image/png;base64," + base64.b64encode(marks("image").encode() * 2).decode(),
        }
        yield behaviour, json.dumps(body).encode()
    yield "answer", b'{"messages": [{"content": "' + marks("malformed").encode()  # no end
    yield "answer", marks("no json").encode() + b"\xff\xfe"
