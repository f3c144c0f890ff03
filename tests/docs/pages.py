"""The Markdown pages of the repository, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
"""Pages that tell people what to type."""

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_SECTION = re.compile(r"^## (?P<title>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    body: str


def all_pages() -> list[Path]:
    """Every Markdown file that belongs to the repository."""
    found = []
    for path in sorted(ROOT.rglob("*.md")):
        folders = path.relative_to(ROOT).parts[:-1]
        if not any(folder.startswith(".") or folder in {"node_modules", "build", "dist"} for folder in folders):
            found.append(path)
    return found


def blocks(text: str) -> list[Block]:
    """The fenced blocks, in order."""
    return [Block(match["language"], match["body"]) for match in _FENCE.finditer(text)]


def typed_lines(text: str) -> list[str]:
    """What a reader may type: lines of shell and indented blocks, and inline code; comments cut off."""
    prose = _FENCE.sub("", text)
    lines = [line.strip() for block in blocks(text) if block.language in {"sh", ""} for line in block.body.splitlines()]
    lines += [line.strip() for line in prose.splitlines() if line.startswith("    ")]
    lines += [match[1] for match in _INLINE.finditer(prose)]
    return [line.split(" #")[0].strip() for line in lines if line]


def links(text: str) -> list[str]:
    """Targets of all links outside code."""
    return [match["target"] for match in _LINK.finditer(_INLINE.sub("code", _FENCE.sub("", text)))]


def anchors(text: str) -> set[str]:
    """The fragments that headings of a page give, as GitHub makes them."""
    titles = [match["text"] for match in _HEADING.finditer(_FENCE.sub("", text))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def sections(text: str) -> dict[str, str]:
    """Title of each second-level section -> its text."""
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, rules between head and body left out."""
    table = [line for line in text.splitlines() if line.startswith("|") and not set(line) <= set("|-: ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
