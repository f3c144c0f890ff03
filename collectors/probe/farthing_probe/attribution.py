"""Who a request is booked to: by the map of API keys, by headers, or by a pseudonym of the key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from farthing_probe.settings import ATTRIBUTION, Settings

__all__ = ["Attribution", "attribute", "clamp", "pseudonym"]

LENGTHS = {"tenant": 256, "tier": 64}
PSEUDONYM = 16
"""Hexadecimal digits of a pseudonym."""


@dataclass(frozen=True)
class Attribution:
    """``fields`` are those of a usage record that are known; ``trace_id`` is the caller's, or empty."""

    fields: dict[str, str] = field(default_factory=dict)
    trace_id: str = ""


def attribute(headers: Mapping[bytes, bytes], settings: Settings) -> Attribution:
    """The attribution of a request by its headers (lower-case names).

    A key that the map names decides the tenant, whatever headers claim. Users are pseudonyms (HMAC-SHA-256 under
    the salt) and are left out without a salt; so are keys that no map names.
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
        elif "tenant" not in fields and settings.salt:
            fields["tenant"] = "key-" + pseudonym(key, settings.salt)
    return Attribution(fields, _trace_id(headers.get(b"traceparent", b"")))


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, credential = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and credential.strip():
        return credential.strip()
    return headers.get(b"x-api-key", b"").strip()


def pseudonym(value: bytes, salt: bytes) -> str:
    """What stands in records for a user or an API key under a salt: the first digits of its HMAC-SHA-256."""
    return hmac.new(salt, value, hashlib.sha256).hexdigest()[:PSEUDONYM]


def _trace_id(header: bytes) -> str:
    """Of a W3C traceparent: version, trace id, parent id, flags."""
    parts = header.split(b"-")
    if len(parts) < 4 or len(parts[1]) != 32:
        return ""
    trace = parts[1].decode("latin-1").lower()
    return trace if set(trace) <= set("0123456789abcdef") and set(trace) != {"0"} else ""


def clamp(text: str, length: int) -> str:
    """Text that intake takes: no control characters, no longer than its column."""
    return "".join(each if each.isprintable() else "?" for each in text[:length])
