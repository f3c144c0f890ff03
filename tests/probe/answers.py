"""Answers of an engine's server, piece by piece, and applications that give them."""

from collections.abc import Awaitable, Callable
from typing import Any

from tests.probe.rig import SSE

from farthing.domain.records import Usage

__all__ = ["DONE", "ID", "NO_USAGE", "ROLE", "TENANT", "TEXT", "USAGE", "body", "only", "plain", "start"]

TENANT = (b"x-tenant-id", b"acme")
ID = (b"x-request-id", b"abc")
USAGE = (
    b'data: {"id":"chatcmpl-abc","choices":[],"usage":{"prompt_tokens":10,"total_tokens":12,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)
ROLE = b'data: {"id":"chatcmpl-abc","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"id":"chatcmpl-abc","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def start(status: int = 200, headers: list[tuple[bytes, bytes]] = SSE) -> dict[str, Any]:
    """The head of an answer."""
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(piece: bytes = b"", *, more: bool = True) -> dict[str, Any]:
    """A piece of an answer."""
    return {"type": "http.response.body", "body": piece, "more_body": more}


NO_USAGE = body(b'{"choices":[]}', more=False)


def only(usages: list[Usage]) -> Usage:
    """The one record."""
    (usage,) = usages
    return usage


def plain(*messages: dict[str, Any], error: Exception | None = None) -> Callable[..., Awaitable[None]]:
    """An application that answers so and then perhaps raises."""

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    return app
