"""docs/cli.md says what the commands are, all of it and nothing else."""

import os
import subprocess
import sys

import pytest
from tests.docs.pages import ROOT, rows, sections
from typer.testing import CliRunner

from farthing.cli.main import app
from farthing.cli.reference import cli_reference, manuals
from farthing.domain import errors

PAGE = (ROOT / "docs" / "cli.md").read_text()
MANUALS = manuals()
NAMES = [manual.name for manual in MANUALS]


def test_every_command_of_the_program_has_a_manual():
    """Also one that was added a minute ago."""

    def named(typer_app, prefix=""):
        for info in typer_app.registered_commands:
            yield prefix + (info.name or getattr(info.callback, "__name__", ""))
        for group in typer_app.registered_groups:
            yield from named(group.typer_instance, f"{prefix}{group.name or group.typer_instance.info.name} ")

    assert sorted(named(app)) == sorted(NAMES)
    assert len(NAMES) >= 9


@pytest.mark.parametrize("manual", MANUALS, ids=NAMES)
def test_a_command_says_what_it_does_and_gives_an_example_that_calls_it(manual):
    """A command without help is a riddle."""
    assert manual.text.endswith(".")
    assert manual.examples
    assert all(example.startswith(f"farthing {manual.name}") for example in manual.examples)


@pytest.mark.parametrize("manual", MANUALS, ids=NAMES)
def test_every_argument_and_option_has_a_meaning(manual):
    """A name alone does not tell units or effects."""
    assert manual.parameters
    for names, _, meaning in manual.parameters:
        assert meaning.endswith("."), names


@pytest.mark.parametrize("manual", MANUALS, ids=NAMES)
def test_a_command_has_a_section_with_its_options_and_examples(manual):
    """In the committed page, which is what people read."""
    section = sections(PAGE)[f"farthing {manual.name}"]
    assert manual.text in section
    told = [row[0] for row in rows(section)][1:]
    assert told == [f"`{names}`".replace("|", "\\|") for names, _, _ in manual.parameters]
    for example in manual.examples:
        assert f"\n{example}\n" in section


@pytest.mark.parametrize("name", NAMES)
def test_help_runs_and_shows_the_options_of_the_manual(name):
    """The manual is read from the same place as the help."""
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    manual = MANUALS[NAMES.index(name)]
    for names, _, _ in manual.parameters:
        assert names in shown.output


def test_defaults_and_limits_are_told():
    """Of an option with both, and of an argument that is required."""
    section = {row[0]: row[1] for row in rows(sections(PAGE)["farthing replay"])}
    assert section["`--speed <float range>`"] == "`1.0; x>=0.01`"
    assert section["`DIR\\|NAME <str>`"] == "required"
    assert section["`-o, --output <table\\|json\\|csv>`"] == "`table`"


def test_every_error_of_the_domain_has_its_exit_status_in_the_table():
    """Scripts go by the number."""
    told = {row[1].strip("`"): int(row[0]) for row in rows(sections(PAGE)["Exit status"])[1:]}
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert {kind.__name__: kind.exit_code for kind in kinds} == {name: told[name] for name in told if name}


def test_no_two_errors_share_an_exit_status():
    """Nor take one that the shell, or the command line itself, gives a meaning."""
    codes = [getattr(errors, name).exit_code for name in errors.__all__]
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 130, 141} & set(codes)


def test_the_reference_is_the_same_on_every_terminal():
    """It is committed: width, colours and language of whoever renders it must not show."""
    program = "import sys; from farthing.cli.reference import cli_reference; sys.stdout.write(cli_reference())"
    strange = {"COLUMNS": "40", "TERM": "xterm-256color", "FORCE_COLOR": "1", "LANG": "C", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **strange}, capture_output=True, text=True, check=True
    )
    assert done.stdout == cli_reference() == PAGE
