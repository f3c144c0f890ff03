"""What a browser tells of the site that a request is for, and comes from; other programs tell nothing."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

__all__ = ["names_this_host", "same_site"]

_HOST: Final = re.compile(r"(?:\[(?P<address>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::[0-9]*)?")
"""RFC 9110, section 7.2."""


def same_site(request: HTTPConnection) -> bool:
    """Whether nothing tells that another site's page sent a request (Fetch Metadata, else Origin)."""
    site, origin = request.headers.get("sec-fetch-site", ""), request.headers.get("origin", "")
    try:
        other = urlsplit(origin).netloc != request.headers.get("host", "") if origin else False
    except ValueError:
        other = True
    return site in {"", "same-origin", "none"} and (bool(site) or not other)


def names_this_host(request: HTTPConnection) -> bool:
    """Whether a request is for an address or a name without a domain, as ``localhost``.

    Whoever owns a domain can let it lead to a visitor's own loopback, where the visitor's browser then takes what is
    served for a part of their site (DNS rebinding). An address, or a name without a dot, is nobody's domain.
    """
    match = _HOST.fullmatch(request.headers.get("host", ""))
    if match is None:
        return False
    name = match["address"] or match["name"]
    name = name.rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(".localhost")
    return True
