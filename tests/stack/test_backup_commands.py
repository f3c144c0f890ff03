"""`farthing backup` and `farthing restore`: what they say, and what they let Docker Compose do."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.commands import Ran
from tests.ledger.booked import fill

from farthing.domain.errors import BackupError, ConfigError
from farthing.ledger.repository import Ledger

DOCKER = """#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([words, {k: os.environ[k] for k in os.environ if k.startswith("FARTHING_")}]) + "\\n")
if words[:2] == ["compose", "version"]:
    print("v2.40.0")
elif "ps" in words:
    print(os.environ.get("RUNNING", ""))
elif "run" in words:
    sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A stack's folder with a ledger, and a Docker that notes what it is asked."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/.farthing/ledger.db")
    fill(ledger)
    ledger.close()
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


def farthing(*words: str, cwd: Path) -> Ran:
    """The command in a process that has this one's environment."""
    command = [sys.executable, "-m", "farthing.cli.main", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def calls(folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    """What Docker was asked, with its environment."""
    return [(words, environment) for words, environment in map(json.loads, (folder / "calls").read_text().splitlines())]


def test_a_native_stack_is_backed_up_and_restored_by_name_or_into_a_folder(folder):
    """What is in the file is told, part by part."""
    ran = farthing("backup", "a.tar", cwd=folder)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("a.tar: ")
    assert "  ledger " in ran.out
    assert "  prometheus: there was nothing" in ran.out
    (folder / "kept").mkdir()
    assert farthing("backup", "kept", cwd=folder).code == 0
    (named,) = (folder / "kept").iterdir()
    assert named.name.startswith("farthing-2")
    assert named.name.endswith(".tar.gz")
    ran = farthing("restore", "a.tar", cwd=folder)
    assert (ran.code, ran.out) == (BackupError.exit_code, "")
    assert ran.err.count("\n") == 1
    ran = farthing("restore", "a.tar", "--force", cwd=folder)
    assert ran.code == 0, ran.err
    assert "restored as of" in ran.out
    assert not (folder / "calls").exists()


def test_a_service_in_a_folder_too_deep_for_a_supervisors_socket_is_backed_up_and_restored(folder):
    """`farthing up` alone asks for a short path: looking whether anything runs there needs none."""
    deep = folder / ("d" * 120)
    (folder / ".farthing").rename(deep)
    (folder / "farthing.yaml").write_text(f"stack: {{state_dir: {deep}}}\n")
    ran = farthing("backup", "a.tar", cwd=folder)
    assert ran.code == 0, ran.err
    ran = farthing("restore", "a.tar", "--force", cwd=folder)
    assert ran.code == 0, ran.err
    assert "restored as of" in ran.out
    ran = farthing("secrets", "reveal", cwd=folder)
    assert (ran.code, ran.out) == (0, "")


def test_containers_are_backed_up_by_their_own_service_into_the_folder_that_was_named(folder):
    """Where `farthing up` started containers here; its exit status is the command's."""
    (folder / ".farthing" / "compose.json").write_text('{"project": "farthing-7"}')
    (folder / "kept").mkdir()
    ran = farthing("backup", "kept/a.tar.gz", "--with-secrets", "--force", cwd=folder)
    assert ran.code == 3
    words, environment = calls(folder)[-1]
    assert words[words.index("--project-name") + 1] == "farthing-7"
    assert words[words.index("run") :] == [
        *("run", "--rm", "-T", "backup", "--force", "--with-secrets", "/backups/a.tar.gz")
    ]
    assert environment["FARTHING_BACKUPS"] == str(folder / "kept")
    assert environment["FARTHING_BACKUP_NETWORK"] == "none"


def test_containers_are_restored_only_when_none_is_there(folder, monkeypatch):
    """Prometheus would write into what is replaced."""
    (folder / "a.tar").write_text("")
    monkeypatch.setenv("RUNNING", "0123456789ab")
    ran = farthing("restore", "a.tar", "--compose", cwd=folder)
    assert ran.code == BackupError.exit_code
    assert "farthing down" in ran.err
    monkeypatch.setenv("RUNNING", "")
    (folder / "farthing.yaml").write_text("ledger: postgresql://db/farthing\n")
    assert farthing("restore", "a.tar", "--compose", cwd=folder).code == 3
    words, environment = calls(folder)[-1]
    assert words[words.index("run") :] == ["run", "--rm", "-T", "restore", "/backups/a.tar"]
    # a container without a network would not reach the database
    assert environment["FARTHING_BACKUP_NETWORK"] == "bridge"
    # what it mounts is there, also where nothing was started before
    assert (Path(environment["FARTHING_COMPOSE_CONFIG"]) / "farthing" / "farthing.yaml").exists()


def test_owners_go_with_volumes_alone(folder):
    """Nobody gives the files of a native stack away by mistake."""
    ran = farthing("restore", "a.tar", "--owners", "prometheus=1:1", cwd=folder)
    assert ran.code == ConfigError.exit_code
