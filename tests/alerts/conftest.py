"""The recorded phases in a Prometheus, made once for all tests that ask it."""

import pytest
from tests.alerts.recorded_world import recorded_world

QUIET_SECONDS = 4500
"""Longer than any alert waits before it fires."""


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Both packaged recordings, phase by phase."""
    lasts = {"c1": QUIET_SECONDS, "idle": QUIET_SECONDS}
    with recorded_world(tmp_path_factory.mktemp("recorded"), lasts_seconds=lasts, usual_seconds=1500) as world:
        yield world
