"""The client that commands reach a Grafana with: its URL, its token, its time-outs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import httpx
from rich.console import Console
from rich.progress import track

from farthing.cli.grafana_api import Grafana, shown_url
from farthing.domain.errors import ConfigError, GrafanaError
from farthing.settings_access import is_loopback

__all__ = ["TOKEN_VARIABLE", "grafana_at", "read_token", "with_progress"]

T = TypeVar("T")

TOKEN_VARIABLE: Final = "GRAFANA_TOKEN"  # noqa: S105 - a variable's name


@contextmanager
def grafana_at(url: str, token_file: Path | None, timeout_seconds: float) -> Iterator[Grafana]:
    """The Grafana at a base URL; proxies and certificates are those of the environment, except on this host."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise GrafanaError(f"--url {shown_url(url)}: is not a URL ({error}); enter https://grafana.example") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise GrafanaError(f"--url {shown_url(url)}: is not an http or https URL; enter https://grafana.example")
    token = read_token(token_file)
    with httpx.Client(timeout=timeout_seconds, trust_env=not is_loopback(parsed.host)) as client:
        yield Grafana(client, url, token)


def read_token(file: Path | None) -> str:
    """The token of a file, else of the environment, else none; ConfigError for a file without one."""
    if file is None:
        return _one_line(os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE)
    try:
        token = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"--token-file {file}: cannot be read ({reason})") from error
    if not token.strip():
        raise ConfigError(f"--token-file {file}: is empty; put the token of a service account into it")
    return _one_line(token, f"--token-file {file}")


def with_progress(things: Sequence[T], doing: str) -> Iterable[T]:
    """The things one by one, with a bar on standard error while it is a terminal."""
    console = Console(stderr=True)
    return track(things, description=doing, console=console, transient=True, disable=not console.is_terminal)


def _one_line(token: str, source: str) -> str:
    """The token without the newline that files end with; one that no header can carry is refused, and not shown."""
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{source}: is not a token: it has spaces, line breaks or other signs in it")
    return token
