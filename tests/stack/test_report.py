"""What is printed can be read and copied: on a terminal, in a log, whatever the paths are called."""

import io
from datetime import UTC, datetime

from rich.console import Console
from tests.stack.scenery import paper

from farthing.settings import Settings
from farthing.stack.effective import effective_settings
from farthing.stack.layout import StateLayout
from farthing.stack.programs import Programs
from farthing.stack.report import ReadyPart, page_rows, print_failure, print_rows, progress, show_login
from farthing.stack.secret_files import make_tokens

ROWS = [("page", "http://127.0.0.1:9464/"), ("logs", "/srv/[bold]" + "x" * 100)]


def test_away_from_a_terminal_no_address_is_broken():
    """Eighty columns are no reason, and a bracket is no markup."""
    console, text = paper()
    print_rows(console, ROWS)
    assert text.getvalue() == f"page  http://127.0.0.1:9464/\nlogs  {ROWS[1][1]}\n"


def test_on_a_terminal_there_is_a_table_with_the_same_content():
    """Long places are folded into their column, not cut."""
    text = io.StringIO()
    print_rows(Console(file=text, width=60, force_terminal=True, no_color=True), ROWS)
    assert "http://127.0.0.1:9464/" in text.getvalue()
    assert "[bold]" in text.getvalue()
    assert text.getvalue().count("x") == 100


def test_waiting_prints_a_line_only_when_something_changed():
    """A log is not filled with the same line every quarter of a second."""
    console, text = paper()
    with progress(console) as waiting_for:
        for names in (["a", "b"], ["a", "b"], ["b"], []):
            waiting_for(names)
    assert text.getvalue() == "waiting for a, b\nwaiting for b\nready\n"


def test_the_table_says_what_is_not_installed(tmp_path):
    """Grafana and Jaeger are optional, and their absence is not hidden."""
    programs = Programs(prometheus=("p",), alertmanager=("a",), grafana=("g",))
    parts = [ReadyPart(name, f"http://{name}") for name in ("prometheus", "alertmanager", "farthing", "grafana")]
    rows = dict(page_rows(parts, Settings(), StateLayout.at(tmp_path), programs))
    assert rows["Grafana"] == "http://grafana"
    assert rows["Jaeger"] == "not installed (optional)"
    assert "replay" not in rows
    assert rows["ledger"] == ".farthing/ledger.db"


def test_the_password_of_a_ledger_is_not_printed(tmp_path):
    """Its URL may carry one."""
    settings = Settings.model_validate({"ledger": "postgresql+psycopg://u:secret@books.example/f"})
    parts = [ReadyPart(name, "") for name in ("prometheus", "alertmanager")]
    rows = page_rows(parts, settings, StateLayout.at(tmp_path), Programs(prometheus=("p",), alertmanager=("a",)))
    assert "secret" not in str(rows)


def test_an_empty_log_is_said_to_be_empty(tmp_path):
    """Rather than showing nothing."""
    console, text = paper()
    print_failure(console, tmp_path / "a.log", ())
    print_failure(console, tmp_path / "b.log", ("[red]boom",))
    assert text.getvalue() == f"{tmp_path}/a.log is empty\nlast lines of {tmp_path}/b.log:\n  [red]boom\n"


class Terminal(io.StringIO):
    """A file that says it is one."""

    def isatty(self):
        """So that secrets may be shown on it."""
        return True


def shown_login(tmp_path, file):
    """What is said of how to log in; the settings are those of a stack that has just made its secrets."""
    layout = StateLayout.at(tmp_path)
    settings = effective_settings(Settings(), layout)
    make_tokens(settings.tokens_file, datetime(2026, 11, 27, tzinfo=UTC))
    layout.secret(layout.grafana_password)
    show_login(Console(file=file, width=80, no_color=True), settings, layout, with_grafana=True)
    return layout, file.getvalue()


def test_on_a_terminal_the_login_link_and_grafanas_password_are_shown_once(tmp_path):
    """In one line each, to be copied."""
    layout, said = shown_login(tmp_path, Terminal())
    link, password = said.splitlines()
    assert link.startswith("log in once with http://127.0.0.1:9464/login#token=farthing_")
    assert password.endswith(layout.grafana_password.read_text().strip())
    assert shown_login(tmp_path, Terminal())[1] == ""


def test_away_from_a_terminal_it_is_said_how_to_see_the_link(tmp_path):
    """A log keeps what it is given."""
    layout, said = shown_login(tmp_path, io.StringIO())
    assert said == f"log in with the link of: farthing secrets reveal --config {layout.settings}\n"
    assert shown_login(tmp_path, Terminal())[1].startswith("log in once with")
