"""From the settings to who is let in."""

from __future__ import annotations

import logging
import ssl
import time
from functools import partial
from pathlib import Path

from farthing.domain.errors import ConfigError
from farthing.service.access import Access
from farthing.service.access_sessions import Sessions, session_key
from farthing.service.access_tokens import TokenFile
from farthing.settings import TOKEN_VARIABLE, Settings, read_secret

__all__ = ["access_of", "note_if_open", "readers_of", "tls_files"]

_log = logging.getLogger(__name__)


def access_of(settings: Settings) -> Access:
    """Who is let in by these settings.

    Raises ConfigError for an empty intake token, for tokens that cannot be read, and when others than this host's
    users would reach a service that asks nobody for a token.
    """
    intake = read_secret(TOKEN_VARIABLE, settings.serve.token_file)
    if intake is not None and not intake.strip():
        raise ConfigError("the intake token is empty; write one into serve.token_file or remove the setting")
    path = settings.tokens_file
    tokens = TokenFile(path)
    if not tokens.now and not settings.serve.on_loopback:
        raise ConfigError(
            f"serve.host {settings.serve.host} is reached by others, and {path} has no token: what is served would "
            "be open to them; run `farthing tokens add NAME --scope admin` first, or set serve.host to 127.0.0.1"
        )
    sessions = Sessions(partial(session_key, path.parent), settings.serve.session_hours, time.time)
    return Access(tokens, intake, sessions)


def readers_of(settings: Settings) -> Access:
    """Who may read what an agent tells of devices: those with a token where the settings name a file of them.

    Raises ConfigError when that file is not there or cannot be read.
    """
    path = settings.serve.tokens_file
    if path is None:
        return Access()
    tokens = TokenFile(path.expanduser())
    if tokens.now is None:
        raise ConfigError(
            f"serve.tokens_file: {path} is not there; run `farthing tokens add`, or leave the setting out"
        )
    return Access(tokens)


def note_if_open(access: Access, settings: Settings) -> None:
    """Log that nobody is asked for a token, where that is so."""
    if access.open_to is not None:
        _log.info(
            "everybody on this host may read: there are no tokens in %s; make one with `farthing tokens add`",
            settings.tokens_file,
        )


def tls_files(settings: Settings) -> tuple[Path, Path] | None:
    """Certificate and key that the service shows, None for plain HTTP.

    Raises ConfigError when they are no pair, cannot be read, or the key has a passphrase that nobody could enter.
    """
    certificate, key = settings.serve.tls_certificate, settings.serve.tls_key
    if certificate is None or key is None:
        return None
    certificate, key = certificate.expanduser(), key.expanduser()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"serve.tls_certificate {certificate} and serve.tls_key {key} are no certificate and its key in PEM "
            f"({' '.join(str(error).split())}); give both, the key without a passphrase"
        ) from error
    return certificate, key
