"""Who asks, as the service's middleware found out, and what they are told of themselves."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection

from farthing.domain.access import EVERYBODY, PRINCIPAL_KEY, Principal, Scope

__all__ = ["own_tenants", "principal_of", "viewer_payload"]


def principal_of(request: HTTPConnection) -> Principal:
    """The principal of a request; everybody where no middleware demands tokens."""
    found: Principal = request.scope.get(PRINCIPAL_KEY, EVERYBODY)
    return found


def own_tenants(principal: Principal) -> frozenset[str] | None:
    """Whose rows a principal sees; None: everybody's, and those of nobody.

    The empty name is nobody's: the books use it for what no tenant bears, so no token opens it.
    """
    if principal.sees_all:
        return None
    return principal.tenants - {""} if Scope.READ_TENANT in principal.scopes else frozenset()


def viewer_payload(principal: Principal) -> dict[str, Any] | None:
    """What the page says of who is logged in; None where nobody has to be."""
    if principal.name == EVERYBODY.name and principal.sees_all:
        return None
    tenants = own_tenants(principal)
    return {
        "name": principal.name,
        "sees_all": tenants is None,
        "tenants": [] if tenants is None else sorted(tenants),
    }
