"""Files of targets in the format of Prometheus' ``file_sd_configs``: a list of ``targets`` with their ``labels``.

https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from farthing.collectors.discovery.target import Target
from farthing.domain.errors import DiscoveryError

__all__ = ["MAX_TARGETS", "FileSource", "parse_targets"]

MAX_TARGETS: Final = 10_000
"""Of one file."""
MAX_BYTES: Final = 16 * 1024 * 1024
# composes ten times as fast where libyaml is there; values stay the texts that they are, as in Prometheus
_LOADER: Final = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
MAX_DEPTH: Final = 16
"""Of lists and mappings in one another; a file of targets has three. libyaml's composer recurses in C, without end."""
_Stamp = tuple[int, int, int]


class FileSource:
    """The files of one pattern. A file that is broken keeps what it said last; one that is gone says nothing."""

    def __init__(self, pattern: Path) -> None:
        self.name = str(pattern)
        self.patience = 0
        """What files said last is kept file by file, so a failure to read them is never waited out."""
        self._pattern = pattern.expanduser()
        self._known: dict[Path, tuple[_Stamp | None, tuple[Target, ...], str]] = {}

    async def read(self) -> tuple[list[Target], list[str]]:
        """The targets of all files in the order of their names, and what is wrong with files, a sentence each."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> tuple[list[Target], list[str]]:
        # as in Prometheus, two stars are one
        paths = sorted(self._pattern.parent.glob(re.sub(r"\*+", "*", self._pattern.name)))
        self._known = {path: self._look(path) for path in paths}
        complaints = [complaint for _, _, complaint in self._known.values() if complaint]
        if not paths and "*" not in self._pattern.name:
            complaints.append(f"{self.name}: there is no such file; create it, or take it out of discovery.files")
        return [target for _, targets, _ in self._known.values() for target in targets], complaints

    def _look(self, path: Path) -> tuple[_Stamp | None, tuple[Target, ...], str]:
        stamp, targets, complaint = self._known.get(path, (None, (), ""))
        try:
            status = path.stat()
            now = (status.st_mtime_ns, status.st_size, status.st_ino)
            if now != stamp:
                stamp = now
                targets, complaint = tuple(parse_targets(_text(path), str(path))), ""
        except DiscoveryError as error:
            complaint = f"{error}; what it said before holds"
        except OSError as error:
            stamp, complaint = None, f"{path}: cannot be read ({error.strerror}); what it said before holds"
        return stamp, targets, complaint


def _text(path: Path) -> str:
    # a pipe would be waited for until somebody writes to it, and a device has no end
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DiscoveryError(f"{path}: it is no file of text; take it out of the folder")
        content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise DiscoveryError(f"{path}: more than {MAX_BYTES} bytes; split it")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DiscoveryError(f"{path}: it is not UTF-8 ({error.reason} at byte {error.start})") from error


def parse_targets(text: str, name: str) -> list[Target]:
    """The targets of a file's text, YAML or JSON; ``name`` is what errors call it.

    Raises DiscoveryError naming the line of the first problem, or when there are more than MAX_TARGETS.
    """
    try:
        _check_depth(text, name)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise DiscoveryError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise DiscoveryError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    found: list[Target] = []
    for group in () if root is None else _items(root, name, "a list of targets with their labels"):
        parts = dict(_pairs(group, name))
        unknown = sorted(parts.keys() - {"targets", "labels"})
        if unknown:
            raise DiscoveryError(f"{_place(name, group)}: unknown key {unknown[0]!r}; known are targets and labels")
        labels = {key: _word(value, name) for key, value in _pairs(parts["labels"], name)} if "labels" in parts else {}
        for item in _items(parts["targets"], name, "a list of HOST:PORT") if "targets" in parts else ():
            found.append(Target(_word(item, name), labels, _place(name, item)))
            if len(found) > MAX_TARGETS:
                raise DiscoveryError(f"{_place(name, item)}: more than {MAX_TARGETS} targets; split the file")
    return found


def _check_depth(text: str, name: str) -> None:
    """Raise DiscoveryError for what the composer would end the process with."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise DiscoveryError(f"{_place(name, event)}: here belongs a list of targets, not one so deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _items(node: Any, name: str, what: str) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise DiscoveryError(f"{_place(name, node)}: here belongs {what}")
    return list(node.value)


def _pairs(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, yaml.MappingNode):
        raise DiscoveryError(f"{_place(name, node)}: here belong keys with their values")
    for key, value in node.value:
        yield _word(key, name), value


def _word(node: Any, name: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise DiscoveryError(f"{_place(name, node)}: here belongs one word, not a list or mapping")
    return str(node.value)


def _place(name: str, node: Any) -> str:
    return f"{name}:{node.start_mark.line + 1}"
