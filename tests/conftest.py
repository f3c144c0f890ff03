"""Fixtures of every room: the databases that a ledger can be in; and which tests need the machine to themselves."""

from pathlib import Path

import pytest
from hypothesis import settings
from tests.ledger.databases import ledger_url, new_ledger_url, postgres, server_programs

__all__ = ["ledger_url", "new_ledger_url", "postgres", "server_programs"]

# a slow machine is no reason for a test to fail, wherever it runs
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")

TESTS = Path(__file__).parent
ALONE = (
    "dashboards/test_panels_have_data.py",
    "dashboards/test_values.py",
    "e2e",
    "integration/engine",
    "integration/probe",
    "integration/test_alert_delivery.py",
    "integration/test_alerts_end_to_end.py",
    "integration/test_engine_through_prometheus.py",
    "stack/test_native.py",
)
"""Where real tests run an engine on every core, watch seconds pass, or take a stack's whole range of ports."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what must run alone, before tests are chosen by their marks."""
    places = [TESTS / place for place in ALONE]
    for item in items:
        if item.get_closest_marker("real") and any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.alone)
