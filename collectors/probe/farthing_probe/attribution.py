"""Who a request is booked to: by the map of API keys, by headers, or by a pseudonym of the key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from farthing_probe.settings import ATTRIBUTION, Settings

__all__ = ["attribute", "clamp", "pseudonym"]

LENGTHS = {"tenant": 256, "tier": 64}
PSEUDONYM = 16
"""Hexadecimal digits of a pseudonym."""


def attribute(headers: Mapping[bytes, bytes], settings: Settings) -> dict[str, str]:
    """The attribution of a request by its headers (lower-case names): the fields of a usage record that are known.

    A key that the map names decides the tenant, whatever headers claim. Users and keys are pseudonyms (HMAC-SHA-256
    under the salt) and are left out without a salt.
    """
    fields: dict[str, str] = {}
    if settings.trust_headers:
        for name in ATTRIBUTION:
            for header in settings.headers[name]:
                value = headers.get(header.encode("latin-1"))
                if value:
                    fields[name] = clamp(value.decode("utf-8", "replace").strip(), LENGTHS.get(name, 512))
                    break
    if "user" in fields:
        user = fields.pop("user")
        if settings.salt:
            fields["user"] = pseudonym(user.encode(), settings.salt)
    key = _key(headers)
    if key:
        tenant = settings.keys.get(hashlib.sha256(key).hexdigest()) if settings.keys else None
        if tenant:
            fields["tenant"] = clamp(tenant, 256)
        if settings.salt:
            fields["key_pseudonym"] = pseudonym(key, settings.salt)
            fields.setdefault("tenant", "key-" + fields["key_pseudonym"])
    return fields


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, credential = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and credential.strip():
        return credential.strip()
    return headers.get(b"x-api-key", b"").strip()


def pseudonym(value: bytes, salt: bytes) -> str:
    """What stands in records for a user or an API key under a salt: the first digits of its HMAC-SHA-256."""
    return hmac.new(salt, value, hashlib.sha256).hexdigest()[:PSEUDONYM]


def clamp(text: str, length: int) -> str:
    """Text that intake takes: no control characters, no longer than its column."""
    return "".join(each if each.isprintable() else "?" for each in text[:length])
