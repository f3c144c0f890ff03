"""Marks in everything that a client may send, and a search for them in everything that is kept.

A mark is looked for as it was sent and as it could have been kept: escaped in JSON, in base64, in hexadecimal, in
percent signs; of names and keys, as a digest without salt too.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
import sqlite3
import struct
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.integration.probe.asks import PLAIN_KEY, TENANTS, Ask
from tests.integration.probe.load import Seen

__all__ = ["Found", "Marks", "answer_marks", "picture_plan", "search", "text_marks_plan"]

PERSONAL = ("key", "user")
"""Beginnings of the names of marks that must not be kept as a plain digest either."""
PIECE = 16
GUESSED_KEY = "sk-guessed-"


@dataclass(frozen=True, slots=True)
class Found:
    """A mark, the form that it was found in, and where."""

    mark: str
    form: str
    place: str


class Marks:
    """Marks by name; ``marks("prompt")`` makes one that nothing else holds by chance."""

    def __init__(self) -> None:
        self.by_name: dict[str, bytes] = {}

    def __call__(self, name: str) -> str:
        mark = f"{name}canary{secrets.token_hex(8)}"
        self.by_name[f"{name} {len(self.by_name)}"] = mark.encode()
        return mark

    def add(self, name: str, value: bytes) -> None:
        """Something that was sent and is long enough to be a mark by itself."""
        assert len(value) >= PIECE, f"{name} is too short to be told from chance"
        self.by_name[f"{name} {len(self.by_name)}"] = value


def text_marks_plan(load: str) -> tuple[list[Ask], Marks]:
    """Requests with a mark in every field that holds a client's words, by every route."""
    marks = Marks()
    plan = [_ask(load, number, marks, **drawn) for number, drawn in enumerate(_text_requests(marks))]
    guessed = GUESSED_KEY + marks("key guessed")
    for headers in ({"Authorization": f"Bearer {guessed}"}, {"X-Api-Key": guessed}):
        wrong = _ask(load, len(plan), marks, path="/v1/chat/completions", body=_chat(marks("prompt refused")))
        kept = {name: value for name, value in wrong.headers.items() if name != "Authorization"}
        plan.append(replace(wrong, headers={**kept, **headers}, status=401, outcome="rejected", tenant="unknown"))
    return plan, marks


