"""Stands in for ``farthing serve`` and ``farthing replay``: same flags, same pages, none of the work.

The replay delivers one record with the intake token and ends with 3 when it is refused, as a wrong token must show.
"""

import argparse
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from farthing.service.access_tokens import read_tokens
from farthing.settings import Settings, load_settings, read_secret

METRICS = {
    "serve": '# TYPE farthing_build_info gauge\nfarthing_build_info{version="0"} 1\n',
    "replay": '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="m"} 1\n',
}


class Handler(BaseHTTPRequestHandler):
    """Answers what the stack asks of either command."""

    command_name = ""
    token: str | None = None
    tokens: Path | None = None
    """Those that may read; None: everybody may."""

    def do_GET(self) -> None:
        """Be ready, and be scraped."""
        found = self.path in {"/readyz", "/metrics"}
        if self.path == "/metrics" and self.tokens is not None and not self._known(self.tokens):
            self._answer(401, "")
            return
        self._answer(200 if found else 404, METRICS[self.command_name] if self.path == "/metrics" else "ok\n")

    def do_POST(self) -> None:
        """Take a record from those who know the token."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        known = self.headers.get("authorization") == f"Bearer {self.token}"
        self._answer(200 if known else 401, "")

    def _known(self, file: Path) -> bool:
        scheme, _, credential = self.headers.get("authorization", "").partition(" ")
        tokens = read_tokens(file)
        return scheme == "Bearer" and tokens is not None and tokens.find(credential.encode()) is not None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing: the logs of these tests are read by people."""

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve")
    replay = commands.add_parser("replay")
    for command in (serve, replay):
        command.add_argument("--config", type=Path, required=True)
    replay.add_argument("name")
    replay.add_argument("--port", type=int, required=True)
    replay.add_argument("--lead", type=float, required=True)
    replay.add_argument("--loop", action="store_true", required=True)
    replay.add_argument("--to", required=True)
    replay.add_argument("--engine-name", required=True)
    chosen = parser.parse_args()
    settings = load_settings(chosen.config)
    if chosen.command == os.environ.get("STAND_IN_FAILS"):
        sys.stdout.write("the stand-in was told to fail\n")
        return 9
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Handler.command_name = chosen.command
    Handler.token = read_secret("FARTHING_INTAKE_TOKEN", settings.serve.token_file)
    Handler.tokens = settings.serve.tokens_file if chosen.command == "serve" else None
    if chosen.command == "replay" and not _deliver(chosen.to, settings):
        return 3
    port = chosen.port if chosen.command == "replay" else settings.serve.port
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
    return 0


def _deliver(to: str, settings: Settings) -> bool:
    request = urllib.request.Request(f"{to}/v1/usage", data=b"{}", method="POST")
    request.add_header("authorization", f"Bearer {read_secret('FARTHING_INTAKE_TOKEN', settings.serve.token_file)}")
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except urllib.error.HTTPError:
            return False
        except OSError:
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
