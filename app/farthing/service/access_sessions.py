"""Sessions of the page: a signed cookie that names a token and ends with it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import math
import secrets
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from farthing.domain.errors import ConfigError
from farthing.service.access_tokens import Token, Tokens, write_private

__all__ = ["SESSION_KEY", "Sessions", "new_session_key", "session_key"]

SESSION_KEY: Final = "session-key"
"""Name of the file beside the tokens."""
KEY_BYTES = 32
_log = logging.getLogger(__name__)


def new_session_key() -> str:
    """256 random bits, in hexadecimal."""
    return secrets.token_hex(KEY_BYTES)


def session_key(folder: Path) -> bytes:
    """What signs sessions: kept beside the tokens, so that they outlive a restart; else one for this run alone."""
    path = folder / SESSION_KEY
    try:
        text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if not text:
            text = new_session_key()
            write_private(path, text + "\n")
        return text.encode()
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        _log.warning("logins end when the service does: their key cannot be kept (%s)", error)
        return secrets.token_bytes(KEY_BYTES)


class Sessions:
    """Makes and reads the cookie's value: the token's name, the end in seconds since the epoch, and a signature of both
    and of the token's hash. It holds nothing that opens anything elsewhere, and no state is kept.
    """

    def __init__(self, key: Callable[[], bytes], hours: float, clock: Callable[[], float]) -> None:
        """``key`` is asked for once, when there is a session to sign; ``clock`` gives seconds since the epoch."""
        self._key = cache(key)
        self.seconds = max(1, math.ceil(hours * 3_600))
        self._clock = clock

    def begin(self, token: Token) -> str:
        """The cookie's value for somebody who showed ``token``."""
        until = int(self._clock()) + self.seconds
        return f"{_encoded(token.name)}.{until}.{self._signature(token, until)}"

    def find(self, cookie: str, tokens: Tokens) -> Token | None:
        """The token that a session stands for; None when it ended, its token is gone, or it is none of ours."""
        parts = cookie.split(".")
        if len(parts) != 3 or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) < 16):
            return None
        try:
            name = base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)).decode()
        except (binascii.Error, ValueError):
            return None
        token, until = tokens.by_name.get(name), int(parts[1])
        # base64 has several spellings of one name
        if token is None or until <= self._clock() or _encoded(name) != parts[0]:
            return None
        known = hmac.compare_digest(self._signature(token, until).encode(), parts[2].encode("utf-8", "replace"))
        return token if known else None

    def _signature(self, token: Token, until: int) -> str:
        told = f"{token.name}\n{token.sha256}\n{until}".encode()
        return hmac.new(self._key(), told, hashlib.sha256).hexdigest()


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
