"""A Grafana as far as its documented HTTP API goes: health, folders, dashboards, search, and what it says of errors.

Shapes and statuses are those of docs/sources/developers/http_api/{dashboard,folder,folder_dashboard_search}.md in
Grafana's repository, the words of errors those of its pkg/services/dashboards/errors.go.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["LOGIN_PAGE", "TOKEN", "Answer", "StandInGrafana", "html", "json_answer", "stand_in_grafana"]

TOKEN = "glsa_1234567890abcdef_secret"
LOGIN_PAGE = "<!doctype html><html><head><title>Sign in</title></head><body>Log in</body></html>"

Answer = tuple[int, dict[str, str], bytes]


def json_answer(status: int, body: Any) -> Answer:
    """An answer in JSON."""
    return status, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(body).encode()


def html(status: int, page: str = LOGIN_PAGE, **headers: str) -> Answer:
    """An answer that is a page."""
    return status, {"Content-Type": "text/html; charset=utf-8", **headers}, page.encode()


class StandInGrafana:
    """What it stores, what it was asked, and what it is told to answer out of turn."""

    def __init__(self) -> None:
        self.url = ""
        self.release = "12.1.0"
        self.token = TOKEN
        self.role = "Editor"
        self.folders: dict[str, str] = {}
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.out_of_turn: list[Answer | None] = []
        """Answers to the next requests; None answers as ever, an empty list does so for good."""
        self.before_saving: Callable[[], None] = lambda: None
        self.refuse_folder: Answer | None = None

    def put(self, document: dict[str, Any], folder: str = "", **meta: Any) -> None:
        """Store a dashboard, as a person would."""
        uid = document["uid"]
        version = self.dashboards[uid]["dashboard"]["version"] + 1 if uid in self.dashboards else 1
        self.dashboards[uid] = {
            "dashboard": {**document, "id": len(self.dashboards) + 1, "version": version},
            "meta": {"isStarred": False, "url": f"/d/{uid}/x", "folderUid": folder, "updatedBy": "admin", **meta},
        }

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """What Grafana answers to one request."""
        split = urlsplit(target)
        self.asked.append((method, split.path))
        self.headers.append(headers)
        if body:
            self.bodies.append(json.loads(body))
        if self.out_of_turn and (first := self.out_of_turn.pop(0)) is not None:
            return first
        if split.path == "/api/health":
            return json_answer(200, {"database": "ok", "version": self.release, "commit": "0123456789"})
        if headers.get("authorization") != f"Bearer {self.token}":
            return json_answer(401, {"message": "Invalid API key", "messageId": "api-key.invalid", "statusCode": 401})
        if method == "POST" and self.role == "Viewer":
            text = "You'll need additional permissions to perform this action. Permissions needed: dashboards:write"
            return json_answer(403, {"accessErrorId": "ACE1", "message": text, "title": "Access denied"})
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        return self._route(method, split.path, query)

    def _route(self, method: str, path: str, query: dict[str, str]) -> Answer:
        if method == "POST":
            ways = {"/api/folders": self._create_folder, "/api/dashboards/db": self._save}
            return ways[path](self.bodies[-1])
        if path == "/api/folders":
            limit, page = int(query.get("limit", "1000")), int(query.get("page", "1"))
            found = list(self.folders.items())[(page - 1) * limit : page * limit]
            return json_answer(200, [{"id": 1, "uid": uid, "title": title} for uid, title in found])
        if path == "/api/search":
            of_tag = [one["dashboard"] for one in self.dashboards.values() if query["tag"] in one["dashboard"]["tags"]]
            return json_answer(200, [{"uid": one["uid"], "title": one["title"], "type": "dash-db"} for one in of_tag])
        folder, _, uid = path.rpartition("/")
        if folder == "/api/folders" and uid in self.folders:
            return json_answer(200, {"id": 1, "uid": uid, "title": self.folders[uid], "version": 1})
        if folder == "/api/dashboards/uid" and uid in self.dashboards:
            return json_answer(200, self.dashboards[uid])
        return json_answer(404, {"message": "not found", "status": "not-found"})

    def _create_folder(self, body: dict[str, str]) -> Answer:
        if self.refuse_folder is not None:
            return self.refuse_folder
        if body["uid"] in self.folders:
            text = "the folder has been changed by someone else"
            return json_answer(412, {"message": text, "status": "version-mismatch"})
        self.folders[body["uid"]] = body["title"]
        return json_answer(200, {"id": 1, "uid": body["uid"], "title": body["title"], "url": "/dashboards/f/x/x"})

    def _save(self, body: dict[str, Any]) -> Answer:
        self.before_saving()
        document, folder, overwrite = body["dashboard"], body["folderUid"], body["overwrite"]
        if folder and folder not in self.folders:
            return json_answer(400, {"message": "folder not found", "status": "not-found"})
        stored = self.dashboards.get(document["uid"])
        if stored and stored["meta"].get("provisioned"):
            return json_answer(400, {"message": "Cannot save provisioned dashboard"})
        if stored and not overwrite and document.get("version") != stored["dashboard"]["version"]:
            text = "The dashboard has been changed by someone else"
            return json_answer(412, {"message": text, "status": "version-mismatch"})
        self.put(document, folder)
        version = self.dashboards[document["uid"]]["dashboard"]["version"]
        return json_answer(200, {"id": 1, "uid": document["uid"], "status": "success", "version": version})


@contextmanager
def stand_in_grafana() -> Iterator[StandInGrafana]:
    """One that answers on a loopback port within the block."""
    grafana = StandInGrafana()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {key.lower(): value for key, value in self.headers.items()}
            status, more, body = grafana.answer(self.command, self.path, headers, self.rfile.read(length))
            self.send_response(status)
            for key, value in {**more, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            # whoever asked may have given up
            with suppress(BrokenPipeError, ConnectionResetError):
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815 - names that http.server calls

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    grafana.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield grafana
    finally:
        server.shutdown()
        server.server_close()
