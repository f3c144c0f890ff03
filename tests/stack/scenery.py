"""What the tests of the stack share: free ports, stand-ins, programs that must be there in CI."""

import io
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from rich.console import Console

from farthing.settings import Settings
from farthing.stack.effective import shift_ports
from farthing.stack.programs import Programs

STAND_IN = Path(__file__).with_name("stand_in.py")
DEFAULT_PORTS = sorted(
    {
        Settings().serve.port,
        *(getattr(Settings().stack, name) for name in type(Settings().stack).model_fields if name.endswith("_port")),
    }
)


def require(*names: str) -> str:
    """The first of the programs on PATH; without one the test is skipped, and fails in CI."""
    for name in names:
        if found := shutil.which(name):
            return found
    problem = f"{' or '.join(names)} is not on PATH"
    if os.environ.get("CI") == "true":
        pytest.fail(problem)
    pytest.skip(problem)


def stand_in_programs() -> Programs:
    """The real Prometheus and Alertmanager around stand-ins for Farthing."""
    return Programs(
        prometheus=(require("prometheus"),),
        alertmanager=(require("prometheus-alertmanager", "alertmanager"),),
        farthing=(sys.executable, str(STAND_IN)),
    )


def free_offset(start: int) -> int:
    """An offset above ``start`` at which every port of a stack can be bound, below the kernel's ephemeral range."""
    # two runs of the tests at once begin at different places
    for offset in range(start + os.getpid() % 50, 15_000, 50):
        if all(_free(port + offset) for port in DEFAULT_PORTS):
            return offset
    raise AssertionError("no free range of ports")


def shifted(state: Path, offset: int) -> Settings:
    """Settings of a stack in ``state`` with its ports moved."""
    return shift_ports(Settings.model_validate({"stack": {"state_dir": state}}), offset)


def paper() -> tuple[Console, io.StringIO]:
    """A console that is no terminal, and what is printed on it."""
    text = io.StringIO()
    return Console(file=text, width=80), text


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
