"""Help: every command explains itself with an example that it understands, and quickly."""

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from tests.cli.commands import farthing

from farthing.cli.main import app

ROOT: Any = typer.main.get_command(app)


def _leaves(prefix, group):
    """Every command by the words that call it; a group is only the way to its commands."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(f"{prefix}{name} ", command)
        else:
            yield f"{prefix}{name}", command


LEAVES = dict(_leaves("", ROOT))
COMMANDS = sorted(LEAVES)
HEAVY = ("numpy", "scipy", "sqlalchemy", "pydantic", "alembic", "httpx", "uvicorn", "starlette", "msgspec", "yaml")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, tmp_path):
    """What it does in a sentence, and a line to copy."""
    ran = farthing(*command.split(), "--help", cwd=tmp_path)
    assert ran.code == 0
    assert ran.err == ""
    first = ran.out.split("\n\n")[1].strip()
    assert first.endswith(".")
    assert re.search(rf"Examples?:\s+farthing {command}", ran.out), ran.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_is_one_that_the_command_takes(command):
    """An example with an option that has been renamed would be worse than none."""
    found = LEAVES[command]
    examples = re.findall(rf"farthing {command}\b[^\n]*", found.help)
    assert examples
    for example in examples:
        arguments = shlex.split(example)[1 + len(command.split()) :]
        assert found.make_context(command, arguments).params


def test_help_lists_every_command(tmp_path):
    """`farthing` alone, `-h` and `--help` are the way in."""
    for arguments in ((), ("-h",), ("--help",)):
        ran = farthing(*arguments, cwd=tmp_path)
        assert all(re.search(rf"^\s+{name}\s", ran.out + ran.err, re.MULTILINE) for name in ROOT.commands)


def test_help_imports_nothing_heavy():
    """Whoever asks what a command is called must not wait for numpy to load."""
    script = (
        "import sys\n"
        "sys.argv = ['farthing', '--help']\n"
        "from farthing.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted(set(sys.modules)), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage:" in ran.stdout
    loaded = ran.stderr.splitlines()[-1]
    assert [name for name in HEAVY if f"'{name}'" in loaded] == []


def test_the_version_is_that_of_the_distribution(tmp_path):
    """One number, from the package's metadata."""
    assert re.fullmatch(r"farthing \d+\.\d+\.\d+\n", farthing("--version", cwd=tmp_path).out)


@pytest.mark.parametrize(
    "arguments",
    [["report", "--by", "nobody"], ["replay"], ["serve", "--port", "x"], ["nonsense"], ["prices", "-o", "xml"]],
)
def test_a_wrong_use_is_exit_status_two_with_usage(arguments, tmp_path):
    """As every command line does."""
    ran = farthing(*arguments, cwd=tmp_path)
    assert ran.code == 2
    assert ran.err.startswith("Usage: farthing")
    assert "Traceback" not in ran.err
