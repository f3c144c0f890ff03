"""Exceptions that name the offending input and say what to do about it."""

from __future__ import annotations

__all__ = [
    "AuditError",
    "BackupError",
    "ConfigError",
    "DiscoveryError",
    "EngineUnreachableError",
    "ExpositionError",
    "FarthingError",
    "GrafanaError",
    "LedgerError",
    "PeriodError",
    "PolicyError",
    "PortBusyError",
    "PriceError",
    "RecordError",
    "RecordingError",
    "ServiceError",
    "StackError",
    "TraceError",
]


class FarthingError(Exception):
    """A failure the user can act on; its text is one line and complete.

    ``exit_code`` is the process exit status of a command that ends with it (documented in docs/cli.md).
    """

    exit_code: int = 1


class ConfigError(FarthingError):
    """farthing.yaml is missing, malformed or inconsistent; the message names file, key and line."""

    exit_code = 3


class EngineUnreachableError(FarthingError):
    """An engine's endpoint did not answer; the message names the URL and the reason."""

    exit_code = 4


class ExpositionError(FarthingError):
    """An endpoint answered something that is not a Prometheus exposition."""

    exit_code = 5


class RecordingError(FarthingError):
    """A recording is missing, truncated or malformed; the message names file and line."""

    exit_code = 6


class PortBusyError(FarthingError):
    """A port that a server needs is taken; the message names the port and the setting that moves it."""

    exit_code = 7


class LedgerError(FarthingError):
    """The ledger cannot be opened, migrated or written.

    ``of_row``: it refuses what was to be written, and would take something else.
    """

    exit_code = 8

    def __init__(self, message: str, *, of_row: bool = False) -> None:
        super().__init__(message)
        self.of_row = of_row


class PriceError(FarthingError):
    """No price, or more than one, applies to a GPU at a time."""

    exit_code = 9


class StackError(FarthingError):
    """A part of the stack is missing, failed to start or never became healthy."""

    exit_code = 10


class RecordError(FarthingError):
    """A record was refused; ``field`` names what is wrong with it."""

    exit_code = 11

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class PeriodError(FarthingError):
    """A period cannot be closed, or a statement or line does not exist; the message says why and what to do."""

    exit_code = 12


class PolicyError(FarthingError):
    """The policy file is missing, malformed or contradicts itself; the message names file, line and key."""

    exit_code = 13


class GpuError(FarthingError):
    """GPU telemetry cannot be read (driver, permission, no answer); the message names the source and the remedy."""

    exit_code = 14


class GrafanaError(FarthingError):
    """A Grafana is away, refuses, or is none; the message names its URL, what it said and what to do."""

    exit_code = 15


class BackupError(FarthingError):
    """A backup of the stack cannot be made, is not whole, or cannot be restored here; the message names the file."""

    exit_code = 16


class DiscoveryError(FarthingError):
    """Where engines are discovered cannot be read, or says what nobody understands; the message names file and line,
    name or socket.
    """

    exit_code = 17


class ServiceError(FarthingError):
    """A Farthing that runs elsewhere is away, refuses, or is none; the message names its URL and what it said."""

    exit_code = 18


class TraceError(FarthingError):
    """No request and no trace of that id is in the ledger, or none that may be seen; the message says where to look."""

    exit_code = 19


class AuditError(FarthingError):
    """An audit trail cannot be written or read, or is another's; the message names the file and the remedy."""

    exit_code = 20
