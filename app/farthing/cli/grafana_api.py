"""A running Grafana, as the HTTP API of its releases 10 to 13 shows it: health, folders, dashboards, search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import quote

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random
from tenacity.wait import wait_base

from farthing.domain.errors import GrafanaError

__all__ = ["ConflictError", "Folder", "Grafana", "Stored", "shown_url"]

TRIES: Final = 4
# together about two seconds: a restart is over then, or takes too long to wait for
WAIT: Final[wait_base] = wait_exponential(multiplier=0.2, max=2) + wait_random(0, 0.2)
PASSING: Final = frozenset((429, 502, 503, 504))
PAGE: Final = 1000
"""Folders that one answer holds at most."""
PAGES: Final = 100
SAID_AT_MOST: Final = 200


class ConflictError(GrafanaError):
    """Grafana keeps one dashboard from being saved; others may be. ``status`` is its word for the reason."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class _PassingError(Exception):
    """What may be over a moment later; its text says what it was."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of dashboards; the root has no uid."""

    uid: str
    title: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A dashboard as Grafana keeps it: its JSON, the uid of its folder, who changed it last."""

    dashboard: Mapping[str, Any]
    folder_uid: str
    version: int
    updated_by: str
    provisioned: bool


class Grafana:
    """Talks to one Grafana; GrafanaError, in one line and without secrets, when it is away or refuses.

    ``token`` is a service account's, or empty: then a name and password in the URL serve, or nothing. What may pass
    (no connection, 429, 502 to 504) is tried ``TRIES`` times, with ``wait`` between.
    """

    def __init__(self, client: httpx.Client, url: str, token: str = "", wait: wait_base = WAIT) -> None:  # nosec B107
        self._client = client
        self._url = url.rstrip("/")
        self._headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._known = bool(token) or "@" in url
        self._wait = wait
        self.url = shown_url(self._url)

    def version(self) -> str:
        """Its release, as it tells without a login; GrafanaError when it is no Grafana."""
        health = self._get("/api/health")
        if not isinstance(health, dict) or "database" not in health:
            raise GrafanaError(
                f"{self.url}: no Grafana answers here: /api/health is missing or another program's; {_BASE}"
            )
        return str(health.get("version") or "unknown")

    def folder(self, uid: str) -> Folder | None:
        """The folder of a uid; None when there is none."""
        found = self._get(f"/api/folders/{quote(uid, safe='')}")
        with self._as_documented("/api/folders"):
            return None if found is None else Folder(str(found["uid"]), str(found["title"]))

    def folders(self) -> Iterator[Folder]:
        """Every folder at the top that the token may see."""
        for page in range(1, PAGES + 1):
            answer = self._get("/api/folders", {"limit": str(PAGE), "page": str(page)})
            with self._as_documented("/api/folders"):
                found = [Folder(str(one["uid"]), str(one["title"])) for one in answer or ()]
            yield from found
            if len(found) < PAGE:
                return

    def create_folder(self, uid: str, title: str) -> Folder:
        """The folder, made now or, where that is refused because it is there, found."""
        answer = self._send("POST", "/api/folders", {"uid": uid, "title": title})
        # releases tell of a folder that exists by 409 or 412; 400 of a uid that is taken
        if answer.status_code in {400, 409, 412}:
            there = self.folder(uid) or next((one for one in self.folders() if one.title == title), None)
            if there is None:
                self._refused(answer, "folders:create")
            return there
        made = self._json(answer, "folders:create")
        with self._as_documented("/api/folders"):
            return Folder(str(made["uid"]), str(made["title"]))

    def dashboard(self, uid: str) -> Stored | None:
        """The dashboard of a uid; None when there is none."""
        found = self._get(f"/api/dashboards/uid/{quote(uid, safe='')}", needs="dashboards:read")
        if found is None:
            return None
        with self._as_documented("/api/dashboards/uid"):
            meta = found["meta"]
            return Stored(
                dashboard=found["dashboard"],
                folder_uid=str(meta.get("folderUid") or ""),
                version=int(found["dashboard"].get("version") or meta.get("version") or 0),
                updated_by=str(meta.get("updatedBy") or "somebody"),
                provisioned=bool(meta.get("provisioned")),
            )

    def tagged(self, tag: str) -> dict[str, str]:
        """uid -> title of every dashboard with a tag."""
        found = self._get("/api/search", {"type": "dash-db", "tag": tag, "limit": "5000"})
        with self._as_documented("/api/search"):
            return {str(one["uid"]): str(one["title"]) for one in found or ()}

    def save(self, dashboard: Mapping[str, Any], *, folder_uid: str, overwrite: bool, message: str) -> None:
        """Store the dashboard in a folder; ConflictError when Grafana keeps what it has."""
        body = {
            "dashboard": {**dashboard, "id": None},
            "folderUid": folder_uid,
            "overwrite": overwrite,
            "message": message,
        }
        answer = self._send("POST", "/api/dashboards/db", body)
        if answer.status_code in {400, 404, 409, 412}:
            told = _told(answer)
            raise ConflictError(
                f"{dashboard['uid']}: {_sentence(told)} ({answer.status_code})", str(told.get("status") or "")
            )
        self._json(answer, "dashboards:create, dashboards:write")

    def _get(self, path: str, params: Mapping[str, str] | None = None, needs: str = "folders:read") -> Any:
        """The JSON of a path; None where Grafana knows of no such thing."""
        answer = self._send("GET", path, params=params)
        if answer.status_code == 404:
            self._json(answer, needs, expected=404)
            return None
        return self._json(answer, needs)

    def _json(self, answer: httpx.Response, needs: str, expected: int = 200) -> Any:
        """The body of an answer that is as expected, else GrafanaError."""
        if answer.status_code != expected:
            self._refused(answer, needs)
        try:
            return answer.json()
        except ValueError as error:
            raise GrafanaError(
                f"{self.url}: answers {answer.request.url.path} with a page instead of JSON (a login page, or another "
                f"program's); {_BASE}"
            ) from error

    @contextmanager
    def _as_documented(self, path: str) -> Iterator[None]:
        """GrafanaError where an answer is JSON of another form than Grafana's documents give."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise GrafanaError(f"{self.url}: answers {path} with JSON that is not Grafana's; {_BASE}") from error

    def _refused(self, answer: httpx.Response, needs: str) -> NoReturn:
        """Tell of an answer that is an error."""
        code, said = answer.status_code, _sentence(_told(answer))
        if answer.is_redirect:
            place = shown_url(answer.headers.get("location", "another place"))
            raise GrafanaError(
                f"{self.url}: sends on to {place}; give the URL that it ends at, or a token if that is a login"
            )
        if code == 401:
            missing = "is not valid here (expired, deleted or another Grafana's)" if self._known else "is missing"
            raise GrafanaError(f"{self.url}: the token {missing} (401: {said}); set GRAFANA_TOKEN or --token-file")
        if code == 403:
            raise GrafanaError(
                f"{self.url}: the token may not do this (403: {said}); it needs {needs}, as role Editor has"
            )
        raise GrafanaError(f"{self.url}: refuses {answer.request.url.path} ({code}: {said})")

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """The answer, whatever its status, tried again while what kept it may pass."""
        try:
            for attempt in Retrying(
                stop=stop_after_attempt(TRIES),
                wait=self._wait,
                retry=retry_if_exception_type(_PassingError),
                reraise=True,
            ):
                with attempt:
                    return self._once(method, path, body, params)
        except _PassingError as error:
            raise GrafanaError(f"{self.url}: {error}; tried {TRIES} times; is Grafana running there?") from error
        raise AssertionError("a try that neither answered nor failed")

    def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None, params: Mapping[str, str] | None
    ) -> httpx.Response:
        try:
            answer = self._client.request(method, self._url + path, json=body, params=params, headers=self._headers)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            raise GrafanaError(
                f"{self.url}: is not a URL ({error}); enter for example https://grafana.example"
            ) from error
        except httpx.TimeoutException as error:
            raise _PassingError("does not answer in time") from error
        except httpx.TransportError as error:
            raise _PassingError(f"does not answer ({' '.join(str(error).split()) or type(error).__name__})") from error
        if answer.status_code in PASSING:
            raise _PassingError(f"answers {answer.status_code} ({_sentence(_told(answer))})")
        return answer


_BASE: Final = "give Grafana's base URL, with its sub-path if it has one"


def shown_url(url: str) -> str:
    """The URL without name and password, for messages."""
    scheme, sign, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{sign}{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def _told(answer: httpx.Response) -> Mapping[str, Any]:
    """What Grafana says of an error: ``message`` and, for conflicts, ``status``."""
    try:
        told = answer.json()
    except ValueError:
        told = None
    if isinstance(told, dict):
        return told
    kind = answer.headers.get("content-type", "").partition(";")[0]
    return {"message": "a page of HTML" if kind == "text/html" else answer.text or answer.reason_phrase}


def _sentence(told: Mapping[str, Any]) -> str:
    said = " ".join(str(told.get("message") or told.get("error") or "no reason given").split())
    return said[:SAID_AT_MOST].rstrip(".")
