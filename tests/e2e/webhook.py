"""A webhook that keeps what Alertmanager posts to it."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Webhook"]


class Webhook:
    """Listens on a loopback port; ``messages`` are the JSON bodies, oldest first."""

    def __init__(self):
        self.messages: list[dict[str, Any]] = []
        received = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait_for(self, alert, seconds):
        """The first firing alert of a name; fails when none comes in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for message in list(self.messages):
                for found in message["alerts"]:
                    if found["labels"]["alertname"] == alert and found["status"] == "firing":
                        return found
            time.sleep(0.5)
        raise AssertionError(f"{alert} did not reach the webhook in {seconds} s; came: {self.messages}")

    def close(self):
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
