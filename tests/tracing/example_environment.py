"""The environment of the RAG example, in which its tests run it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.integration.probe.stand import missing

__all__ = ["example_python"]

MAKE_ENVIRONMENT = Path(__file__).parents[2] / "tools/example_env.sh"


@pytest.fixture(scope="session")
def example_python() -> Path:
    """The interpreter of the example's environment."""
    made = subprocess.run([str(MAKE_ENVIRONMENT)], capture_output=True, text=True, check=False)
    if made.returncode:
        missing(f"no environment for the example: {made.stderr.strip()}")
    return Path(made.stdout.strip())
