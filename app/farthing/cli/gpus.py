"""``farthing gpus``: GPUs and their engines, from the running service or else from this host's driver alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, Final, cast

import httpx
import typer
from rich.console import Console
from rich.live import Live

from farthing.cli.gpu_table import gpu_rows, gpu_table
from farthing.collectors.gpu.sampler import Sampler
from farthing.collectors.gpu.source import GpuSource
from farthing.domain.errors import EngineUnreachableError
from farthing.exporters.report import UNBOUNDED_WIDTH, render
from farthing.exporters.web.gpus import GPUS_PATH, gpus_payload
from farthing.service.asking import ASKING_VARIABLE, asking_headers, system_tls, trusted_tls
from farthing.service.gpu_sampling import engines_on, open_sources, sampler_of
from farthing.settings import GpuSettings, Settings
from farthing.stack.parts import serve_url

__all__ = ["GpuWatch", "show_gpus"]

TIMEOUT_SECONDS = 2.0
FIRST_READING_SECONDS = 6.0
"""How long the first picture waits for the sources of this host: a little longer than an exporter may take."""

Payload = dict[str, Any]
NUMBER: Final = (int, float, NoneType)
SHAPE: Final[Mapping[str, Mapping[str, type | tuple[type, ...]]]] = {
    "sources": {"name": str, "up": bool},
    "engines": {"name": str, "devices": list},
    "devices": {
        **dict.fromkeys(("uuid", "kind", "host", "name", "profile"), str),
        **dict.fromkeys(("engines", "faults"), list),
        **dict.fromkeys(("index", "xid"), (int, NoneType)),
        **dict.fromkeys(("utilization", "power_watts", "power_limit_watts", "temperature_celsius"), NUMBER),
        **dict.fromkeys(("memory_used_bytes", "memory_total_bytes"), NUMBER),
        "throttle": (list, NoneType),
    },
}
"""What the table reads of ``/api/v1/gpus``, of each entry of each list; more may be there."""
_WANTS: Final = f"wants a token with the scope read-all: set {ASKING_VARIABLE}"
Opened = Callable[[GpuSettings, Callable[[str], None]], Sequence[GpuSource]]


class _NotOursError(ValueError):
    """An answer that another program gave."""


def show_gpus(
    settings: Settings,
    url: str | None,
    output: str,
    *,
    interval_seconds: float,
    once: bool,
    console: Console | None = None,
    opened: Opened = open_sources,
) -> None:
    """Print one picture, or show it live until Ctrl-C. Raises EngineUnreachableError when a given ``url`` does not
    answer; without one the GPUs of this host are read then.
    """
    screen = console or Console(highlight=False, markup=False, emoji=False)
    with GpuWatch(settings, url, opened=opened) as watch:
        if output != "table":
            payload = watch.payload()
            shown = json.dumps({"from": watch.told_by, **payload}, indent=2) + "\n"
            typer.echo(shown if output == "json" else render(gpu_rows(payload), "csv"), nl=False)
        elif once or not screen.is_terminal:
            if not screen.is_terminal:
                screen.width = UNBOUNDED_WIDTH
            screen.print(gpu_table(watch.payload(), watch.note, screen.width))
        else:
            _live(watch, screen, interval_seconds)


def _live(watch: GpuWatch, screen: Console, interval_seconds: float) -> None:
    picture = gpu_table(watch.payload(), watch.note, screen.width)
    try:
        with Live(picture, console=screen, auto_refresh=False) as live:
            while True:
                time.sleep(interval_seconds)
                live.update(gpu_table(watch.payload(), watch.note, screen.width), refresh=True)
    except KeyboardInterrupt:
        return


class GpuWatch:
    """Where the picture comes from: a service that answers, else the devices of this host, opened when they are first
    needed. Use it as a context; ``said`` gets what is told once.
    """

    def __init__(
        self,
        settings: Settings,
        url: str | None = None,
        *,
        opened: Opened = open_sources,
        said: Callable[[str], None] | None = None,
        client: httpx.Client | None = None,
    ) -> None:
        self._settings = settings
        self._demanded = url
        self._url = (url or serve_url(settings)).rstrip("/") + GPUS_PATH
        self._opened = opened
        self._said = said or (lambda text: print(f"farthing: {text}", file=sys.stderr))  # noqa: T201
        self._client = client or httpx.Client(
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            # another host's service has tokens of its own
            headers=asking_headers(settings, own=url is None),
            verify=trusted_tls(settings.serve.tls_certificate) if url is None else system_tls(),
        )
        self._sampler: Sampler | None = None
        self._refused = False
        self.told_by = ""
        """URL that answered last, or empty: this host's devices."""

    def __enter__(self) -> GpuWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._sampler is not None:
            self._sampler.stop()

    @property
    def note(self) -> str:
        """Where the last picture came from."""
        if self.told_by:
            return f"Live from {self.told_by}"
        if self._refused:
            return f"Of this host alone: {self._url.removesuffix(GPUS_PATH)} {_WANTS}"
        return f"Of this host alone: no farthing serve answers at {self._url.removesuffix(GPUS_PATH)}"

    def payload(self) -> Payload:
        """What ``/api/v1/gpus`` says now, or would say of this host."""
        try:
            answer = self._client.get(self._url)
            answer.raise_for_status()
            payload: Payload = _ours(answer)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            self._refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in {401, 403}
            if self._demanded is not None and self._refused:
                raise EngineUnreachableError(f"{self._url} {_WANTS}") from error
            if self._demanded is not None:
                reason = " ".join(str(error).split()) or type(error).__name__
                if isinstance(error, _NotOursError):
                    raise EngineUnreachableError(f"{self._url} answers, but {reason}; check --url") from error
                raise EngineUnreachableError(f"{self._url} did not answer ({reason}); check --url") from error
            self.told_by = ""
            return self._own()
        self.told_by = self._url
        return payload

    def _own(self) -> Payload:
        if self._sampler is None:
            sources = self._opened(self._settings.gpus, self._said)
            self._sampler = sampler_of(self._settings.gpus, sources, lambda _: None)
            self._sampler.start()
            deadline = time.monotonic() + FIRST_READING_SECONDS
            while len(self._sampler.view().sources) < len(sources) and time.monotonic() < deadline:
                time.sleep(0.02)
            known = self._sampler.view().sources
            for late in (source.name for source in sources if source.name not in known):
                self._said(f"{late} has not answered yet; its devices are not shown")
        view = self._sampler.view()
        engines = engines_on((one.reading for one in view.devices), self._settings.engines, {})
        return gpus_payload(replace(view, engines=engines), None)


def _ours(answer: httpx.Response) -> Payload:
    """Raises _NotOursError for what Farthing never answers."""
    try:
        payload = answer.json()
    except ValueError as error:
        raise _NotOursError("that is not Farthing") from error
    for part, kinds in SHAPE.items():
        entries = payload.get(part) if isinstance(payload, dict) else None
        if not isinstance(entries, list) or not all(_has(entry, kinds) for entry in entries):
            raise _NotOursError(f"that is not Farthing: its {part} are missing or of another shape")
    return cast("Payload", payload)


def _has(entry: object, kinds: Mapping[str, type | tuple[type, ...]]) -> bool:
    return isinstance(entry, dict) and all(
        key in entry and isinstance(entry[key], kind) for key, kind in kinds.items()
    )  # fmt: skip
