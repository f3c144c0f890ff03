"""Files of gzip-compressed JSON lines."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

__all__ = ["Lines", "writing"]


class Lines:
    """A file that threads may share."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def add(self, *lines: bytes) -> None:
        """Write lines, next to each other."""
        with self._lock:
            self._file.writelines(line + b"\n" for line in lines)


@contextmanager
def writing(path: Path) -> Iterator[Lines]:
    """The new file, whole when the block has ended."""
    with gzip.open(path, "wb") as file:
        yield Lines(cast("BinaryIO", file))
