"""HTTP as uvicorn speaks it, with bounds on what somebody may send before anybody asks who it is."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEAD_SECONDS", "MOST_HEAD_BYTES", "BoundedHttp"]

MOST_HEAD_BYTES: Final = 64 * 1024
"""Of a request's line and headers, and of trailers; uvicorn's other parser, h11, allows as much. What the system reads
at once, up to 256 KiB, may end them."""
HEAD_SECONDS: Final = 30.0
"""How long a request's line and headers may take to arrive."""
_PROBLEM: Final = b'{"error":"the headers are too large"}'
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_PROBLEM), _PROBLEM)
)


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's own parser keeps headers however many there are, and waits for their end for ever."""

    _held = 0
    """Bytes that came since the parser last let go of some."""
    _moved = False
    _deadline: asyncio.TimerHandle | None = None

    # ---- asyncio and the parser call these ------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._moved = False
        super().data_received(data)
        self._held = 0 if self._moved else self._held + len(data)
        if self._held > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_is_there()
        self._moved = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved = True
        super().on_message_complete()

    def _await_head(self) -> None:
        self._head_is_there()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _head_is_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()
