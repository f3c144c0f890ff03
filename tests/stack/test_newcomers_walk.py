"""tools/newcomers_walk.py, as far as no container is needed: what it reads, what it hands on, and what it writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools import newcomers_walk
from tools.newcomers_walk import Step, WalkError, commands_of, passed_on, table_of, terminal_text

ROOT = Path(__file__).parents[2]


def test_the_two_commands_of_the_readme_are_those_that_are_walked():
    """Without their comments, as somebody types them."""
    assert commands_of((ROOT / "README.md").read_text()) == ("make up", "make test")


@pytest.mark.parametrize(
    ("section", "count"),
    [
        ("", 0),
        ("## Two commands\n\n    make up\n", 1),
        ("## Two commands\n\n    make up\n    make test\n    make coffee\n", 3),
        ("## Two commands\n\nmake up and make test\n\n## More\n\n    one\n    two\n", 0),
    ],
)
def test_a_readme_with_another_number_of_commands_is_refused(section, count):
    """It promises two, in their own section."""
    with pytest.raises(WalkError, match=f"has {count} commands; it promises two"):
        commands_of(f"# Farthing\n\n    elsewhere\n\n{section}")


def test_the_table_has_a_line_for_each_step_and_says_of_what():
    """Markdown, whole seconds."""
    steps = [Step("a bare Debian 12", 61.7, "minbase"), Step("`make up`", 0.2, "every part answers")]
    assert table_of(steps, "abc1234") == (
        f"Commit abc1234, {os.cpu_count()} processors.\n"
        "\n"
        "| step | seconds | what was seen |\n"
        "|---|---:|---|\n"
        "| a bare Debian 12 | 62 | minbase |\n"
        "| `make up` | 0 | every part answers |\n"
    )


def test_what_stood_on_the_terminal_is_read_without_what_is_not_of_the_program():
    """As `script` of util-linux 2.38 keeps it."""
    kept = (
        'Script started on 2026-11-27 12:38:40+00:00 [COMMAND="/root/up.sh" TERM="xterm"]\r\n'
        "\x1b[1mlogs        \x1b[0m\x1b[1m  \x1b[0m/root/farthing/.farthing/logs\r\n"
        "stopping\r\nstopped\r\n\n"
        'Script done on 2026-11-27 12:38:57+00:00 [COMMAND_EXIT_CODE="130"]\n'
    )
    assert terminal_text(kept).split() == ["logs", "/root/farthing/.farthing/logs", "stopping", "stopped"]


def test_settings_of_package_indexes_are_passed_on_and_nothing_else(tmp_path, monkeypatch):
    """No token, no path of this machine."""
    monkeypatch.setattr(newcomers_walk, "AUTHORITIES", tmp_path / "none")
    indexes = {"PIP_INDEX_URL": "https://mirror.example/simple", "npm_config_registry": "https://mirror.example/npm"}
    others = {"PATH": "/bin", "FARTHING_INTAKE_TOKEN": "secret", "SSL_CERT_FILE": "/here/alone.pem", "XPIP_": "1"}
    assert passed_on({**indexes, **others}) == indexes


def test_a_machine_with_authorities_of_its_own_tells_whom_to_trust_where_debian_keeps_them(tmp_path, monkeypatch):
    """Its own bundle may lie elsewhere, and the container's does not."""
    monkeypatch.setattr(newcomers_walk, "AUTHORITIES", tmp_path)
    (tmp_path / "ours.crt").touch()
    trusting = ("PIP_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
    kept = passed_on({"PIP_CERT": "/here/alone.pem"})
    assert kept == dict.fromkeys(trusting, "/etc/ssl/certs/ca-certificates.crt")


def test_the_walk_needs_the_standard_library_alone():
    """Whoever walks has no environment yet: neither the project nor any package is importable."""
    command = [sys.executable, "-I", "-S", str(ROOT / "tools" / "newcomers_walk.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--skip-tests" in done.stdout
