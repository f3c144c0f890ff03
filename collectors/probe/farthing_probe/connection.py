"""One kept-alive HTTP connection to the intake, with a time-out for whatever may hang."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
import urllib.parse
from contextlib import suppress

__all__ = ["Connection"]

TIMEOUT_SECONDS = 5.0
"""For connecting, and for each wait for the intake after that."""
ANSWER_BYTES = 1 << 20


class Connection:
    """Posts bodies to ``url`` (http or https, a path prefix allowed); for one thread, but another may abort it."""

    def __init__(self, url: str, token: str) -> None:
        self._url = urllib.parse.urlsplit(url)
        self._headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._http: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._since: float | None = None

    def post(self, path: str, body: bytes) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and the beginning of the answer; raises whatever goes wrong with a connection."""
        kept = self._http is not None and self._http.sock is not None
        self._since = time.monotonic()
        try:
            return self._exchange(path, body)
        except Exception as error:
            self.close()
            if kept and isinstance(error, ConnectionError):  # servers close idle connections: no failure yet
                return self.post(path, body)
            raise
        finally:
            self._since = None

    def abort(self, older_than: float = 0.0) -> None:
        """From another thread, break off a post that has taken longer than so many seconds."""
        since, connected = self._since, self._socket
        if since is not None and connected is not None and time.monotonic() - since > older_than:
            with suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # without TLS's own, which is the thread's

    def abandon(self) -> None:
        """In a forked child, close its copy of the socket without a word to the other side."""
        connected = self._socket
        if connected is not None and connected.fileno() >= 0:
            # Nothing more: the file object around it has a lock, which the parent's thread may have held.
            os.close(connected.detach())

    def close(self) -> None:
        """Let go of the connection."""
        if self._http is not None:
            with suppress(Exception):
                self._http.close()

    def _exchange(self, path: str, body: bytes) -> tuple[int, str | None, bytes]:
        if self._http is None:
            self._http = self._client()
        if self._http.sock is None:
            self._http.connect()
        self._socket = self._http.sock
        self._http.request("POST", self._url.path + path, body, self._headers)
        answer = self._http.getresponse()
        content = answer.read(ANSWER_BYTES)
        if not answer.isclosed():
            self.close()
        return answer.status, answer.getheader("Retry-After"), content

    def _client(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
