"""Engines by the records of a name: A, AAAA or SRV, as Prometheus' ``dns_sd_configs`` asks for them."""

from __future__ import annotations

from typing import Final, Protocol

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from farthing.collectors.discovery.target import LABEL_PATH, LABEL_SCHEME, Target
from farthing.domain.errors import DiscoveryError
from farthing.settings_discovery import LABEL_PREFIX, DnsSettings

__all__ = ["NameSource", "Resolver", "system_resolver"]

TIMEOUT_SECONDS: Final = 5.0
_SETTINGS: Final = ("gpu", "gpu_count", "gpu_fraction", "price", "probe")


class Resolver(Protocol):
    """What asks name servers."""

    async def resolve(self, qname: str, rdtype: str, *, search: bool, lifetime: float) -> dns.resolver.Answer:
        """The records of a name."""
        ...


def system_resolver() -> Resolver:
    """A resolver with the name servers and the search list of this host; raises DiscoveryError when it has none."""
    try:
        found: Resolver = dns.asyncresolver.Resolver()
    except dns.exception.DNSException as error:
        raise DiscoveryError(f"no name server of this host is known ({error}); see /etc/resolv.conf") from error
    return found


class NameSource:
    """The engines that a name has records of; ``resolver`` None: that of the system, looked up at every question."""

    patience = 5
    """For how many refreshes what was known is kept while name servers fail."""

    def __init__(self, settings: DnsSettings, resolver: Resolver | None = None) -> None:
        self.name = f"{settings.name} ({settings.type})"
        self._settings = settings
        self._resolver = resolver

    async def read(self) -> tuple[list[Target], list[str]]:
        """Targets in the order of their addresses; none where the name is gone or has no such record.

        Raises DiscoveryError when no name server could say.
        """
        name, kind = self._settings.name, self._settings.type
        try:
            resolver = self._resolver or system_resolver()
            answer = await resolver.resolve(name, kind, search=True, lifetime=TIMEOUT_SECONDS)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return [], [f"{self.name}: there is no such record"]
        except (dns.exception.DNSException, OSError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise DiscoveryError(f"{self.name}: no name server answers: {said}") from error
        labels = self._labels()
        addresses = sorted(_address(record, self._settings.port) for record in answer)
        return [Target(address, labels, self.name) for address in addresses], []

    def _labels(self) -> dict[str, str]:
        one = self._settings
        own = {LABEL_PREFIX + key: str(getattr(one, key)) for key in _SETTINGS if key in one.model_fields_set}
        return {LABEL_SCHEME: one.scheme, LABEL_PATH: one.metrics_path, **own}


def _address(record: object, port: int | None) -> str:
    """HOST:PORT of a record; a rooted name loses its dot, and IPv6 has brackets, as in Prometheus."""
    if getattr(record, "rdtype", None) == dns.rdatatype.SRV:
        return f"{str(getattr(record, 'target')).rstrip('.')}:{getattr(record, 'port')}"  # noqa: B009 - untyped records
    host = str(getattr(record, "address"))  # noqa: B009 - the same
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
