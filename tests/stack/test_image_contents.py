"""What is in farthing's image: an environment trimmed to what runs, and a bill of all of it."""

import json
import marshal
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path

import pytest
from tests.stack.scenery import require

ROOT = Path(__file__).parents[2]
SECONDS = 1_700_000_000
UNCHECKED_HASH = 0b01
"""A bytecode file's flags: made of the source's hash, and never checked against it (PEP 552)."""
FLAGS = slice(4, 8)
CODE = slice(16, None)


def program(name):
    """The names that a program of the images' defines."""
    return runpy.run_path(str(ROOT / "deploy/images" / name))


def environment(folder, note):
    """A virtual environment with one library that ships its tests, stubs and headers."""
    packages = folder / "lib/python3.11/site-packages"
    files = {
        "library/__init__.py": "X = {'b', 'a'}\n",
        "library/__init__.pyi": "X: set[str]\n",
        "library/include/library.h": "",
        "library/deep/__init__.py": "",
        "library/deep/tests/__init__.py": "assert 0\n",
        "library/testing.py": "",
        "tests/__init__.py": "",
        "library-1.dist-info/METADATA": "Metadata-Version: 2.4\nName: library\nVersion: 1\n",
        "library-1.dist-info/uv_cache.json": note,
    }
    for name, text in files.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    (folder / "bin").mkdir()
    (folder / "bin/library").write_text("#!/bin/sh\n")
    (folder / "bin/python").symlink_to("/usr/bin/python3")
    rows = [f"{name},sha256=x,1" for name in [*files, "../../../bin/library", "library-1.dist-info/RECORD"]]
    (packages / "library-1.dist-info/RECORD").write_text("\n".join(rows) + "\n")
    return packages


def test_trimming_takes_what_no_program_reads_and_the_record_knows(tmp_path):
    """Tests, stubs, headers and uv's notes go, whole modules stay, and RECORD names what is there."""
    packages = environment(tmp_path, "one")
    program("trim.py")["main"](tmp_path, SECONDS)
    left = {path.relative_to(packages).as_posix() for path in packages.rglob("*") if path.is_file()}
    left = {name for name in left if "__pycache__" not in name}
    assert left == {
        *("library/__init__.py", "library/deep/__init__.py", "library/testing.py", "tests/__init__.py"),
        *("library-1.dist-info/METADATA", "library-1.dist-info/RECORD"),
    }
    record = (packages / "library-1.dist-info/RECORD").read_text().splitlines()
    assert {line.split(",")[0] for line in record} == left | {"../../../bin/library"}


def test_a_traceback_is_still_shown_in_colour_by_what_is_left_of_pygments(tmp_path):
    """Of its languages Python is left; Rich finds it by a file's name and by its own."""
    packages = environment(tmp_path, "one")
    pygments = Path(next(iter(__import__("pygments").__path__)))
    shutil.copytree(pygments, packages / "pygments")
    program("trim.py")["main"](tmp_path, SECONDS)
    left = {path.stem for path in (packages / "pygments/lexers").glob("*.py")}
    assert {"python", "special", "web"} < left
    assert not left & {"business", "_stata_builtins"}
    assert len(left) < len(list((pygments / "lexers").glob("*.py"))) / 4
    shown = """
import io, sys
from rich.console import Console
from rich.syntax import Syntax
from rich.traceback import Traceback
import pygments
assert pygments.__path__[0].startswith(sys.argv[1]), pygments.__path__
try:
    raise ValueError("x")
except ValueError:
    Console(file=io.StringIO(), force_terminal=True).print(Traceback())
assert Syntax.guess_lexer("serve.py", "import os") == "python"
console = Console(file=io.StringIO(), force_terminal=True)
console.print(Syntax("import os", "python"))
assert "\x1b[" in console.file.getvalue()
"""
    subprocess.run([sys.executable, "-c", shown, str(packages)], env={"PYTHONPATH": str(packages)}, check=True)


def test_trimmed_bytecode_is_never_checked_and_every_time_is_the_one_given(tmp_path):
    """A source that is touched by a copy does not make every start compile everything again."""
    packages = environment(tmp_path, "one")
    program("trim.py")["main"](tmp_path, SECONDS)
    compiled = sorted(packages.rglob("*.pyc"))
    assert len(compiled) == len(list(packages.rglob("*.py")))
    for path in compiled:
        assert int.from_bytes(path.read_bytes()[FLAGS], "little") == UNCHECKED_HASH
        assert marshal.loads(path.read_bytes()[CODE]).co_filename.startswith(str(packages))  # noqa: S302  # just written
    times = {path.lstat().st_mtime for path in [tmp_path, *tmp_path.rglob("*")]}
    assert times == {float(SECONDS)}


def test_two_trimmed_environments_are_the_same_to_the_byte(tmp_path, monkeypatch):
    """Whatever uv noted of the moment, and in whatever order its workers compiled."""
    held = []
    for note in ("one", "another"):
        folder = tmp_path / "environment"
        packages = environment(folder, note)
        program("trim.py")["main"](folder, SECONDS)
        held.append({path.relative_to(folder): path.read_bytes() for path in packages.rglob("*") if path.is_file()})
        shutil.rmtree(folder)
    assert held[0] == held[1]


