"""The Makefile and the scripts behind it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ALONE
from tests.stack.scenery import require

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
SCRIPTS = [ROOT / ".ci" / "run", *sorted((ROOT / "tools").glob("*.sh"))]


def test_help_is_the_default_and_lists_every_target():
    """A target without a description is not listed, so it fails here."""
    done = subprocess.run(
        [require("make"), "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True
    )
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert listed == set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert listed == set(re.findall(r"^\.PHONY: (\S+)$", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("test", ["not alone", "alone"]),
        ("unit", ["not real"]),
        ("integration", ["real and not alone", "alone"]),
    ],
)
def test_every_test_is_in_one_run_and_a_run_that_fails_fails_the_target(tmp_path, target, runs):
    """A mark and its absence leave out no test and take none twice; only real tests run alone."""
    (tmp_path / "Makefile").write_text(re.sub(rf"(?m)^{target}:.*##", f"{target}: ##", MAKEFILE))
    for name in ("tools/bootstrap.sh", "pytest"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('#!/bin/sh\n[ "$1" = python ] || echo "$2" >>runs\n[ "$2" != "$FAILING" ]\n')
        path.chmod(0o755)
    command = [require("make"), "-C", tmp_path, "BIN=./", target]
    for failing in ("none of them", *runs):
        (tmp_path / "runs").unlink(missing_ok=True)
        environment = {**os.environ, "FAILING": failing}
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert (done.returncode != 0) == (failing in runs), done.stderr
        ran = (tmp_path / "runs").read_text().splitlines()
        assert ran == (runs[: runs.index(failing) + 1] if failing in runs else runs)


def test_the_places_whose_tests_run_alone_are_there():
    """One that was renamed would share the machine unnoticed."""
    assert all((ROOT / "tests" / place).exists() for place in ALONE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_strict_executable_and_parses(script):
    """An undefined variable or a failed command ends it."""
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert script.stat().st_mode & 0o111
    subprocess.run([require("bash"), "-n", script], check=True)


@pytest.mark.parametrize(("postgresql", "missing"), [(False, " postgresql"), (True, "")])
def test_bootstrap_without_root_says_exactly_what_to_install(tmp_path, postgresql, missing):
    """And changes nothing. PostgreSQL's programs count where Debian puts them, for that is not on PATH."""
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(Path("/usr/bin") / name)
    (tmp_path / "apt-get").write_text("#!/usr/bin/env bash\necho called >&2\n")
    (tmp_path / "apt-get").chmod(0o755)
    (tmp_path / "prometheus").symlink_to("/bin/true")
    if postgresql:
        programs = tmp_path / "postgresql" / "15" / "bin"
        programs.mkdir(parents=True)
        (programs / "initdb").symlink_to("/bin/true")
    script = (ROOT / "tools" / "bootstrap.sh").read_text().replace("EUID != 0", "1")
    script = script.replace("/usr/lib/postgresql", str(tmp_path / "postgresql"))
    script = script.replace("/libnuma.so.1", "/of-another-name.so.1")
    copy = tmp_path / "tools" / "bootstrap.sh"
    copy.parent.mkdir()
    copy.write_text(script)
    done = subprocess.run(
        ["/usr/bin/bash", copy, "dev"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "bootstrap: these packages are missing; as root: "
        "apt-get install --no-install-recommends prometheus-alertmanager chromium debootstrap docker-compose docker.io "
        f"iproute2 libnuma1{missing} victoria-metrics\n"
    )
    assert not (tmp_path / ".venv").exists()


def test_bootstrap_installs_the_published_types_when_their_lock_is_newer_and_again_after_a_failure(tmp_path):
    """With npm's own exit status: what a failure leaves behind does not count as installed."""
    types = tmp_path / "tests" / "dashboards" / "schema"
    stamp = types / "node_modules" / ".package-lock.json"
    for path in (types / "node_modules", tmp_path / "tools", tmp_path / "bin"):
        path.mkdir(parents=True)
    for name in (
        "pyproject.toml",
        "uv.lock",
        "collectors/probe/pyproject.toml",
        "tests/dashboards/schema/package-lock.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    programs = ("prometheus", "prometheus-alertmanager", "chromium", "docker-compose", "initdb")
    for name in (*(f"bin/{one}" for one in programs), ".venv-tools/bin/uv"):
        stand_in(tmp_path / name, "exit 0")
    stand_in(
        tmp_path / ".venv" / "bin" / "python",
        f'[ "$3" = ci ] || exit 0\necho "$@" >>{tmp_path}/calls\n[ -z "$FAILING" ] || exit 1\ntouch {stamp}',
    )
    (tmp_path / ".venv" / ".synced").touch()
    (tmp_path / "tools" / "bootstrap.sh").write_text((ROOT / "tools" / "bootstrap.sh").read_text())

    def bootstrap(failing: str = "") -> tuple[int, str]:
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHON": sys.executable, "FAILING": failing}
        command = ["/usr/bin/bash", tmp_path / "tools" / "bootstrap.sh", "dev"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    def calls() -> int:
        return len((tmp_path / "calls").read_text().splitlines())

    assert bootstrap("yes")[0] == 1
    assert bootstrap() == (0, "bootstrap: installing Grafana's published types\n")
    assert bootstrap() == (0, "")
    assert calls() == 2
    os.utime(types / "package-lock.json", ns=(stamp.stat().st_mtime_ns + 10**9,) * 2)
    code, said = bootstrap("yes")
    assert code == 1
    assert said.splitlines()[-1].startswith("bootstrap: npm could not install them")
    assert bootstrap()[0] == 0
    assert calls() == 4


def stand_in(path: Path, script: str) -> None:
    """A program that does as told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_lock_names_the_public_index_only():
    """A mirror's address in it would break every other machine."""
    hosts = set(re.findall(r"https?://([^/\"]+)", (ROOT / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