def picture_plan(load: str) -> tuple[list[Ask], Marks]:
    """Requests with marks in a picture: in a text chunk of its file, in its pixels, and the file itself."""
    marks = Marks()
    picture = _picture(marks)
    encoded = base64.b64encode(picture)
    for at in range(0, len(picture) - 3 * PIECE, len(picture) // 4):
        marks.add("picture's bytes", picture[at : at + PIECE + 8])
    for at in range(0, len(encoded) - 3 * PIECE, len(encoded) // 4):
        marks.add("picture in base64", encoded[at : at + 2 * PIECE])
    parts = [
        {"type": "text", "text": marks("prompt beside picture")},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded.decode()}"}},
    ]
    asks = [_ask(load, n, marks, path="/v1/chat/completions", body=_chat(parts, stream=bool(n))) for n in range(2)]
    return asks, marks


def answer_marks(seen: Iterable[Seen]) -> Marks:
    """What models answered, in pieces: an answer kept in part is kept."""
    marks = Marks()
    for item in seen:
        text = item.text.encode()
        if item.status == 200 and len(text) >= PIECE:
            for at in {0, (len(text) - PIECE) // 2, len(text) - PIECE}:
                marks.add(f"answer to {item.ask.tag}", text[at : at + PIECE])
    return marks


def search(marks: Mapping[str, bytes], places: Iterable[Path]) -> list[Found]:
    """Every mark in every file, and inside what the files hold: gzip, and the cells of databases."""
    forms = [(name, form, sought) for name, mark in marks.items() for form, sought in _forms(name, mark)]
    found = set()
    for place in places:
        for inside, content in _contents(place):
            low = content.lower()
            found |= {Found(name, form, inside) for name, form, sought in forms if sought in content or sought in low}
    return sorted(found, key=lambda each: (each.mark, each.form, each.place))


def _chat(content: Any, **body: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 12, **body}


def _text_requests(marks: Marks) -> Iterator[dict[str, Any]]:
    tool = {
        "name": marks("toolname"),
        "description": marks("tool description"),
        "parameters": {"type": "object", "properties": {marks("parameter"): {"type": "string"}}},
    }
    call = {"name": tool["name"], "arguments": json.dumps({"of": marks("tool arguments")})}
    conversation = [
        {"role": "system", "content": marks("system")},
        {"role": "user", "name": marks("user of message"), "content": f'{marks("prompt")} "quoted" \u00fcber'},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c1", "content": marks("tool result")},
    ]
    usage = {"stream_options": {"include_usage": True}}
    for more in ({}, {"stream": True}, {"stream": True, **usage}, {"n": 2, "temperature": 1.0}):
        body = {
            **_chat("", **more),
            "messages": conversation,
            "tools": [{"type": "function", "function": tool}],
            "stop": [marks("stop")],
            "user": marks("user field"),
            "metadata": {"note": marks("metadata")},
        }
        yield {"path": "/v1/chat/completions", "body": body}
    for prompt in (marks("completion"), [marks("completion"), marks("completion")]):
        body = {"model": "tiny", "prompt": prompt, "suffix": None, "user": marks("user field"), "max_tokens": 12}
        yield {"path": "/v1/completions", "body": {**body, "echo": True}}
    asked = [{"role": "user", "content": marks("messages")}]
    body = {"model": "tiny", "max_tokens": 12, "system": marks("system"), "messages": asked}
    yield {"path": "/v1/messages", "body": {**body, "stop_sequences": [marks("stop")]}}
    yield {"path": "/v1/messages", "body": {**body, "stream": True, "metadata": {"user_id": marks("user field")}}}
    body = {"model": "tiny", "input": marks("responses"), "instructions": marks("system"), "max_output_tokens": 12}
    yield {"path": "/v1/responses", "body": {**body, "user": marks("user field")}}
    yield {"path": "/v1/responses", "body": {**body, "stream": True}}
    bad = {**_chat(marks("prompt refused")), "temperature": -1.0, "stop": [marks("stop refused")]}
    yield {"path": "/v1/chat/completions", "body": bad, "status": 400, "outcome": "rejected"}
    bad = {**_chat(marks("prompt refused")), "max_tokens": marks("not a number")}
    yield {"path": "/v1/chat/completions", "body": bad, "status": 400, "outcome": "rejected"}
    bad = {**_chat(marks("prompt refused")), "model": marks("unknown model")}
    yield {"path": "/v1/chat/completions", "body": bad, "status": 404, "outcome": "rejected"}


def _ask(load: str, number: int, marks: Marks, **drawn: Any) -> Ask:
    tag, tenant = f"{load}-{number:04d}", TENANTS[number % len(TENANTS)]
    headers = {
        "Authorization": f"Bearer {PLAIN_KEY}",
        "X-Tenant-Id": tenant,
        "X-User-Id": marks("user header"),
        "X-Workload-Id": tag,
        "X-Request-Id": tag,
        "X-Something-Else": marks("header"),
        "Cookie": f"session={marks('key cookie')}",
    }
    return Ask(tag=tag, recipe="canary", headers=headers, tenant=tenant, **drawn)


def _picture(marks: Marks) -> bytes:
    """A PNG that carries one mark in a text chunk, and one in its pixels as they are."""
    width, height = 48, 16
    pixels = marks("pixels").encode() * (3 * width * height)
    rows = b"".join(b"\0" + pixels[3 * width * row : 3 * width * (row + 1)] for row in range(height))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"tEXt", b"Comment\0" + marks("picture text").encode()),
        (b"IDAT", zlib.compress(rows, 0)),  # not compressed, so that the file itself shows the pixels
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _forms(name: str, mark: bytes) -> Iterator[tuple[str, bytes]]:
    yield "as sent", mark
    text = mark.decode(errors="replace")
    escaped = json.dumps(text)[1:-1].encode()
    if escaped != mark:
        yield "escaped in JSON", escaped
    yield "hexadecimal", mark.hex().encode()
    for shift in range(3):
        # what base64 makes of a mark depends on how many bytes come before it; its rims depend on the neighbours
        encoded = base64.b64encode(bytes(shift) + mark).rstrip(b"=")
        yield f"base64, shifted by {shift}", encoded[4 if shift else 0 : len(encoded) - len(encoded) % 4]
    quoted = urllib.parse.quote_from_bytes(mark).encode()
    if quoted != mark:
        yield "percent signs", quoted
    if name.startswith(PERSONAL):
        for digest in (hashlib.sha256, hashlib.sha1, hashlib.md5):
            yield f"plain {digest.__name__}", digest(mark).hexdigest()[:PIECE].encode()


def _contents(place: Path) -> Iterator[tuple[str, bytes]]:
    """(where, bytes) of a file, of what it holds compressed, and of every cell where it is a database."""
    content = place.read_bytes()
    yield str(place.name), content
    if content[:2] == b"\x1f\x8b":
        yield f"{place.name}, unpacked", gzip.decompress(content)
    if content[:15] == b"SQLite format 3":
        with closing(sqlite3.connect(place)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                rows = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - a name from the database itself
                cells = [cell.encode() if isinstance(cell, str) else cell for row in rows for cell in row]
                yield f"{place.name}, {table}", b"\n".join(cell for cell in cells if isinstance(cell, bytes))
