"""What benchmarks of traces need: contexts that are sampled at a rate, and a collector that only counts."""

import re
import urllib.request
from itertools import islice

import pytest
from benchmarks.gpu.tracing import running_collector, traceparents
from tests.alerts.real_parts import free_port

CONTEXT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")


@pytest.mark.parametrize(("share", "sampled"), [(0, 0), (0.01, 2), (0.1, 20), (0.5, 100), (1, 200)])
def test_so_large_a_share_of_the_contexts_is_sampled(share, sampled):
    """Exactly, and spread evenly; every context is a valid one of a trace of its own."""
    found = [match for each in islice(traceparents(share), 200) if (match := CONTEXT.fullmatch(each))]
    assert len(found) == 200
    flags = [match[3] for match in found]
    assert flags.count("01") == sampled
    assert flags[:100].count("01") == sampled / 2
    assert len({match[1] for match in found}) == 200
    assert all(int(match[1], 16) and int(match[2], 16) for match in found)


def test_both_servers_get_the_same_contexts():
    """Of the same seed; another seed makes other traces."""
    first, again, other = (list(islice(traceparents(0.1, seed), 5)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_collector_counts_exports_and_forgets_them():
    """Bodies and bytes, on one connection or several."""
    port = free_port()
    with running_collector(port) as collected:
        for body in (b"one", b"three"):
            url = f"http://127.0.0.1:{port}/v1/traces"
            with urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=5) as answer:
                assert (answer.status, answer.read()) == (200, b"")
    assert (collected.exports, collected.bytes) == (2, 8)
