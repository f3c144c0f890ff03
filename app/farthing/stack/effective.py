"""The settings a stack really runs with: ports shifted, paths absolute, a token, and the replay as an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import HttpUrl, ValidationError

from farthing.domain.errors import ConfigError
from farthing.settings import EngineSettings, Settings
from farthing.stack.layout import StateLayout

__all__ = ["REPLAY", "effective_settings", "render_settings", "replay_engine", "shift_ports"]

REPLAY = "replay"
"""Name of the engine that replays a recording when no engine is configured."""
REPLAY_GPU = "H100-SXM"
"""What the shipped recordings ran on, as the price table calls it."""
SQLITE_PREFIX = "sqlite:///"


def shift_ports(settings: Settings, offset: int) -> Settings:
    """The settings with every listening port moved by ``offset``; raises ConfigError outside 1 to 65535."""
    if offset == 0:
        return settings
    stack = {
        name: getattr(settings.stack, name) + offset
        for name in type(settings.stack).model_fields
        if name.endswith("_port")
    }
    moved = {f"stack.{name}": port for name, port in stack.items()}
    moved["serve.port"] = settings.serve.port + offset
    for name, port in moved.items():
        if not 1 <= port <= 65535:
            raise ConfigError(f"--port-offset {offset}: {name} would be {port}; ports lie between 1 and 65535")
    return settings.model_copy(
        update={
            "stack": settings.stack.model_copy(update=stack),
            "serve": settings.serve.model_copy(update={"port": moved["serve.port"]}),
        }
    )


def effective_settings(settings: Settings, layout: StateLayout) -> Settings:
    """What the processes of the stack are given, whatever folder they run in.

    Without engines, and without anything that they are discovered by, the replay is one.
    """
    update: dict[str, Any] = {
        "ledger": _absolute_ledger(settings.ledger),
        "stack": settings.stack.model_copy(update={"state_dir": layout.root}),
        "serve": settings.serve.model_copy(
            update={
                "token_file": (settings.serve.token_file or layout.intake_token).expanduser().absolute(),
                "tokens_file": (settings.serve.tokens_file or layout.tokens).expanduser().absolute(),
                "tls_certificate": _absolute(settings.serve.tls_certificate),
                "tls_key": _absolute(settings.serve.tls_key),
            }
        ),
    }
    update["fleet"] = tuple(
        entry.model_copy(
            update={name: _absolute(getattr(entry, name)) for name in ("token_file", "password_file", "ca_file")}
        )
        for entry in settings.fleet
    )
    headers = _absolute(settings.traces.headers_file)
    update["traces"] = settings.traces.model_copy(update={"headers_file": headers})
    files = tuple(path.expanduser().absolute() for path in settings.discovery.files)
    update["discovery"] = settings.discovery.model_copy(update={"files": files})
    if settings.watches_nothing:
        update["engines"] = (replay_engine("127.0.0.1", settings.stack.replay_port),)
    return settings.model_copy(update=update)


def replay_engine(host: str, port: int) -> EngineSettings:
    """The replay as an engine; it delivers the records of a probe, so scraping it must not cost it once more."""
    url = HttpUrl(f"http://{host}:{port}")
    return EngineSettings(name=REPLAY, url=url, gpu=REPLAY_GPU, probe=True)


def render_settings(settings: Settings) -> str:
    """``settings`` as YAML that ``load_settings`` reads back to the same settings."""
    data = settings.model_dump(mode="json", by_alias=True)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    try:
        Settings.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise ConfigError(f"the effective settings are inconsistent: {error.errors()[0]['msg']}") from error
    return "# Written by `farthing up`; edit farthing.yaml instead.\n" + text


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


def _absolute_ledger(url: str) -> str:
    """A SQLite URL with its path made absolute; any other URL as it is."""
    path = url.removeprefix(SQLITE_PREFIX)
    if not url.startswith(SQLITE_PREFIX) or not path or path.startswith((":memory:", "/", "file:")):
        return url
    return f"{SQLITE_PREFIX}{Path(path).absolute()}"
