"""How the probe traces: ``FARTHING_PROBE_TRACES``, and the variables that OpenTelemetry's own SDK reads.

Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. As that asks, what cannot be
used of OTEL_* is a warning and its default counts: a trace is not worth a bill.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

__all__ = [
    "BASE_ENDPOINT",
    "CANNOT_BE_SENT",
    "ENDPOINT",
    "EXPORTERS",
    "MODES",
    "ROOTS",
    "TraceSettings",
    "disabled",
    "exports",
    "protocol_of",
    "traces_address",
    "unsendable_headers",
]

MODES = ("auto", "sdk", "records", "off")
ROOTS = 1 << 64
"""Traces by the lower half of their ids; so many are all."""
ENDPOINT, BASE_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL, BASE_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
EXPORTER = "OTEL_TRACES_EXPORTER"
HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*([ !#-+\--:<-\[\]-~]*)[ \t]*")
"""What the SDK reads as one, of those that commas part."""
SENDABLE = {
    "grpc": (re.compile(r"[0-9a-z_.-]+(?<!-bin)"), re.compile(r"[ -~]*")),
    "http/protobuf": (re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+"), re.compile(r"[^\r\n\u0100-\U0010ffff]*")),
}
"""The names and the values of headers that can be sent, by protocol: both are unquoted by then."""
EXPORTERS = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
}
CANNOT_BE_SENT = "a header of {} cannot be sent (is there a line break in it?)"
SAMPLERS = ("always_on", "always_off", "traceidratio")
PARENT = "parentbased_"
DEFAULT_SAMPLER = "parentbased_always_on"

_log = logging.getLogger("farthing_probe")


@dataclass(frozen=True)
class TraceSettings:
    """Without any traces configured the caller's context is passed on and recorded, and no trace is begun."""

    mode: str = "records"
    """``sdk``: spans go to ``endpoint``; ``records``: what they hold goes with the usage record; ``off``: neither."""
    begins: bool = False
    """Whether a request without a context begins a trace."""
    follows_parent: bool = True
    threshold: int = ROOTS
    """The sampler's share of ROOTS, where no parent decides."""
    endpoint: str = ""
    """Of the exporter, whole."""
    protocol: str = "grpc"
    queue: int = 2048
    """Spans that wait, at most."""
    batch: int = 64
    """Of one post. Less than the SDK's 512: encoding takes some 50 us a span, in which the event loop gets no turn."""
    delay_seconds: float = 5.0

    @classmethod
    def of(cls, given: Mapping[str, str], wanted: str = "auto") -> TraceSettings:
        """The settings by an environment; ``wanted`` is one of MODES."""
        if wanted == "off" or disabled(given):
            return cls(mode="off")
        protocol = protocol_of(given) or "grpc"  # vLLM's own default
        endpoint = given.get(ENDPOINT) or traces_address(given.get(BASE_ENDPOINT, ""), protocol)
        sends = bool(endpoint) and wanted != "records" and exports(given)
        if wanted == "sdk" and not sends:
            _log.warning("farthing_probe: spans go with the records; FARTHING_PROBE_TRACES=sdk needs %s", ENDPOINT)
        if sends and not _importable(protocol):
            _log.warning("farthing_probe: spans go with the records; nothing sends %r here", protocol[:40])
            sends = False
        if sends and (name := unsendable_headers(given, protocol)):
            _log.warning("farthing_probe: spans go with the records: %s", CANNOT_BE_SENT.format(name))
            sends = False
        sampler = given.get("OTEL_TRACES_SAMPLER", "").strip().lower()
        follows, threshold = _sampling(sampler or DEFAULT_SAMPLER, given.get("OTEL_TRACES_SAMPLER_ARG", ""))
        queue = _count(given, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        return cls(
            mode="sdk" if sends else "records",
            begins=bool(endpoint or sampler or wanted != "auto"),
            follows_parent=follows,
            threshold=threshold,
            endpoint=endpoint,
            protocol=protocol,
            queue=queue,
            batch=min(queue, _count(given, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 64)),
            delay_seconds=_count(given, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
        )


def disabled(given: Mapping[str, str]) -> bool:
    """Whether an environment wants no traces at all."""
    return given.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def protocol_of(given: Mapping[str, str]) -> str:
    """What OTLP goes over by an environment; empty where it says nothing."""
    return next((text for name in (PROTOCOL, BASE_PROTOCOL) if (text := given.get(name, "").strip().lower())), "")


def exports(given: Mapping[str, str]) -> bool:
    """Whether an environment leaves spans to OTLP, alone or among others, as it does by saying nothing."""
    names = {name for each in given.get(EXPORTER, "").split(",") if (name := each.strip().lower())}
    if names - {"otlp", "none"}:
        _log.warning("farthing_probe: %s: there is no exporter but otlp here, and none", EXPORTER)
    return not names or "otlp" in names


def unsendable_headers(given: Mapping[str, str], protocol: str) -> str:
    """The variable of an environment that has a header which cannot be sent, so that every post would fail and the SDK
    quote it in its log; empty where there is none. Says of headers that cannot be read that they are left out, and
    never what they are.
    """
    variable = next((each for each in HEADERS if given.get(each)), "")
    parts = [part for each in given.get(variable, "").split(",") if (part := each.strip())]
    read = [found.groups() for part in parts if (found := HEADER.fullmatch(part))]
    if len(read) < len(parts):
        _log.warning("farthing_probe: %s is not `name=value,name=value`; what is not is left out", variable)
    return variable if not all(_sendable(name, value, protocol) for name, value in read) else ""


def _sendable(name: str, value: str, protocol: str) -> bool:
    """As the SDK makes a header of what it has read: it unquotes both unless there is a blank in the value."""
    if " " not in value.strip(" \t"):
        name, value = unquote(name), unquote(value)
    names, values = SENDABLE[protocol]
    return bool(names.fullmatch(name.strip().lower()) and values.fullmatch(value.strip()))


def traces_address(base: str, protocol: str) -> str:
    """Where traces go of a collector's address: OTLP over HTTP adds the signal's path to it, gRPC does not."""
    return base.rstrip("/") + "/v1/traces" if base and protocol != "grpc" else base


def _importable(protocol: str) -> bool:
    try:
        modules = ("opentelemetry.sdk.trace", EXPORTERS[protocol])
        return all(importlib.util.find_spec(module) is not None for module in modules)
    except (KeyError, ImportError, ValueError):
        return False


def _sampling(name: str, argument: str) -> tuple[bool, int]:
    """Whether the parent decides, and the share of the rest."""
    follows, root = name.startswith(PARENT), name.removeprefix(PARENT)
    if root not in SAMPLERS:
        _log.warning("farthing_probe: OTEL_TRACES_SAMPLER %r is not known here; %s counts", name[:40], DEFAULT_SAMPLER)
        return True, ROOTS
    if root != "traceidratio":
        return follows, ROOTS if root == "always_on" else 0
    try:
        ratio = float(argument or 1)
        if not 0 <= ratio <= 1:
            raise ValueError
    except ValueError:
        _log.warning("farthing_probe: OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1; 1 counts")
        ratio = 1.0
    return follows, round(ratio * ROOTS)


def _count(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:10]) <= 1_000_000:
        _log.warning("farthing_probe: %s is no whole number from 1 to 1000000; %d counts", name, default)
        return default
    return int(text[:10])
