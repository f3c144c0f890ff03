"""What ``farthing up`` and ``down`` say: one line while waiting, one table when ready, the log when it failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from farthing.settings import Settings
from farthing.stack.layout import StateLayout
from farthing.stack.parts import serve_url
from farthing.stack.programs import Programs
from farthing.stack.secret_files import FIRST_TOKEN, First, login_link, reveal_first

__all__ = ["ReadyPart", "page_rows", "print_failure", "print_ready", "print_rows", "progress", "say", "show_login"]

NOT_INSTALLED = "not installed (optional)"


@dataclass(frozen=True, slots=True)
class ReadyPart:
    """A part and the page a person opens to see it."""

    name: str
    page: str


def say(console: Console, line: str) -> None:
    """Print a line as it is: paths are neither broken, coloured nor taken for markup."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Callable[[Sequence[str]], None]]:
    """A function that shows which parts are awaited: a live line on a terminal, else a line per change."""
    if console.is_terminal:
        with console.status("starting") as status:
            yield lambda names: status.update(_waiting(names))
        return
    said: list[str] = []

    def changed(names: Sequence[str]) -> None:
        line = _waiting(names)
        if not said or said[-1] != line:
            said.append(line)
            say(console, line)

    yield changed


def print_ready(
    console: Console,
    parts: Iterable[ReadyPart],
    settings: Settings,
    layout: StateLayout,
    programs: Programs,
    *,
    detached: bool,
) -> None:
    """The table of pages and files, and how to stop."""
    print_rows(console, page_rows(parts, settings, layout, programs))
    ending = "stop it with: farthing down" if detached else "press Ctrl-C to stop"
    say(console, ending)


def show_login(console: Console, settings: Settings, layout: StateLayout, *, with_grafana: bool) -> None:
    """On a terminal the link that logs a browser in, once; elsewhere, as a log may keep it, how to see it."""
    first = settings.tokens_file.parent / FIRST_TOKEN
    if not first.exists():
        return
    if not console.file.isatty():
        say(console, f"log in with the link of: farthing secrets reveal --config {layout.settings}")
        return

    def show(found: First) -> None:
        say(console, f"log in once with {login_link(serve_url(settings), found.token)}")
        if with_grafana:
            say(console, f"Grafana's user is admin, its password {found.grafana_password}")

    reveal_first(first, layout.grafana_password, show)


def page_rows(
    parts: Iterable[ReadyPart], settings: Settings, layout: StateLayout, programs: Programs
) -> list[tuple[str, str]]:
    """Name and place of everything worth opening; ``settings`` are effective ones."""
    pages = {part.name: part.page for part in parts}
    base = serve_url(settings)
    return [
        ("page", f"{base}/"),
        ("metrics", f"{base}/metrics"),
        ("Prometheus", pages["prometheus"]),
        ("Alertmanager", pages["alertmanager"]),
        ("Grafana", pages.get("grafana", NOT_INSTALLED) if programs.grafana else NOT_INSTALLED),
        ("Jaeger", pages.get("jaeger", NOT_INSTALLED) if programs.jaeger else NOT_INSTALLED),
        *([("replay", f"{settings.stack.replay_recording} at {pages['replay']}")] if "replay" in pages else []),
        (
            "ledger",
            settings.ledger.removeprefix("sqlite:///") if settings.ledger.startswith("sqlite") else "PostgreSQL",
        ),
        ("settings", str(layout.settings)),
        ("logs", str(layout.logs)),
    ]


def print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Two columns; away from a terminal plain lines, so that no address is broken at the 80th column."""
    if console.is_terminal:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, place in rows:
            table.add_row(name, Text(place))
        console.print(table)
        return
    width = max(len(name) for name, _ in rows)
    for name, place in rows:
        say(console, f"{name:<{width}}  {place}")


def print_failure(console: Console, log: Path, lines: Sequence[str]) -> None:
    """The end of the log of a part that failed."""
    say(console, f"last lines of {log}:" if lines else f"{log} is empty")
    for line in lines:
        say(console, f"  {line}")


def _waiting(names: Sequence[str]) -> str:
    return f"waiting for {', '.join(names)}" if names else "ready"
