"""Runs ``farthing`` as a process of its own, forked from one that has its modules loaded: quick, and nothing shared."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["Ran", "farthing", "one_line"]

_PRELOAD = (
    "farthing.cli.main",
    "farthing.cli.check",
    "farthing.cli.replay",
    "farthing.cli.report",
    "farthing.cli.status",
    "farthing.service.server",
)
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(list(_PRELOAD))
LIMIT_SECONDS = 60


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


def farthing(*arguments: str, cwd: Path) -> Ran:
    """The command run to its end in a folder, without what the environment says of Farthing."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _FORKING.Process(target=_run, args=(arguments, str(cwd), str(out), str(err)))
        process.start()
        process.join(LIMIT_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        return Ran(process.exitcode, out.read_text(), err.read_text())


def one_line(ran: Ran, code: int) -> str:
    """The one line of standard error of a command that failed with ``code``, without its beginning."""
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("farthing: "), ran.err
    assert "Traceback" not in ran.err
    assert ran.code == code, ran.err
    return ran.err.removeprefix("farthing: ").rstrip("\n")


def _run(arguments: tuple[str, ...], cwd: str, out: str, err: str) -> None:
    for path, number in ((out, 1), (err, 2)):
        written = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(written, number)
        os.close(written)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    for name in [name for name in os.environ if name.startswith("FARTHING_")]:
        del os.environ[name]
    os.environ.update(COLUMNS="300", NO_COLOR="1")
    os.chdir(cwd)
    sys.argv = ["farthing", *arguments]
    from farthing.cli.main import main  # noqa: PLC0415 - in the child, as the entry point does

    main()
