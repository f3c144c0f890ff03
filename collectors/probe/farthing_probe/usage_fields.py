"""The numbers in an answer's ``usage``; nothing else of a body is ever parsed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["USAGE", "Told", "told_by"]

USAGE = b'"usage":{'
"""Where it begins. In a text of an answer the quotation marks are escaped, so that no text can hold these bytes."""
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Told:
    """Token counts as the client was told; None is unknown."""

    prompt: int | None = None
    cached: int | None = None
    image: int | None = None
    output: int | None = None


def told_by(body: bytes) -> Told:
    """The counts of the last ``usage`` in a body or in an event, in OpenAI's names or Anthropic's."""
    begin = body.rfind(USAGE)
    if begin < 0:
        return Told()
    try:
        usage, _ = json.JSONDecoder().raw_decode(body[begin + len(USAGE) - 1 :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):  # an integer may have more digits than Python reads
        return Told()
    details = _object(usage, "prompt_tokens_details") or _object(usage, "input_tokens_details")
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    cached = _count(details, "cached_tokens")
    if "cache_read_input_tokens" in usage:
        # Anthropic counts what came from the cache, and what went into it, beside the rest
        cached = _count(usage, "cache_read_input_tokens") or 0
        prompt = min(LARGEST, (prompt or 0) + cached + (_count(usage, "cache_creation_input_tokens") or 0))
    image = _count(_object(details, "multimodal_tokens"), "image")
    whole = prompt if prompt is not None else 0
    return Told(
        prompt=prompt,
        cached=None if cached is None else min(cached, whole),
        image=None if image is None else min(image, whole),
        output=_count(usage, "completion_tokens", "output_tokens"),
    )


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _count(fields: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST:
            return value
    return None
