"""Loopback servers that take what Alertmanager sends: JSON over HTTP, and e-mail."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Mailbox", "mailbox"]


@dataclass
class Mailbox:
    """Everything that came, in order."""

    http_port: int
    smtp_port: int
    posts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    mails: list[EmailMessage] = field(default_factory=list)

    def at(self, path: str) -> list[dict[str, Any]]:
        """What was posted to a path."""
        return [body for where, body in self.posts if where == path]

    def url(self, path: str) -> str:
        """Where to post for that path."""
        return f"http://127.0.0.1:{self.http_port}{path}"


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """Both servers listen within the block."""
    box = Mailbox(0, 0)

    class Http(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            box.posts.append((self.path, json.loads(body)))
            self.send_response(202 if self.path == "/pagerduty" else 200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing: pytest shows what matters."""

    class Smtp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            def say(line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

            say("220 mailbox")
            while line := self.rfile.readline():
                verb = line.decode().strip().upper()
                if verb == "DATA":
                    say("354 go on")
                    box.mails.append(_mail(self.rfile.readline))
                say("221 bye" if verb == "QUIT" else "250 ok")
                if verb == "QUIT":
                    return

    with ThreadingHTTPServer(("127.0.0.1", 0), Http) as http, _Smtp(("127.0.0.1", 0), Smtp) as smtp:
        box.http_port, box.smtp_port = http.server_port, int(smtp.server_address[1])
        threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in (http, smtp)]
        for thread in threads:
            thread.start()
        try:
            yield box
        finally:
            for server in (http, smtp):
                server.shutdown()
            for thread in threads:
                thread.join()


class _Smtp(socketserver.ThreadingTCPServer):
    daemon_threads = True


def _mail(readline: Callable[[], bytes]) -> EmailMessage:
    lines = []
    while (line := readline()) not in {b".\r\n", b""}:
        lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
    return message_from_bytes(b"".join(lines), policy=policy.default)
