"""Whom a probe means: the configured engine of its name, or of the address that it calls itself by."""

import pytest

from farthing.service.naming import booked_name
from farthing.settings import EngineSettings

ENGINES = [
    EngineSettings.model_validate({"name": name, "url": url})
    for name, url in (
        ("llama", "http://gpu-1.lan:8000"),
        ("qwen", "http://127.0.0.1:8001"),
        ("plain", "http://gpu-2.lan"),
        ("six", "http://[::1]:8006/"),
        ("gpu-9:8000", "http://gpu-1.lan:8009"),
        ("twin-a", "http://gpu-3.lan:8000/a"),
        ("twin-b", "http://gpu-3.lan:8000/b"),
    )
]


@pytest.mark.parametrize(
    ("reported", "booked"),
    [
        ("llama", "llama"),
        ("gpu-1.lan:8000", "llama"),
        ("GPU-1.LAN:8000", "llama"),
        ("gpu-1.lan:8002", "gpu-1.lan:8002"),
        ("gpu-1:8000", "gpu-1:8000"),
        ("Box:8001", "qwen"),
        ("localhost:8001", "localhost:8001"),
        ("127.0.0.1:8001", "qwen"),
        ("box:8006", "six"),
        ("box:8000", "box:8000"),
        ("gpu-2.lan:80", "plain"),
        ("gpu-9:8000", "gpu-9:8000"),
        ("gpu-3.lan:8000", "gpu-3.lan:8000"),
        ("", ""),
    ],
)
def test_a_name_means_one_engine_or_itself(reported, booked):
    """By name first; by address where that means one engine; loopback is this machine; two of one address are none."""
    assert booked_name(reported, ENGINES, "box") == booked


def test_without_engines_every_name_is_its_own():
    """Nothing has to be configured for a probe to report."""
    assert booked_name("box:8000", (), "box") == "box:8000"
