"""The probe goes inside somebody else's process: it brings nothing along and breaks nothing."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import farthing_probe
from farthing_probe import request_meter, stat_logger

PACKAGE = Path(farthing_probe.__file__).parent
ROOT = PACKAGE.parents[2]
MODULES = sorted(PACKAGE.rglob("*.py"))
LAZY = {"vllm", "prometheus_client", "opentelemetry"}
"""What an engine's environment has: imported when asked for, inside functions."""


def run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


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
def test_modules_import_the_standard_library_only_and_the_engines_packages_inside_functions(module: Path):
    """An engine's environment is not ours to add to."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    # what only type checkers see is never imported: below, a clean environment imports every module
    unseen = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    lazy = {node for lazily in (*functions, *unseen) for node in imports_of(lazily)}
    allowed = sys.stdlib_module_names | {"farthing_probe"}
    for node, names in imports_of(tree).items():
        assert names <= (allowed | LAZY if node in lazy else allowed)


def test_the_package_is_written_in_the_python_of_the_oldest_engines(tmp_path: Path):
    """Syntax and library of 3.10, which vLLM 0.11 runs on; checked by types, since not every machine has one."""
    for module in MODULES:
        ast.parse(module.read_text(encoding="utf-8"), feature_version=(3, 10))
    mypy = [sys.executable, "-m", "mypy", "--python-version", "3.10", "--cache-dir", str(tmp_path)]
    run(*mypy, PACKAGE)
    newer = tmp_path / "newer.py"
    newer.write_text("from datetime import UTC\n")
    with pytest.raises(AssertionError, match=r"newer\.py:1: error"):
        run(*mypy, newer)


def test_the_wheel_declares_no_dependency_and_the_plugin(wheel: Path):
    """What an installer reads."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        entry_points = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    assert "Requires-Dist" not in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert "# farthing-probe" in metadata, "the README is its description"
    assert entry_points.split() == [
        "[vllm.stat_logger_plugins]",
        "farthing",
        "=",
        "farthing_probe.stat_logger:FarthingStatLogger",
    ]
    assert {f"farthing_probe/{module.name}" for module in MODULES} | {"farthing_probe/py.typed"} <= set(names)


IN_A_CLEAN_ENVIRONMENT = """
import sys
before = set(sys.modules)  # Debian's Python brings a sitecustomize of its own
import importlib, json, pkgutil
import farthing_probe
names = [module.name for module in pkgutil.iter_modules(farthing_probe.__path__)]
for name in names:
    importlib.import_module(f"farthing_probe.{name}")
from importlib.metadata import distributions, entry_points
(plugin,) = entry_points(group="vllm.stat_logger_plugins")
ours = {"farthing_probe", "__main__", "__mp_main__"}
brought = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names - ours
print(json.dumps({
    "distributions": [each.metadata["Name"] for each in distributions()],
    "brought": sorted(brought),
    "modules": sorted(names),
    "plugin": [plugin.name, plugin.load().__qualname__, plugin.load().__mro__[-1].__name__],
    "middleware": farthing_probe.RequestMeter.__qualname__,
    "meter": type(farthing_probe.meter).__name__,
    "all": sorted(farthing_probe.__all__),
    "file": farthing_probe.__file__,
}))
"""


def test_the_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path):
    """Nothing but the wheel and the standard library: everything imports, and what others name resolves."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path)
    python = tmp_path / "bin/python"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(next(tmp_path.glob("lib/python*/site-packages")))
    told = json.loads(run(python, "-I", "-W", "error", "-c", IN_A_CLEAN_ENVIRONMENT))
    assert Path(told.pop("file")).is_relative_to(tmp_path)
    assert told == {
        "distributions": ["farthing-probe"],
        "brought": [],
        "modules": sorted(module.stem for module in MODULES if module.stem != "__init__"),
        "plugin": ["farthing", "FarthingStatLogger", "object"],
        "middleware": "RequestMeter",
        "meter": "function",
        "all": ["RequestMeter", "meter"],
    }


def test_what_the_package_offers_is_there_whatever_was_imported_before():
    """A module of the name of a function would hide it."""
    assert farthing_probe.RequestMeter is request_meter.RequestMeter
    assert callable(farthing_probe.meter)
    assert not {module.stem for module in MODULES} & set(farthing_probe.__all__)
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = farthing_probe.Nonsense


def test_without_vllm_the_plugin_is_a_plain_class_made_once():
    """Asking twice gives one class; asking for something else is an ordinary error."""
    assert "vllm" not in sys.modules
    made = stat_logger.FarthingStatLogger
    assert made is stat_logger.FarthingStatLogger
    assert (made.__name__, made.__module__) == ("FarthingStatLogger", "farthing_probe.stat_logger")
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = stat_logger.Nonsense  # type: ignore[attr-defined]
