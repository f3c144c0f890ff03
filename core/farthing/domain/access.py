"""Who asks, and what they may: scopes of bearer tokens, and the principal that a token stands for.

The service authenticates; rooms that answer ask the principal of the request what it may see.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["EVERYBODY", "PRINCIPAL_KEY", "TOKEN_PREFIX", "Principal", "Scope"]

PRINCIPAL_KEY: Final = "farthing.principal"
"""Key of an ASGI scope under which the service leaves the principal of a request."""
TOKEN_PREFIX: Final = "farthing_"  # noqa: S105 - how tokens begin, so that scanners and people recognise one
"""How every generated token begins."""


class Scope(StrEnum):
    """What a token opens; each is granted by itself, except that ``admin`` opens everything."""

    INGEST = "ingest"
    """Deliver records: probes and replays."""
    READ_TENANT = "read-tenant"
    """See the rows of the token's own tenants."""
    READ_ALL = "read-all"
    """See everything: every tenant, the fleet, metrics."""
    ADMIN = "admin"
    """Everything, and what changes or copies the books."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose token was accepted; ``name`` is the token's, never the token itself."""

    name: str
    scopes: frozenset[Scope]
    tenants: frozenset[str] = frozenset()
    """Whose rows ``read-tenant`` opens."""

    def may(self, scope: Scope) -> bool:
        """Whether one of its scopes opens what ``scope`` opens; ``read-all`` opens what every tenant may read."""
        if Scope.ADMIN in self.scopes or scope in self.scopes:
            return True
        return scope is Scope.READ_TENANT and Scope.READ_ALL in self.scopes

    @property
    def sees_all(self) -> bool:
        """Whether it sees the rows of every tenant, and those of none."""
        return self.may(Scope.READ_ALL)

    def sees(self, tenant: str) -> bool:
        """Whether it sees the rows of a tenant."""
        return self.sees_all or (Scope.READ_TENANT in self.scopes and tenant in self.tenants)


EVERYBODY = Principal("everybody", frozenset({Scope.ADMIN}))
"""Who asks where no token is demanded: a service without tokens, which listens on loopback alone."""
