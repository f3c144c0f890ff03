"""The bytes of an audit trail, so that it can be checked with SHA-256 alone.

A day's file has one record a line: ``HASH SP JSON LF``. JSON is ASCII without a line end, and begins with the record's
number: ``{"n":12,``. Numbers go up by one from 1 through all files. HASH is 64 lower-case hexadecimal digits,

    HASH(n) = SHA-256(HASH(n - 1) SP SHA-256(JSON(n)))

both written as such digits, with 64 zeros before the first record. Since a record enters by its digest, a part of a
trail can be proved without showing the rest of it.

``anchors`` and ``head`` have lines ``HASH SP MAC SP JSON LF``. MAC is the HMAC-SHA-256 of ``NAME SP HASH`` under the
operator's key, in such digits, or ``-`` without a key; NAME is the file's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.domain.clock import utc

__all__ = [
    "ANCHORS",
    "DATE",
    "GENESIS",
    "HEAD",
    "SUFFIX",
    "Signed",
    "day_of",
    "digest",
    "encoded",
    "file_name",
    "link",
    "mac",
    "parse_signed",
    "signed_line",
]

GENESIS = "0" * 64
"""What stands for the hash before the first record, and before the first anchor."""
ANCHORS, HEAD, SUFFIX = "anchors", "head", ".audit"
"""Names of the files: of anchors, of the last record, and what a day's file ends with."""
UNSIGNED = "-"
_FIELDS: dict[str, dict[str, dict[str, type]]] = {
    ANCHORS: {
        "day": {
            "a": int,
            "day": str,
            "records": int,
            "first_n": int,
            "last_n": int,
            "previous": str,
            "last": str,
            "bytes": int,
            "sha256": str,
        },
        "removed": {"a": int, "at": str, "through": str, "days": int, "records": int, "last": str},
    },
    HEAD: {"head": {"day": str, "n": int, "hash": str, "bytes": int, "anchor": str}},
}
"""What lines of each kind have to say, by the file that they stand in."""
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
"""A day, which names a file."""
_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNED = re.compile(rb"([0-9a-f]{64}) ([0-9a-f]{64}|-) (\{[\x20-\x7e]*\})\n")


@dataclass(frozen=True, slots=True)
class Signed:
    """A line of ``anchors`` or ``head``."""

    hash: str
    mac: str
    """``-``: unsigned."""
    content: dict[str, Any]
    line: bytes
    """As it is in the file, with its line end."""

    @property
    def is_signed(self) -> bool:
        """Whether there is a MAC."""
        return self.mac != UNSIGNED


def encoded(content: Mapping[str, Any]) -> bytes:
    """JSON in ASCII, in the order of ``content``, without a line end in it."""
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def digest(body: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def link(previous: str, digest_: str) -> str:
    """The hash of a record whose JSON has this digest, after one with the hash ``previous``."""
    return hashlib.sha256(f"{previous} {digest_}".encode("latin-1")).hexdigest()


def mac(key: bytes, name: str, hash_: str) -> str:
    """The signature of a hash in the file ``name`` (RFC 2104 with SHA-256)."""
    return hmac.new(key, f"{name} {hash_}".encode("ascii"), hashlib.sha256).hexdigest()


def signed_line(name: str, previous: str, content: Mapping[str, Any], key: bytes | None) -> Signed:
    """A line for the file ``name`` after one with the hash ``previous``."""
    body = encoded(content)
    hash_ = link(previous, digest(body))
    signature = mac(key, name, hash_) if key else UNSIGNED
    return Signed(hash_, signature, dict(content), b"%b %b %b\n" % (hash_.encode(), signature.encode(), body))


def parse_signed(name: str, previous: str, line: bytes, keys: Sequence[bytes]) -> tuple[Signed | None, str]:
    """A line of the file ``name`` after one with the hash ``previous``, and what is wrong with it, empty if nothing.

    The line is None where its form is. A MAC is checked when there are ``keys``; any of them may have made it.
    """
    found = _SIGNED.fullmatch(line)
    if found is None:
        return None, "is not of the form HASH MAC JSON"
    hash_, signature, body = found[1].decode(), found[2].decode(), found[3]
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None, "is no JSON"
    signed = Signed(hash_, signature, content, line)
    if not _is_complete(name, content):
        return None, "says something else than it has to"
    if link(previous, digest(body)) != hash_:
        return signed, "was altered, or what is before it: its hash is not that of its content"
    if keys and signed.is_signed and not any(hmac.compare_digest(mac(key, name, hash_), signature) for key in keys):
        return signed, "is not signed with the key that was given"
    return signed, ""


def _is_complete(name: str, content: Mapping[str, Any]) -> bool:
    """Whether a line of the file ``name`` says all that it has to; only a head may be of no day."""
    fields = _FIELDS[name].get(str(content.get("kind")))
    if fields is None or not all(type(content.get(field)) is type_ for field, type_ in fields.items()):
        return False
    days = [content[field] for field in ("day", "through") if field in fields]
    hashes = [content[field] for field in ("previous", "last", "sha256", "hash", "anchor") if field in fields]
    return all(map(_HASH.fullmatch, hashes)) and all(DATE.fullmatch(day) or (name == HEAD and not day) for day in days)


def day_of(ns: int) -> str:
    """The UTC day of a time in nanoseconds since the epoch: ``2026-11-27``."""
    return utc(ns).date().isoformat()


def file_name(day: str) -> str:
    """The name of a day's file."""
    return f"{day}{SUFFIX}"
