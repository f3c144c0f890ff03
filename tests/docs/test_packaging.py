"""What is installed is whole: every module and every file of data, and every entry point loads."""

import os
import shutil
import subprocess
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "collectors", "exporters", "alerts", "dashboards", "app")
ENTRY_POINTS = [entry for name in ("farthing", "farthing-probe") for entry in distribution(name).entry_points]


def files(room):
    """Every file of a room's part of the package, relative to the room."""
    found = (path for path in (ROOT / room / "farthing").rglob("*") if path.is_file())
    return {path.relative_to(ROOT / room).as_posix() for path in found if path.suffix != ".pyc"}


def portions(room):
    """The packages that a room gives to the namespace."""
    return sorted(path.parent for path in (ROOT / room / "farthing").glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_the_namespace_has_no_init(room):
    """One `farthing/__init__.py` would hide every other room (PEP 420)."""
    assert (ROOT / room / "farthing").is_dir()
    assert not (ROOT / room / "farthing" / "__init__.py").exists()


@pytest.mark.parametrize("room", ROOMS)
def test_every_portion_is_typed(room):
    """Without the marker a type checker takes the whole package for Any (PEP 561)."""
    assert portions(room)
    for portion in portions(room):
        assert (portion / "py.typed").is_file()


def test_the_rooms_are_the_same_everywhere_in_the_project_file():
    """The wheel, the editable install, mypy and ruff must see one house."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tool["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"{room}/farthing" for room in ROOMS]
    assert tool["hatch"]["build"]["dev-mode-dirs"] == list(ROOMS)
    assert set(ROOMS) <= set(tool["mypy"]["mypy_path"])
    assert set(ROOMS) <= set(tool["ruff"]["src"])


@pytest.mark.parametrize("entry", ENTRY_POINTS, ids=lambda entry: f"{entry.group}:{entry.name}")
def test_every_entry_point_loads(entry):
    """A misspelt one is found by whoever installs it, otherwise."""
    assert callable(entry.load())


def test_the_entry_points_are_the_command_and_the_plugin():
    """An installation that lost its metadata would pass the test before."""
    assert {(entry.group, entry.name) for entry in ENTRY_POINTS} == {
        ("console_scripts", "farthing"),
        ("vllm.stat_logger_plugins", "farthing"),
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel built from this tree."""
    uv = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".venv-tools" / "bin"), os.environ["PATH"]]))
    if uv is None:
        if os.environ.get("CI") == "true":
            pytest.fail("uv is not on PATH")
        pytest.skip("uv is not on PATH")
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [uv, "build", "--wheel", "--out-dir", folder, ROOT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("farthing-*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


@pytest.mark.real
def test_the_wheel_holds_every_file_of_every_room_and_nothing_else(wheel):
    """Modules, type markers, recordings, the page's assets, migrations and the engine catalogues."""
    expected = set().union(*(files(room) for room in ROOMS))
    for suffix in (".py", "py.typed", ".jsonl.gz", "index.html", ".min.js", ".mako", "engines/vllm.yaml"):
        assert any(name.endswith(suffix) for name in expected), suffix
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected


@pytest.mark.real
def test_the_wheel_carries_its_licence_and_its_command(wheel):
    """Apache-2.0 asks for the one, users for the other."""
    names = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert wheel.read(names["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
    assert b"farthing = farthing.cli.main:main" in wheel.read(names["entry_points.txt"])
    metadata = wheel.read(names["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: farthing-probe==0.1.0" in metadata
