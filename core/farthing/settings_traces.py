"""``traces``: the collector that Farthing hands the edge spans of sampled requests to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from farthing.domain.errors import ConfigError
from farthing.settings_sampling import SamplingSettings

__all__ = ["TRACES_PATH", "TracesSettings"]

TRACES_PATH: Final = "/v1/traces"
"""Where OTLP over HTTP takes spans, unless an address has a path of its own (OTLP specification, OTLP/HTTP request)."""


class TracesSettings(BaseModel):
    """Where spans go of requests whose probe has no way of its own to a collector; see [traces.md](traces.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: HttpUrl | None = None
    """Where a collector takes OTLP over HTTP, for example `http://localhost:4318`; `/v1/traces` is added to an address
    without a path. None: Farthing hands out no spans."""
    protocol: Literal["http/protobuf"] = "http/protobuf"
    """How spans are sent, as OpenTelemetry calls it."""
    headers_file: Path | None = None
    """File with headers that the collector demands, such as a token: a line each, `name: value`. None: no such
    headers; those of `OTEL_EXPORTER_OTLP_HEADERS` are never sent."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long a batch is tried before its spans are given up."""
    queue_spans: Annotated[int, Field(ge=1, le=100_000)] = 4_096
    """Most spans that wait; one that finds no room is dropped and counted."""
    sampling: SamplingSettings = SamplingSettings()
    """Which traces the stack's Jaeger keeps."""

    @property
    def url(self) -> str | None:
        """The whole address that spans are posted to."""
        if self.endpoint is None:
            return None
        parts = urlsplit(str(self.endpoint))
        return urlunsplit(parts._replace(path=TRACES_PATH) if parts.path in {"", "/"} else parts)

    def headers(self) -> dict[str, str]:
        """The headers of the file, by name in lower case.

        Raises ConfigError naming the file and the line, never what stands there.
        """
        if self.headers_file is None:
            return {}
        try:
            lines = self.headers_file.expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text"
            raise ConfigError(f"traces.headers_file: {self.headers_file} cannot be read ({reason})") from error
        found: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not colon or not _is_plain(name) or " " in name or not _is_plain(value):
                raise ConfigError(f"traces.headers_file: {self.headers_file}:{number}: is not `name: value`")
            found[name.lower()] = value
        return found


def _is_plain(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()
