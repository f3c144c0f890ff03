"""Real parts that integration tests share."""

import pytest
from tests.integration.engine.real_engine import RealEngine, engine_models, engine_python, real_engine

__all__ = ["engine_models", "engine_python", "real_engine"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Show the end of the engine's log with a test that failed on it."""
    report = yield
    for value in getattr(item, "funcargs", {}).values() if report.failed else ():
        if isinstance(value, RealEngine):
            report.sections.append(("engine log, last lines", value.log_tail()))
    return report
