"""What the pages point at is there: files, headings, targets of make, commands, options, settings."""

import re
import shlex

import pytest
from tests.docs.pages import GUIDES, ROOT, all_pages, anchors, blocks, links, typed_lines

from farthing.cli.reference import PROGRAM, manuals
from farthing.settings import parse_settings

PAGES = all_pages()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def name(path):
    """A page's path as a test's id."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_to_a_file_and_a_heading_of_it(page):
    """A moved file takes its links along."""
    for target in links(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if fragment:
            assert fragment in anchors(there.read_text()), target


def test_the_pages_of_every_room_are_looked_at():
    """A walk that misses a folder would pass whatever is in it."""
    found = {name(path) for path in PAGES}
    assert {
        "README.md",
        "docs/README.md",
        "collectors/probe/README.md",
        "alerts/runbooks/FarthingTargetDown.md",
    } <= found


def test_every_page_of_the_documentation_is_in_its_index():
    """A page that nobody can find is not documentation."""
    index = {target.partition("#")[0] for target in links((ROOT / "docs" / "README.md").read_text())}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= index


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_every_make_target_that_a_page_names_exists(page):
    """Nothing is more discouraging than a first command that fails."""
    named = {target for line in typed_lines(page.read_text()) for target in re.findall(r"^make ([a-z-]+)", line)}
    assert named <= TARGETS


def test_the_readme_gives_the_two_commands():
    """The one that shows it, and the one that tests it."""
    named = typed_lines((ROOT / "README.md").read_text())
    assert {"make up", "make test"} <= set(named)


def called(page):
    """Every farthing command that a page gives, as words."""
    lines = [line.removeprefix(".venv/bin/") for line in typed_lines(page.read_text())]
    return [shlex.split(line) for line in lines if line.startswith(f"{PROGRAM} ")]


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_every_command_that_a_page_gives_exists_with_its_options(page):
    """Renaming an option must not leave an old one behind in a guide."""
    known = {manual.name: manual for manual in manuals()}
    for words in called(page):
        if words[1] in {"COMMAND", "[OPTIONS]"} or words[1].startswith("-"):
            continue
        command = words[1] if words[1] in known else " ".join(words[1:3])
        assert command in known, words
        options = {part for names, _, _ in known[command].parameters for part in re.findall(r"--?[a-z-]+", names)}
        assert {word for word in words[2:] if word.startswith("-")} <= options | {"--help"}, words


def test_the_guides_give_commands():
    """Otherwise the test before would pass on nothing."""
    assert len(called(ROOT / "docs" / "quickstart.md")) >= 6


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_every_yaml_block_is_a_valid_farthing_yaml(page):
    """People copy it."""
    for block in blocks(page.read_text()):
        if block.language == "yaml":
            assert parse_settings(block.body, name(page)).model_fields_set


def test_a_broken_link_and_a_wrong_heading_would_be_noticed():
    """The walk's own reading is right."""
    text = "# Two words\n\n[a](b.md#c) `[not](a-link)`\n\n```\n[nor](this)\n```\n## `x` and y-z\n"
    assert links(text) == ["b.md#c"]
    assert anchors(text) == {"two-words", "x-and-y-z"}
