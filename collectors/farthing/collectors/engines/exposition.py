"""A Prometheus text or OpenMetrics exposition as samples, or an error that says what came instead.

Format: Prometheus text format 0.0.4 and OpenMetrics 1.0, read by prometheus_client's own parsers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from farthing.domain.errors import ExpositionError

__all__ = ["Exposition", "Sample", "parse_exposition"]

_OPENMETRICS = "application/openmetrics-text"
_SHOWN = 60
"""Characters of a wrong body that an error quotes: enough to recognise it, short enough for one line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of an exposition; ``value`` may be NaN or infinite."""

    name: str
    labels: Mapping[str, str]
    value: float


class Exposition:
    """The samples of one scrape, in order, found by name."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    def __iter__(self) -> Iterator[Sample]:
        for samples in self._by_name.values():
            yield from samples

    def __len__(self) -> int:
        return sum(len(samples) for samples in self._by_name.values())

    def find(self, name: str, where: Mapping[str, str] | None = None) -> list[Sample]:
        """Samples of that name whose labels have every value of ``where``."""
        wanted = (where or {}).items()
        return [
            sample
            for sample in self._by_name.get(name, ())
            if all(sample.labels.get(label) == value for label, value in wanted)
        ]


def parse_exposition(body: bytes, content_type: str, url: str) -> Exposition:
    """The exposition in ``body``, whole; ``url`` is what errors call it.

    A body that ends within a line is refused, because its last number may have lost digits: the text
    format ends every line with a line feed, OpenMetrics ends with ``# EOF``.

    Raises ExpositionError, in one line: the URL, what came (kind, content type, first characters), the fix.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _refusal(url, "bytes that are not UTF-8 text", body, content_type) from None
    if not text.strip():
        raise _refusal(url, "an empty body", body, content_type)
    openmetrics = content_type.strip().lower().startswith(_OPENMETRICS)
    if not openmetrics and not text.endswith("\n"):
        raise _refusal(url, _kind_of(text) or "an exposition cut off within its last line", body, content_type)
    parse = parse_openmetrics if openmetrics else parse_text
    try:
        samples = list(_samples(parse(text)))
    # the parsers index into lines before they have checked them, so garbage raises IndexError as well
    except (ValueError, LookupError) as error:
        what = _kind_of(text) or f"text that is no Prometheus exposition ({_one_line(str(error))})"
        raise _refusal(url, what, body, content_type) from error
    if not samples:
        raise _refusal(url, "an exposition without samples", body, content_type)
    return Exposition(samples)


def _samples(families: Iterable[Metric]) -> Iterator[Sample]:
    for family in families:
        for sample in family.samples:
            yield Sample(sample.name, sample.labels, float(sample.value))


def _kind_of(text: str) -> str:
    """What a body that is no exposition looks like; empty when it looks like nothing known."""
    start = text.lstrip("\ufeff \t\r\n")[:1]
    return {"<": "an HTML or XML page", "{": "JSON", "[": "JSON"}.get(start, "")


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    shown = "".join(character if character.isprintable() else "?" for character in flat)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"


def _refusal(url: str, what: str, body: bytes, content_type: str) -> ExpositionError:
    start = _one_line(body[: 4 * _SHOWN].decode("utf-8", errors="replace"))
    quoted = f", starting {start!r}" if start else ""
    return ExpositionError(
        f"{url} answered {what} (content type {content_type or 'none'}{quoted}), not Prometheus metrics; "
        "check engines[].url and metrics_path, and that nothing in between answers for the engine"
    )
