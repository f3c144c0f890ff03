"""Markdown pages as passages: what is searched, and what an answer may cite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Passage", "passages_of"]

WORDS = 70
"""Of a passage, about: small enough for several of them in a prompt."""
HEADING = re.compile(r"(#{1,4}) +(.+)")
FENCE = "```"


@dataclass(frozen=True)
class Passage:
    """Some paragraphs below one heading of one page."""

    page: str
    heading: str
    text: str

    @property
    def source(self) -> str:
        """What a reader opens: page and anchor."""
        anchor = re.sub(r"[^\w\- ]", "", self.heading.lower()).replace(" ", "-")
        return f"{self.page}#{anchor}" if anchor else self.page

    @property
    def searched(self) -> str:
        """What is embedded: a paragraph says little without its heading."""
        return f"{self.heading}: {self.text}"


def passages_of(folder: Path) -> list[Passage]:
    """The passages of every page in a folder, in the order of reading; raises ValueError where there is no page."""
    found = [passage for path in sorted(folder.glob("*.md")) for passage in _of_page(path)]
    if not found:
        raise ValueError(f"{folder} has no Markdown pages; give another folder with --documents")
    return found


def _of_page(path: Path) -> Iterator[Passage]:
    heading = ""
    words: list[str] = []
    for block in _blocks(path.read_text(encoding="utf-8")):
        found = HEADING.fullmatch(block)
        if words and (found or len(words) + len(block.split()) > WORDS):
            yield Passage(path.name, heading, " ".join(words))
            words = []
        if found:
            heading = found[2].replace("`", "")
            continue
        words += block.split()
        while len(words) > 2 * WORDS:  # a table is one block
            yield Passage(path.name, heading, " ".join(words[:WORDS]))
            words = words[WORDS:]
    if words:
        yield Passage(path.name, heading, " ".join(words))


def _blocks(text: str) -> Iterator[str]:
    """Headings, paragraphs, lists and tables; a fenced block is one, whatever is in it."""
    lines: list[str] = []
    fenced = False
    for line in [*text.splitlines(), ""]:
        marks_fence = line.startswith(FENCE)
        heading = not fenced and HEADING.fullmatch(line)
        if heading or (not fenced and not line.strip()):
            if lines:
                yield "\n".join(lines)
            lines = []
            if heading:
                yield line
            continue
        fenced = fenced != marks_fence
        lines.append(line)
    if lines:
        yield "\n".join(lines)
