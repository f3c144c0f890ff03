"""What a span of an application's stage may say: counts, flags and identifiers, by name. Content has no name here."""

from __future__ import annotations

import functools
import logging
import operator
import re
from collections.abc import Mapping
from typing import Any

from farthing_probe import span_names as names

__all__ = ["FACTS", "Fact", "attributes_of"]

Fact = str | int | float | bool

log = logging.getLogger(__name__)

FACTS: Mapping[str, tuple[str, type]] = {
    "model": (names.ATTRIBUTE_MODEL, str),
    "provider": (names.ATTRIBUTE_PROVIDER, str),
    "source": ("gen_ai.data_source.id", str),
    "workflow": ("gen_ai.workflow.name", str),
    "finish_reason": (names.ATTRIBUTE_FINISH_REASONS, str),
    "request_id": (names.ATTRIBUTE_REQUEST_ID, str),
    "input_tokens": (names.ATTRIBUTE_INPUT_TOKENS, int),
    "output_tokens": (names.ATTRIBUTE_OUTPUT_TOKENS, int),
    "cached_tokens": (names.ATTRIBUTE_CACHED_TOKENS, int),
    "dimensions": ("gen_ai.embeddings.dimension.count", int),
    "texts": ("farthing.rag.texts", int),
    "candidates": ("farthing.rag.candidates", int),
    "documents": ("farthing.rag.documents", int),
    "size_bytes": ("farthing.rag.size_bytes", int),
    "duration_seconds": ("farthing.rag.duration_seconds", float),
    "similarity": ("farthing.rag.similarity", float),
    "hit": ("farthing.cache.hit", bool),
    "saved_nano_usd": ("farthing.cache.saved_nano_usd", int),
    "saved_estimate_nano_usd": ("farthing.cache.saved_estimate_nano_usd", int),
    "estimate_nano_usd": (names.ATTRIBUTE_ESTIMATE, int),
}
"""What a span takes, by the name that the application gives it: the attribute, and the type of its value."""

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+#-]{0,255}")
"""What a fact that is text may be: no blank, so that a sentence is none."""
MOST = (1 << 63) - 1
_WANTED = {
    str: "an identifier without blanks, of 256 characters at most",
    int: "a whole number from 0",
    float: "a number from 0",
    bool: "True or False",
}


def attributes_of(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """Attributes of a span, by their names; raises TypeError for a name that is not in ``FACTS``.

    A value that is not of its fact's type is left out, and never said.
    """
    attributes: dict[str, Any] = {}
    for name, given in facts.items():
        if name not in FACTS:
            raise TypeError(f"a span takes no {name!r}; it takes {', '.join(FACTS)}")
        attribute, kind = FACTS[name]
        value = _usable(given, kind)
        if value is None:
            _unusable(name)
        else:
            attributes[attribute] = (value,) if name == "finish_reason" else value
    return attributes


def _usable(given: Any, kind: type) -> Fact | None:
    if kind is str:
        return given if isinstance(given, str) and IDENTIFIER.fullmatch(given) else None
    if kind is bool or isinstance(given, (bool, str)):
        return given if kind is bool and isinstance(given, bool) else None
    try:
        value: int | float = operator.index(given) if kind is int else float(given)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if 0 <= value <= MOST else None  # nor what is no number


@functools.cache
def _unusable(name: str) -> None:
    """Say once of a fact that its values are left out; what they were is not said."""
    log.warning("a value of %r was left out of a span: it must be %s", name, _WANTED[FACTS[name][1]])
