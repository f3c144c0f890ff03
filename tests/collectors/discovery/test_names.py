"""Engines by the records of a name, from a name server on loopback."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from farthing.collectors.discovery.names import NameSource
from farthing.collectors.discovery.target import engine_of
from farthing.domain.errors import DiscoveryError
from farthing.settings_discovery import DnsSettings


class NameServer:
    """Answers from ``zone``: (name, type) -> records; ``failing``: with SERVFAIL; else a name that is not there."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], list[str]] = {}
        self.failing = False
        self.port = 0

    def answer(self, query: bytes) -> bytes:
        """The answer to a question, both as they go over the wire."""
        question = dns.message.from_wire(query)
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.RA
        asked = question.question[0]
        name, kind = str(asked.name).rstrip("."), dns.rdatatype.to_text(asked.rdtype)
        if self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif (name, kind) in self.zone:
            answer.answer.append(dns.rrset.from_text_list(asked.name, 1, "IN", kind, self.zone[name, kind]))
        elif not any(name == known for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()


@contextmanager
def name_server() -> Iterator[NameServer]:
    """One that answers within the block."""
    server = NameServer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server.port = sock.getsockname()[1]

        def serve() -> None:
            while True:
                query, who = sock.recvfrom(4096)
                if not query:
                    return
                sock.sendto(server.answer(query), who)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"", ("127.0.0.1", server.port))
            thread.join(5)


@pytest.fixture
def server():
    """A name server."""
    with name_server() as server:
        yield server


def source(server, **settings):
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], server.port
    return NameSource(DnsSettings(**{"name": "vllm.internal", **settings}), resolver)


def read(source):
    targets, complaints = asyncio.run(source.read())
    return [engine_of(target) for target in targets], complaints


def test_each_address_of_a_name_is_an_engine_with_what_the_settings_say(server):
    """Called by its address, in the order of addresses, whatever the order of the answer."""
    server.zone["vllm.internal", "A"] = ["10.0.0.7", "10.0.0.5"]
    engines, complaints = read(source(server, port=8000, gpu="H100-SXM", gpu_count=4, price="reserved", probe=True))
    assert complaints == []
    assert [(one.name, one.metrics_url) for one in engines] == [
        ("10.0.0.5:8000", "http://10.0.0.5:8000/metrics"),
        ("10.0.0.7:8000", "http://10.0.0.7:8000/metrics"),
    ]
    assert {(one.gpu, one.gpu_count, one.price, one.probe) for one in engines} == {("H100-SXM", 4, "reserved", True)}


def test_an_address_of_ipv6_loses_its_brackets_in_the_name_alone(server):
    """The URL needs them, a name has none."""
    server.zone["vllm.internal", "AAAA"] = ["2001:db8::5"]
    (engine,), _ = read(source(server, type="AAAA", port=8000, scheme="https", metrics_path="/m"))
    assert (engine.name, engine.metrics_url) == ("2001:db8::5:8000", "https://[2001:db8::5]:8000/m")


def test_srv_records_say_host_and_port(server):
    """As headless services of Kubernetes and Consul have them."""
    server.zone["_http._tcp.vllm.internal", "SRV"] = ["0 0 8001 gpu-1.internal.", "0 0 8002 gpu-2.internal."]
    engines, _ = read(source(server, name="_http._tcp.vllm.internal", type="SRV"))
    assert [one.metrics_url for one in engines] == [
        "http://gpu-1.internal:8001/metrics",
        "http://gpu-2.internal:8002/metrics",
    ]


@pytest.mark.parametrize("known", [True, False])
def test_a_name_without_records_has_no_engines_and_that_is_said(server, known):
    """It is gone, or has records of another type: a name server said so, which is no failure."""
    if known:
        server.zone["vllm.internal", "AAAA"] = ["::1"]
    assert read(source(server, port=8000)) == ([], ["vllm.internal (A): there is no such record"])


def test_a_name_server_that_fails_is_an_error_naming_the_name(server):
    """So that what was known is kept."""
    server.failing = True
    with pytest.raises(DiscoveryError, match=r"vllm\.internal \(A\): no name server answers"):
        read(source(server, port=8000))
