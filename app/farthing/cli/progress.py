"""How long work shows how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

__all__ = ["bars"]


@contextmanager
def bars(amount: ProgressColumn) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each name that is reported, with ``amount`` behind it, on a terminal; nothing elsewhere.

    What it gives is told a name, how much of it is done, and how much there is.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as shown:
        tasks = {"": shown.add_task("", total=None, visible=False)}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, total=total)
            shown.update(tasks[name], completed=done, total=total)

        yield report
