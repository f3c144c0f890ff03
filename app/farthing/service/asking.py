"""How this host's own commands ask the service that runs here: with which token, and whose certificate they trust."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx

from farthing.domain.errors import ConfigError
from farthing.settings import Settings, read_secret

__all__ = ["ASKING_VARIABLE", "READ_TOKEN", "asking_headers", "system_tls", "trusted_tls"]

ASKING_VARIABLE: Final = "FARTHING_TOKEN"
READ_TOKEN: Final = "read-token"  # noqa: S105 - the name of a file
"""Name of the file beside the tokens that holds what this host's commands, and a native Prometheus, ask with."""


def asking_headers(settings: Settings, *, own: bool = True, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The header that opens what the service answers: the token of $FARTHING_TOKEN, else this host's own, else none.

    The latter is for the service of these settings (``own``) and shown to no other. A token that cannot be read, as
    another user's, is none: the answer says then that one is needed.
    """
    file = settings.tokens_file.parent / READ_TOKEN if own else None
    try:
        token = read_secret(ASKING_VARIABLE, file, dict(os.environ if environ is None else environ))
    except ConfigError:
        return {}
    return {"Authorization": f"Bearer {token}"} if token else {}


def system_tls() -> ssl.SSLContext:
    """What a client believes of a service elsewhere: whom this host trusts, those of $SSL_CERT_FILE and certifi's list.

    Containers may have no list of their own, and companies an authority of their own.
    """
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def trusted_tls(certificate: Path | None) -> ssl.SSLContext | bool:
    """What a client believes of the service on this host: its very certificate, or whom that chains up to.

    The name in it is what others call the host, so it is not compared: nobody else has the certificate's key. Without a
    certificate the service speaks HTTP, and the default holds. Raises ConfigError for a certificate that is none.
    """
    if certificate is None:
        return True
    try:
        context = ssl.create_default_context(cafile=str(certificate.expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"serve.tls_certificate: {certificate} is no certificate in PEM ({error})") from error
    context.check_hostname = False
    # the certificate itself is trusted, whoever signed it
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
