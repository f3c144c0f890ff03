"""``serve``: where Farthing listens, what it takes in, and whom it lets in."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from farthing.domain.conventions import DEFAULT_PORT

__all__ = ["Port", "ServeSettings", "is_loopback"]

Port = Annotated[int, Field(ge=1, le=65535)]


class ServeSettings(BaseModel):
    """The HTTP server of ``farthing serve``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: Port = DEFAULT_PORT
    token_file: Path | None = None
    """File with a bearer token that opens intake and nothing else; FARTHING_INTAKE_TOKEN overrides it. None: no such
    token."""
    tokens_file: Path | None = None
    """File with the hashes of tokens and what each opens, made by `farthing tokens add`. Where it exists a token or a
    login is demanded; it is read again when it changes. None: `secrets/tokens.yaml` in `stack.state_dir`."""
    session_hours: Annotated[float, Field(gt=0, le=24 * 365)] = 12.0
    """How long a login of the page lasts; it ends sooner when its token is removed."""
    tls_certificate: Path | None = None
    """Certificate in PEM, with its chain: Farthing speaks HTTPS. None: HTTP, see [security.md](security.md)."""
    tls_key: Path | None = None
    """Private key of `tls_certificate` in PEM, without a passphrase."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    """Largest decompressed body that intake accepts."""
    intake_bodies_per_second: Annotated[float, Field(gt=0)] = 200.0
    """Bodies that one client address may post, over ten seconds; more are answered with 429 and sent again later."""
    intake_bytes_per_second: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    """Decompressed bytes that intake takes from all senders together, over ten seconds."""

    @model_validator(mode="after")
    def _certificate_with_key(self) -> ServeSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            there, missing = ("tls_key", "tls_certificate") if self.tls_key else ("tls_certificate", "tls_key")
            raise ValueError(f"{there} is set and {missing} is not; set both, or neither")
        return self

    @property
    def scheme(self) -> str:
        """What its addresses begin with."""
        return "http" if self.tls_certificate is None else "https"

    @property
    def on_loopback(self) -> bool:
        """Whether only this host reaches it; a name other than localhost counts as reached by others."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether only this host is reached by an address or a name; of names by localhost alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