def test_a_folder_that_is_no_environment_is_refused(tmp_path):
    """An empty image would be very small."""
    with pytest.raises(SystemExit, match="is no virtual environment: it has 0 site-packages folders"):
        program("trim.py")["main"](tmp_path, SECONDS)


def export():
    """What uv says of everything in the lock file."""
    uv = require_uv()
    command = [uv, "export", "--frozen", "--all-extras", "--all-groups", "--format", "cyclonedx1.5"]
    done = subprocess.run([*command, "--quiet"], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def require_uv():
    """uv of the tools' environment, else of PATH."""
    own = ROOT / ".venv-tools/bin/uv"
    return str(own) if own.exists() else require("uv")


@pytest.fixture(scope="module")
def lock():
    """The lock file in CycloneDX, of every group and extra."""
    return export()


@pytest.fixture(scope="module")
def bill(lock):
    """The bill of materials of the environment that these tests run in, and of this machine's Debian packages."""
    sbom = program("sbom.py")
    found = sbom["installed"](Path(sys.prefix))
    return sbom["bill"](lock, found, Path("/var/lib/dpkg/status").read_text(), SECONDS)


@pytest.mark.real
def test_the_bill_names_every_distribution_that_is_installed_with_its_version(bill):
    """Against what Python's own metadata says is there, not against the lock."""
    packages = list(Path(sys.prefix).glob("lib/python3.*/site-packages"))
    installed = {
        (re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version)
        for found in distributions(path=[str(path) for path in packages])
    }
    listed = {
        (component["name"], component["version"])
        for component in [*bill["components"], bill["metadata"]["component"]]
        if not component.get("purl", "pkg:pypi/").startswith(("pkg:deb/", "pkg:generic/"))
    }
    assert len(installed) > 50
    assert listed == installed


@pytest.mark.real
def test_the_bill_names_every_debian_package_with_its_version(bill):
    """Against dpkg's own list."""
    shown = subprocess.run(
        [require("dpkg-query"), "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"],
        capture_output=True,
        text=True,
        check=True,
    )
    installed = Counter(
        line.removeprefix("installed ") for line in shown.stdout.splitlines() if line[:9] == "installed"
    )
    listed = Counter(
        f"{component['name']} {component['version']}"
        for component in bill["components"]
        if component.get("purl", "").startswith("pkg:deb/")
    )
    assert listed == installed


@pytest.mark.real
def test_the_bill_gives_licences_hashes_and_who_depends_on_whom(bill):
    """What an auditor asks of it."""
    known = {component["bom-ref"]: component for component in bill["components"]}
    assert len(known) == len(bill["components"]), "a reference names two components"
    (starlette,) = (component for component in known.values() if component["name"] == "starlette")
    assert starlette["licenses"] == [{"license": {"name": "BSD-3-Clause"}}] or starlette["licenses"] == [
        {"expression": "BSD-3-Clause"}
    ]
    assert all(part["hashes"][0]["alg"] == "SHA-256" for part in starlette["externalReferences"])
    (mine,) = (entry for entry in bill["dependencies"] if entry["ref"] == bill["metadata"]["component"]["bom-ref"])
    assert starlette["bom-ref"] in mine["dependsOn"]
    for entry in bill["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= {*known, bill["metadata"]["component"]["bom-ref"]}
    python = [component for component in known.values() if component.get("purl", "").startswith("pkg:pypi/")]
    unlicensed = [component["name"] for component in python if "licenses" not in component]
    assert not unlicensed


@pytest.mark.real
def test_the_bill_is_the_same_for_the_same_image_and_another_for_another(lock):
    """Its number is made of its content, its time is the sources'."""
    sbom = program("sbom.py")
    found = sbom["installed"](Path(sys.prefix))
    one, same, later = (sbom["bill"](lock, found, "", seconds) for seconds in (SECONDS, SECONDS, SECONDS + 1))
    assert one == same
    assert one["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    assert later["serialNumber"] != one["serialNumber"]


@pytest.mark.real
def test_an_environment_that_differs_from_the_lock_has_no_bill(lock):
    """A distribution that somebody installed by hand would be in the image and in no list."""
    sbom = program("sbom.py")
    found = sbom["installed"](Path(sys.prefix))
    less = {**lock, "components": [part for part in lock["components"] if part["name"] != "starlette"]}
    with pytest.raises(SystemExit, match=r"sbom: starlette \S+ is installed, but it is not in the lock file"):
        sbom["bill"](less, found, "", SECONDS)


def test_a_package_that_was_removed_is_not_on_the_bill():
    """dpkg keeps a stanza for the configuration that is left."""
    status = (
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: amd64\n\n"
        "Package: libstdc++6\nStatus: install ok installed\nVersion: 1:12.2.0-14+deb12u1\nArchitecture: amd64\n"
    )
    (component,) = program("sbom.py")["debian_components"](status)
    assert component["purl"] == "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14%2Bdeb12u1?arch=amd64"
