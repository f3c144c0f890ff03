"""The secrets of a stack in containers: made by chance on first use, one folder per reader.

Each container mounts its own folder and no other. The containers' users differ, so what is not the service's own is
readable by everybody inside such a folder (0444): who may read is decided by who mounts it. The service's folder holds
more than its reader needs to show (hashes, the first token) and stays its owner's (0600).
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import bcrypt
import yaml

from farthing.domain.access import Scope
from farthing.domain.errors import ConfigError
from farthing.service.access_sessions import SESSION_KEY, new_session_key
from farthing.service.access_tokens import new_token, put_token, read_tokens, write_private
from farthing.service.asking import READ_TOKEN
from farthing.settings import TOKENS_FILE

__all__ = [
    "FIRST_TOKEN",
    "JAEGER_HEADERS",
    "TOKENS",
    "WEB_USER",
    "First",
    "init_secrets",
    "login_link",
    "make_tokens",
    "reveal_first",
    "reveal_secrets",
]

WEB_USER: Final = "farthing"
"""Who asks Prometheus and Alertmanager."""
FIRST_TOKEN: Final = "first-token"  # noqa: S105 - the name of a file
"""An administrator's token, until it has been shown."""
JAEGER_HEADERS: Final = "jaeger-headers"
"""With what Farthing delivers spans to Jaeger, as ``traces.headers_file`` reads it."""
TOKENS: Final = TOKENS_FILE.name
FIRST: Final = "first"
SERVICE: Final = "farthing"
READERS: Final = (SERVICE, "replay", "prometheus", "alertmanager", "grafana", "jaeger")
FOR_ALL: Final = 0o444
FOR_OWNER: Final = 0o600
PRIVATE_FOLDER: Final = 0o700
PASSWORD_BYTES: Final = 24
BCRYPT_COST: Final = 10
"""Prometheus' own advice; the passwords have 192 random bits."""


@dataclass(frozen=True, slots=True)
class First:
    """What a person needs to get in; shown once."""

    token: str
    grafana_password: str
    """Of the user ``admin``; empty where there is no Grafana."""


def init_secrets(folder: Path, now: datetime) -> None:
    """Make what is missing below ``folder`` and leave what is there, so that it may run before every start.

    A value that several readers share is taken from whoever has it. Raises ConfigError for what cannot be written.
    """
    folders = [folder / reader for reader in READERS]
    for each in folders:
        _make_folder(each)
    farthing, replay, prometheus, alertmanager, grafana, jaeger = folders
    make_tokens(farthing / TOKENS, now)
    _shared(new_token, (farthing / "intake-token", FOR_OWNER), (replay / "intake-token", FOR_ALL))
    scrape = _shared(new_token, (prometheus / "farthing-token", FOR_ALL))
    put_token(farthing / TOKENS, "prometheus", scrape, (Scope.READ_ALL,), now)
    _write_web(prometheus / "web.yml", _password(prometheus, farthing, grafana, jaeger))
    _write_web(alertmanager / "web.yml", _password(alertmanager, prometheus, grafana))
    traces = _password(jaeger, grafana)
    _write_htpasswd(jaeger / "htpasswd", traces)
    _write_headers(farthing / JAEGER_HEADERS, traces)
    _shared(_new_password, (grafana / "admin-password", FOR_ALL))
    # what Grafana encrypts its sources' passwords with; its own default is known to everybody
    _shared(_new_password, (grafana / "secret-key", FOR_ALL))


def make_tokens(tokens: Path, now: datetime) -> None:
    """Tokens, and what signs sessions beside them: an administrator's to be shown, and this host's own.

    The first token is made where there are no tokens at all, and not again once it was shown.
    """
    folder = tokens.parent
    _make_folder(folder, PRIVATE_FOLDER)
    first = folder / FIRST_TOKEN
    if _there(first) or read_tokens(tokens) is None:
        put_token(tokens, FIRST, _shared(new_token, (first, FOR_OWNER)), (Scope.ADMIN,), now)
    own = _shared(new_token, (folder / READ_TOKEN, FOR_OWNER))
    put_token(tokens, "local", own, (Scope.READ_ALL,), now)
    _shared(new_session_key, (folder / SESSION_KEY, FOR_OWNER))


def reveal_secrets(folder: Path, show: Callable[[First], None]) -> bool:
    """Show what a person needs to get in, and forget the plain token; False when it was shown before."""
    return reveal_first(folder / SERVICE / FIRST_TOKEN, folder / "grafana/admin-password", show)


def reveal_first(file: Path, grafana_password: Path, show: Callable[[First], None]) -> bool:
    """Show a first token and Grafana's password, and remove the token's file; False when it is gone."""
    token = _there(file)
    if not token:
        return False
    show(First(token, _there(grafana_password)))
    file.unlink()
    return True


def login_link(url: str, token: str) -> str:
    """What logs a browser in; what follows the # is never sent to a server, so that no log has it."""
    return f"{url.rstrip('/')}/login#token={token}"


def _make_folder(folder: Path, mode: int = 0o777) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be created ({error.strerror}); choose a writable folder") from error


def _there(path: Path) -> str:
    """What a file holds, without its line break; empty when it is missing."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); run this as the file's owner") from error


def _shared(make: Callable[[], str], *places: tuple[Path, int]) -> str:
    """One value at several places, each with its mode: the first that is there, else a new one."""
    value = next(filter(None, (_there(path) for path, _ in places)), "") or make()
    for path, mode in places:
        if _there(path) != value:
            write_private(path, value + "\n", mode)
    return value


def _password(part: Path, *askers: Path) -> str:
    """What a part demands: in its own folder, and by the part's name in the folder of each that asks it."""
    copies = ((asker / f"{part.name}-password", FOR_OWNER if asker.name == SERVICE else FOR_ALL) for asker in askers)
    return _shared(_new_password, (part / "password", FOR_ALL), *copies)


def _new_password() -> str:
    return secrets.token_urlsafe(PASSWORD_BYTES)


def _write_web(path: Path, password: str) -> None:
    """What ``--web.config.file`` of Prometheus and Alertmanager reads, unless it holds that password already."""
    if _holds(_there(path), password):
        return
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(BCRYPT_COST)).decode()
    write_private(path, yaml.safe_dump({"basic_auth_users": {WEB_USER: hashed}}), FOR_ALL)


def _write_htpasswd(path: Path, password: str) -> None:
    """What the basicauth extension of Jaeger reads; it knows bcrypt by the prefixes 2a and 2y alone."""
    user, _, hashed = _there(path).partition(":")
    with contextlib.suppress(ValueError):  # a hash that is none
        if user == WEB_USER and bcrypt.checkpw(password.encode(), hashed.encode()):
            return
    salt = bcrypt.gensalt(BCRYPT_COST, prefix=b"2a")
    write_private(path, f"{WEB_USER}:{bcrypt.hashpw(password.encode(), salt).decode()}\n", FOR_ALL)


def _write_headers(path: Path, password: str) -> None:
    """A line of HTTP's basic authentication (RFC 7617), unless it is there already."""
    login = base64.b64encode(f"{WEB_USER}:{password}".encode()).decode()
    line = f"authorization: Basic {login}"
    if _there(path) != line:
        write_private(path, f"{line}\n", FOR_OWNER)


def _holds(web: str, password: str) -> bool:
    try:
        hashed = str(yaml.safe_load(web)["basic_auth_users"][WEB_USER])
        return bcrypt.checkpw(password.encode(), hashed.encode())
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        return False
