"""The Makefile and the scripts behind it."""

import re
import subprocess
from pathlib import Path

import pytest
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
    copy = tmp_path / "tools" / "bootstrap.sh"
    copy.parent.mkdir()
    copy.write_text(script)
    done = subprocess.run(
        ["/usr/bin/bash", copy, "dev"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "bootstrap: these packages are missing; as root: "
        f"apt-get install --no-install-recommends prometheus-alertmanager chromium docker-compose{missing}\n"
    )
    assert not (tmp_path / ".venv").exists()


def test_the_lock_names_the_public_index_only():
    """A mirror's address in it would break every other machine."""
    hosts = set(re.findall(r"https?://([^/\"]+)", (ROOT / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
