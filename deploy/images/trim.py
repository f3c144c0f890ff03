"""Make an installed environment small, and the same from every build of the same sources.

    python trim.py ENVIRONMENT SECONDS

Run in an image's build stage, by the interpreter that the image will run. Takes away what no program reads
(the libraries' own tests, C and Cython sources, headers, stubs, static archives, uv's notes of when it installed),
and drops those files from the RECORDs; compiles every module once, to bytecode that is never checked against
its source's time, as an image never changes; sets every modification time to SECONDS since the epoch.
"""

from __future__ import annotations

import compileall
import csv
import io
import os
import py_compile
import re
import shutil
import sys
from pathlib import Path

TEST_FOLDERS = frozenset({"tests", "test"})
SOURCES = frozenset({".a", ".c", ".cpp", ".f90", ".h", ".lib", ".pxd", ".pxi", ".pyi", ".pyx"})
"""Suffixes of what compiles extensions or types other code; nothing reads them when a program runs."""
UNREAD = ("alembic/testing", "mako/testing", "numpy/distutils", "numpy/f2py", "sqlalchemy/testing")
"""Parts of libraries for those who build or test with them."""
LEXERS = Path("pygments/lexers")
LEXERS_KEPT = ("__init__", "_mapping", "python", "special", "agile", "web")
"""Of the languages that Rich could colour a traceback is shown in one; the last two are what Mako's plugin asks for."""
NOTES = "uv_cache.json"
"""Times and revisions of the local sources that uv installed from: they differ from build to build."""


def site_packages(environment: Path) -> Path:
    """The one site-packages folder of a virtual environment; SystemExit where there is none."""
    found = list(environment.glob("lib/python3.*/site-packages"))
    if len(found) != 1:
        raise SystemExit(f"trim: {environment} is no virtual environment: it has {len(found)} site-packages folders")
    return found[0]


def take_away(packages: Path) -> None:
    """Remove tests, sources, notes, languages that are never shown, and whatever bytecode is there."""
    for folder, names, files in os.walk(packages):
        for name in list(names):
            # a package of that name at the top would be somebody's product, not a library's tests
            if name == "__pycache__" or (name in TEST_FOLDERS and Path(folder) != packages):
                shutil.rmtree(Path(folder, name))
                names.remove(name)
        for name in files:
            if Path(name).suffix in SOURCES or name == NOTES:
                Path(folder, name).unlink()
    for name in UNREAD:
        shutil.rmtree(packages / name, ignore_errors=True)
    if (packages / LEXERS).is_dir():
        leave_few_languages(packages / LEXERS)


def leave_few_languages(lexers: Path) -> None:
    """Remove pygments' languages but for LEXERS_KEPT and what those import, from its index too."""
    kept: set[str] = set()
    wanted = list(LEXERS_KEPT)
    while wanted:
        name = wanted.pop()
        module = lexers / f"{name}.py"
        if name in kept or not module.exists():
            continue
        kept.add(name)
        if name not in LEXERS_KEPT[:2]:
            wanted += re.findall(r"pygments\.lexers\.(\w+)", module.read_text(encoding="utf-8"))
    for module in lexers.glob("*.py"):
        if module.stem not in kept:
            module.unlink()
    # a line for each language, which begins with its class and names its module
    index = lexers / "_mapping.py"
    lines = index.read_text(encoding="utf-8").splitlines(keepends=True)
    index.write_text("".join(line for line in lines if not line.startswith("    '") or _module(line) in kept), "utf-8")


def _module(line: str) -> str:
    found = re.search(r"\('pygments\.lexers\.(\w+)'", line)
    return found[1] if found else ""


def correct_record(record: Path) -> None:
    """Drop from a distribution's RECORD what is no longer there (PEP 376: one row of path, hash and size a file)."""
    packages = record.parents[1]
    rows = [row for row in csv.reader(record.read_text().splitlines()) if (packages / row[0]).exists()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(sorted(rows))
    record.write_text(text.getvalue())


def compile_all(packages: Path) -> None:
    """Write the bytecode of every module; SystemExit names none that fails, as compileall has printed it."""
    # in one process and in the order of names, since what is interned before decides how a code object is written
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(packages, quiet=1, maxlevels=50, workers=1, invalidation_mode=mode):
        raise SystemExit("trim: a module does not compile")


def set_times(environment: Path, seconds: int) -> None:
    """Give every file, folder and link one modification time."""
    for folder, _, files in os.walk(environment, topdown=False):
        for name in [*files, "."]:
            os.utime(Path(folder, name), (seconds, seconds), follow_symlinks=False)
        for link in (entry for entry in os.scandir(folder) if entry.is_symlink()):
            os.utime(link.path, (seconds, seconds), follow_symlinks=False)


def main(environment: Path, seconds: int) -> None:
    """Trim the environment."""
    packages = site_packages(environment)
    take_away(packages)
    for record in packages.glob("*.dist-info/RECORD"):
        correct_record(record)
    compile_all(packages)
    set_times(environment, seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
