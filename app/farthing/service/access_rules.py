"""What each route of the service demands. A route that is not here is for administrators."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from farthing.domain.access import Scope

__all__ = ["PUBLIC", "ROUTE_SCOPES", "needed_scope"]

PUBLIC: Final = None
"""Nobody is asked: it reveals nothing and changes nothing."""

ROUTE_SCOPES: Final[Mapping[str, Scope | None]] = MappingProxyType(
    {
        "healthz": PUBLIC,
        "readyz": PUBLIC,
        # the empty page: its figures come from the API
        "page": PUBLIC,
        "static": PUBLIC,
        "login": PUBLIC,
        "login-page": PUBLIC,
        "logout": PUBLIC,
        "metrics": Scope.READ_ALL,
        "gpus": Scope.READ_ALL,
        # these answer with the rows that their caller may see
        "snapshot": Scope.READ_TENANT,
        "history": Scope.READ_TENANT,
        "report": Scope.READ_TENANT,
        "statements": Scope.READ_TENANT,
        "statement": Scope.READ_TENANT,
        "trace": Scope.READ_TENANT,
        "intake-usage": Scope.INGEST,
        "intake-windows": Scope.INGEST,
    }
)
"""Name of a route -> the scope that opens it."""


def needed_scope(route: str | None) -> Scope | None:
    """The scope that opens a route, ``PUBLIC`` when none is needed."""
    return ROUTE_SCOPES.get(route or "", Scope.ADMIN)
