"""Where the parts of a stack keep what a backup holds: in the state folder, or in the volumes of containers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from farthing.domain.errors import BackupError, ConfigError
from farthing.settings import CONFIG_VARIABLE, DEFAULT_CONFIG, Settings
from farthing.stack.layout import StateLayout
from farthing.stack.secret_files import TOKENS

__all__ = ["Places", "native_places", "parse_owners", "settings_path", "volume_places"]

GRAFANA_DATABASE = "grafana.db"


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute paths of one stack; a part that never ran has none of its files."""

    ledger: str
    """URL of the database."""
    prometheus: Path
    """The folder of its database."""
    alertmanager: Path
    grafana: Path
    """The folder of ``grafana.db``."""
    tokens: Path
    """The file of hashes."""
    secrets: Path
    """The folder of everything secret, for backups that are to have it."""
    journal: Path
    """The folder in which a restore notes what it is about to move."""
    settings: Path | None = None
    policy: Path | None = None
    owners: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Part -> user and group that its files are given when they are restored; others keep the caller's."""

    @property
    def ledger_file(self) -> Path | None:
        """The file of a ledger in SQLite; None for a server's. Raises BackupError for a wrong URL."""
        try:
            url = make_url(self.ledger)
        except ArgumentError as error:
            raise BackupError("ledger: not a database URL; check ledger: in farthing.yaml") from error
        if url.get_backend_name() != "sqlite":
            return None
        if not url.database or url.database == ":memory:":
            raise BackupError(f"ledger {self.ledger}: is in memory alone; give it a file")
        return Path(url.database).absolute()

    def folder(self, part: str) -> Path:
        """Where the files of a part go, whose members are named relative to it."""
        folders = {
            "prometheus": self.prometheus,
            "alertmanager": self.alertmanager,
            "grafana": self.grafana,
            "tokens": self.tokens.parent,
            "secrets": self.secrets,
            "ledger": self.journal if self.ledger_file is None else self.ledger_file.parent,
        }
        return folders.get(part, self.journal)


def native_places(settings: Settings, config: Path | None) -> Places:
    """Those of the native stack; ``config`` is the settings' file where one was given."""
    layout = StateLayout.of(settings.stack.state_dir)
    policy = settings.books.policy
    return Places(
        ledger=settings.ledger,
        prometheus=layout.data / "prometheus",
        alertmanager=layout.data / "alertmanager",
        grafana=layout.data / "grafana",
        tokens=settings.tokens_file.expanduser().absolute(),
        secrets=layout.secrets,
        journal=layout.root,
        settings=settings_path(config),
        policy=policy.expanduser().absolute() if policy else None,
    )


def volume_places(settings: Settings, config: Path | None, volumes: Path, owners: str) -> Places:
    """Those of a container into which every volume of the Compose stack is mounted, below one folder."""
    policy = settings.books.policy
    places = Places(
        ledger=settings.ledger,
        prometheus=volumes / "prometheus",
        alertmanager=volumes / "alertmanager",
        grafana=volumes / "grafana",
        tokens=volumes / "secrets" / "farthing" / TOKENS,
        secrets=volumes / "secrets",
        journal=volumes / "prometheus",
        settings=settings_path(config),
        policy=policy.expanduser().absolute() if policy else None,
        owners=parse_owners(owners),
    )
    # where the service looks for what was cut off, if it has a volume
    return replace(places, journal=places.ledger_file.parent) if places.ledger_file else places


def settings_path(config: Path | None) -> Path:
    """The file that settings are read from, whether it exists or not."""
    return (config or Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)).expanduser().absolute()


def parse_owners(text: str) -> dict[str, tuple[int, int]]:
    """``part=user:group,…`` in numbers. Raises ConfigError naming what is wrong."""
    found = {}
    for entry in filter(None, (one.strip() for one in text.split(","))):
        part, _, ids = entry.partition("=")
        user, _, group = ids.partition(":")
        if not (user.isascii() and user.isdigit() and group.isascii() and group.isdigit()):
            raise ConfigError(f"--owners: {entry!r} is not part=user:group in numbers, such as prometheus=65534:65534")
        found[part] = (int(user), int(group))
    return found
