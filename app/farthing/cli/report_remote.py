"""``farthing report --url``: the report of a service that runs elsewhere, of what a token opens there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx
import typer

from farthing.domain.errors import ConfigError, ServiceError
from farthing.exporters.report import printable
from farthing.service.asking import ASKING_VARIABLE, system_tls
from farthing.service.report_api import REPORT_PATH
from farthing.settings import read_secret
from farthing.settings_access import is_loopback

__all__ = ["ask", "print_remote_report"]

TIMEOUT_SECONDS: Final = 120.0
"""A report of years takes seconds on the service's side."""
MOST_SAID: Final = 300
"""Characters of what a service says that are passed on."""
MOST_BYTES: Final = 64 * 2**20
"""Of an answer; a report of years with every tenant is a part of it."""


def print_remote_report(url: str, token_file: Path | None, asked: Mapping[str, str | None]) -> None:
    """Print the answer of ``/api/v1/report`` with these parameters, as the service renders it.

    The token is the file's, else that of FARTHING_TOKEN, else none. Raises ConfigError for what is no URL or no token,
    ServiceError when the service is away or refuses.
    """
    answer = ask(url, token_file, REPORT_PATH, {name: value for name, value in asked.items() if value is not None})
    # whatever is at that address may say anything, terminal sequences too
    typer.echo("\n".join(map(printable, answer.decode(errors="replace").rstrip("\n").split("\n"))))


def ask(
    url: str, token_file: Path | None, path: str, parameters: Mapping[str, str], most_bytes: int = MOST_BYTES
) -> bytes:
    """What the service at a URL answers with status 200; the token is the file's, else FARTHING_TOKEN's, else none.

    Raises ConfigError for what is no URL or no token, ServiceError when the service is away, refuses, or answers more
    than so many bytes.
    """
    base = _base(url)
    token = _token(token_file)
    loopback = is_loopback(base.host)
    if token and base.scheme == "http" and not loopback:
        typer.echo(f"farthing: the token goes to {base.host} in the clear; serve it by https", err=True)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"{str(base).rstrip('/')}{path}"
    try:
        with (
            httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=not loopback, verify=system_tls()) as client,
            client.stream("GET", address, params=dict(parameters), headers=headers) as answer,
        ):
            said = _read(answer, most_bytes)
    except httpx.HTTPError as error:
        reason = printable(str(error)) or type(error).__name__
        raise ServiceError(f"{base}: does not answer ({reason}); is Farthing there?") from error
    if len(said) > most_bytes:
        raise ServiceError(f"{base}: answers more than {most_bytes >> 20} MiB; is Farthing there?")
    if answer.status_code != httpx.codes.OK:
        raise ServiceError(_refused(base, answer.status_code, said))
    return said


def _read(answer: httpx.Response, most_bytes: int) -> bytes:
    """The body, or of a larger one a little more than so many bytes."""
    said = bytearray()
    for chunk in answer.iter_bytes():
        said += chunk
        if len(said) > most_bytes:
            break
    return bytes(said)


def _base(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"--url: is not a URL ({error}); give https://farthing.example") from error
    if base.scheme not in {"http", "https"} or not base.host or base.userinfo or base.query or base.fragment:
        raise ConfigError("--url: give where Farthing is served and nothing else, for example https://farthing.example")
    return base


def _token(file: Path | None) -> str:
    source = ASKING_VARIABLE if file is None else f"--token-file {file}"
    try:
        # the file of the command line comes before the environment
        token = (read_secret(ASKING_VARIABLE, file, {} if file else None) or "").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: is not text; put a token into it") from error
    if file is not None and not token:
        raise ConfigError(f"{source}: is empty; put a token into it")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{source}: is not a token: it has spaces, line breaks or other signs in it")
    return token


def _refused(base: httpx.URL, status: int, answer: bytes) -> str:
    try:
        said = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    words = "".join(one if one.isprintable() else " " for one in str(said)[:MOST_SAID]).strip()
    if not words:
        words = "nothing that Farthing would say; is it there?"
    hint = f" (give one with --token-file or {ASKING_VARIABLE})" if status == httpx.codes.UNAUTHORIZED else ""
    return f"{base}: answers {status}: {words}{hint}"
