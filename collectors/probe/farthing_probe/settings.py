"""What the probe is told, all of it through the environment of the engine's process.

A setting that cannot be used is an error in one line that names it; the probe then stays off, and the engine
serves on without it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farthing_probe.trace_settings import MODES, TraceSettings

__all__ = ["PREFIX", "SettingError", "Settings"]

PREFIX = "FARTHING_PROBE_"
DEFAULT_URL = "http://127.0.0.1:9464"
MIB = 1 << 20
MOST_GPUS = 1024
"""Intake takes no instance of more."""

DIGEST = re.compile("[0-9a-fA-F]{64}")
ATTRIBUTION = ("tenant", "project", "workload", "user", "tier")
HEADERS: dict[str, tuple[str, ...]] = {
    "tenant": ("x-tenant-id", "x-llm-d-tenant-id", "x-llm-d-inference-fairness-id"),
    "project": ("x-project-id",),
    "workload": ("x-workload-id", "x-llm-d-workload-id"),
    "user": ("x-user-id", "x-llm-d-user-id"),
    "tier": ("x-tier",),
}
"""Request headers that say who asks, by field; the first that is there counts."""


class SettingError(ValueError):
    """A variable of the environment holds what the probe cannot use."""


@dataclass(frozen=True)
class Settings:
    """See docs/probe.md for each variable; names are PREFIX + the field in capitals."""

    url: str = DEFAULT_URL
    token: str = field(default="", repr=False)
    """From TOKEN_FILE, or TOKEN."""
    engine: str = ""
    gpu: str = ""
    """Device name; empty: as the driver gives it."""
    gpu_count: int = 0
    """GPUs of the instance; 0: from the engine's configuration."""
    spool: Path | None = None
    spool_bytes: int = 256 * MIB
    queue_bytes: int = 8 * MIB
    trust_headers: bool = True
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: HEADERS)
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """SHA-256 of an API key, in hexadecimal -> tenant."""
    salt: bytes = field(default=b"", repr=False)
    """From SALT_FILE; makes pseudonyms of users and of keys that no map names."""
    off_file: Path | None = None
    """The probe is off while this file exists."""
    iteration_log: bool = False
    """Keep vLLM's INFO line for every step."""
    traces: TraceSettings = field(default_factory=TraceSettings)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings of this process; raises SettingError naming the variable."""
        given = os.environ if environ is None else environ
        spool = _spool(given)
        return cls(
            url=_url(given),
            token=_secret(given, "TOKEN"),
            engine=given.get(PREFIX + "ENGINE", "") or f"{socket.gethostname()}:{_port(sys.argv)}",
            gpu=given.get(PREFIX + "GPU", ""),
            gpu_count=_number(given, "GPU_COUNT", 0, MOST_GPUS),
            spool=spool,
            spool_bytes=_number(given, "SPOOL_MIB", 256) * MIB,
            queue_bytes=_number(given, "QUEUE_MIB", 8) * MIB,
            trust_headers=_flag(given, "TRUST_HEADERS", default=True),
            headers=_headers(given),
            keys=_keys(given),
            salt=_secret(given, "SALT").encode(),
            off_file=_path(given, "OFF_FILE") or (spool / "off" if spool else None),
            iteration_log=_flag(given, "ITERATION_LOG", default=False),
            traces=TraceSettings.of(given, _mode(given)),
        )


def _port(argv: Sequence[str]) -> str:
    """The port that the engine's own command line names: engines of one host need names of their own."""
    for this, following in zip(argv, [*argv[1:], ""], strict=True):
        name, _, value = this.partition("=")
        if name == "--port" and (value or following).isdigit():
            return value or following
    return "8000"


def _path(given: Mapping[str, str], name: str) -> Path | None:
    text = given.get(PREFIX + name, "")
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError:
        raise SettingError(f"{PREFIX}{name}: {text!r} is below the home of nobody that this machine knows") from None


def _spool(given: Mapping[str, str]) -> Path | None:
    if PREFIX + "SPOOL" in given:
        return _path(given, "SPOOL")
    state = given.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return Path(f"{state}/farthing-probe").expanduser()
    except RuntimeError:  # a container's arbitrary user has no home
        return None


def _number(given: Mapping[str, str], name: str, default: int, most: int = 1 << 40) -> int:
    text = given.get(PREFIX + name, "")
    if not text:
        return default
    if not text.isdecimal() or len(text) > 15 or int(text) > most:
        raise SettingError(f"{PREFIX}{name} is {text[:40]!r}; give a whole number, {most} at most")
    return int(text)


def _flag(given: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = given.get(PREFIX + name, "").lower()
    known = {"": default, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text not in known:
        raise SettingError(f"{PREFIX}{name} is {text!r}; give 1 or 0")
    return known[text]


def _mode(given: Mapping[str, str]) -> str:
    text = given.get(PREFIX + "TRACES", "").strip().lower() or "auto"
    if text not in MODES:
        raise SettingError(f"{PREFIX}TRACES is {text[:40]!r}; give one of {', '.join(MODES)}")
    return text


def _url(given: Mapping[str, str]) -> str:
    url = (given.get(PREFIX + "URL") or DEFAULT_URL).rstrip("/")
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc or parts.query:
        raise SettingError(f"{PREFIX}URL is no http or https address of farthing serve, such as {DEFAULT_URL}")
    return url


def _read(given: Mapping[str, str], name: str) -> str:
    path = _path(given, name) or Path()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{PREFIX}{name}: {path} cannot be read ({type(error).__name__})") from None


def _secret(given: Mapping[str, str], name: str) -> str:
    if not given.get(f"{PREFIX}{name}_FILE"):
        return given.get(PREFIX + name, "").strip()
    secret = _read(given, f"{name}_FILE").strip()
    if not secret:
        raise SettingError(f"{PREFIX}{name}_FILE names an empty file")
    return secret


def _keys(given: Mapping[str, str]) -> dict[str, str]:
    if not given.get(PREFIX + "KEYS_FILE"):
        return {}
    problem = f"{PREFIX}KEYS_FILE must hold a JSON object: SHA-256 of a key, in hexadecimal -> tenant"
    try:
        keys = json.loads(_read(given, "KEYS_FILE"))
    except (json.JSONDecodeError, RecursionError):
        raise SettingError(problem) from None
    if not isinstance(keys, dict) or not all(isinstance(v, str) and DIGEST.fullmatch(k) for k, v in keys.items()):
        raise SettingError(problem)
    return {digest.lower(): tenant for digest, tenant in keys.items()}


def _headers(given: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    headers = dict(HEADERS)
    for entry in filter(None, given.get(PREFIX + "HEADERS", "").split(",")):
        name, equals, header = (part.strip().lower() for part in entry.partition("="))
        if name not in ATTRIBUTION or not equals or not header or not header.isascii():
            raise SettingError(f"{PREFIX}HEADERS: {entry!r} is not FIELD=HEADER with a field of {ATTRIBUTION}")
        headers[name] = (header, *(known for known in headers[name] if known != header))
    return headers
