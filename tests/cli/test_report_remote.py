"""``farthing report --url``: what a person with a token gets from a service that runs elsewhere."""

import csv
import io
import json
import time
from datetime import UTC, datetime

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.cli.commands import farthing, one_line
from tests.service.hours import NOW_NS, book
from tests.service.running import certificate, served

from farthing.cli.report_remote import print_remote_report
from farthing.domain.access import Scope
from farthing.domain.clock import HOUR, utc
from farthing.domain.errors import ConfigError, ServiceError
from farthing.ledger.repository import Ledger
from farthing.service.access import Access, Guard
from farthing.service.access_sessions import Sessions
from farthing.service.access_tokens import TokenFile, add_token
from farthing.service.report_api import REPORT_PATH, report_routes

HOUR_NOW = NOW_NS // HOUR


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a ledger of two tenants, and a file with a token of acme's."""
    folder = tmp_path_factory.mktemp("remote")
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    book(ledger, HOUR_NOW - 2, tenant="acme", project="search", nano=5_000_000_001, requests=2)
    book(ledger, HOUR_NOW - 2, tenant="globex", nano=7_000_000_000, requests=1)
    ledger.close()
    token = add_token(folder / "tokens.yaml", "ada", [Scope.READ_TENANT], ["acme"], datetime.now(UTC))
    (folder / "token").write_text(f"{token}\n")
    (folder / "wrong").write_text("farthing_wrong\n")
    (folder / "empty").write_text("\n")
    (folder / "odd").write_text("two words\n")
    (folder / "binary").write_bytes(b"\xff\xfe")
    return folder


@pytest.fixture(scope="module")
def url(folder):
    """A service with that ledger, which demands a token."""
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    access = Access(TokenFile(folder / "tokens.yaml"), None, Sessions(lambda: b"k", 1.0, time.time))
    app = Starlette(
        routes=report_routes(ledger, "USD", lambda: utc(NOW_NS)), middleware=[Middleware(Guard, access=access)]
    )
    with served(app) as base:
        yield base
    ledger.close()


def test_a_tenants_report_is_printed_in_every_form(folder, url):
    """Its own rows, as the service gives them: a table, JSON and CSV."""
    arguments = ("report", "--url", url, "--token-file", "token", "--since", "month", "--by", "project")
    table = farthing(*arguments, cwd=folder)
    assert (table.code, table.err) == (0, "")
    assert "Cost by project" in table.out
    assert "Only tenant acme" in table.out
    data = json.loads(farthing(*arguments, "--output", "json", cwd=folder).out)
    assert data["total"]["cost"]["nano_usd"] == 5_000_000_001
    (row,) = csv.DictReader(io.StringIO(farthing(*arguments, "--output", "csv", cwd=folder).out))
    assert (row["project"], row["tenant"], row["cost_usd"]) == ("search", "acme", "5.000000001")
    assert "globex" not in table.out + json.dumps(data)


def test_a_url_with_a_slash_or_a_path_leads_to_the_same(folder, url):
    """A base URL may end with a slash; a path before the API is kept, for a proxy."""
    plain = farthing("report", "--url", f"{url}/", "--token-file", "token", cwd=folder)
    assert plain.code == 0
    behind = farthing("report", "--url", f"{url}/farthing", "--token-file", "token", cwd=folder)
    assert "answers 404" in one_line(behind, ServiceError.exit_code)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--token-file", "wrong"], "answers 401"),
        ([], "--token-file or FARTHING_TOKEN"),
        (["--token-file", "token", "--tenant", "globex"], "answers 403: this token sees the rows of acme alone"),
        (["--token-file", "token", "--since", "soon"], "answers 400: since 'soon'"),
        (["--token-file", "token", "--by", "engine"], "engines are shared"),
    ],
)
def test_what_the_service_refuses_is_one_line_with_its_words(folder, url, arguments, words):
    """Exit status 18, the URL, the status and what the service said."""
    line = one_line(farthing("report", "--url", url, *arguments, cwd=folder), ServiceError.exit_code)
    assert words in line
    assert url in line


@pytest.mark.parametrize("file", ["missing", "empty", "odd", "binary"])
def test_a_file_without_a_token_is_named(folder, url, file):
    """Exit status 3, without anything that the file holds."""
    line = one_line(farthing("report", "--url", url, "--token-file", file, cwd=folder), ConfigError.exit_code)
    assert file in line
    assert "two words" not in line


@pytest.mark.parametrize(
    "url", ["farthing.example", "ftp://farthing.example", "http://", "http://a:b@c", "http://x:y", "x"]
)
def test_what_is_no_url_is_said_so(folder, url):
    """Exit status 3; a password in a URL is refused and not shown."""
    line = one_line(farthing("report", "--url", url, cwd=folder), ConfigError.exit_code)
    assert line.startswith("--url: ")
    assert "a:b" not in line


def test_a_service_that_is_away_or_another_program_is_said_so(folder):
    """Exit status 18; what another program says reaches the terminal without its control characters."""
    line = one_line(farthing("report", "--url", "http://127.0.0.1:9", cwd=folder), ServiceError.exit_code)
    assert "does not answer" in line
    answers = {"/api/v1/report": ("<html>\x1b[31m", 500), "/odd/api/v1/report": ('{"error": "red \\u001b[31m"}', 500)}
    routes = [Route(path, lambda _, said=said: PlainTextResponse(said[0], said[1])) for path, said in answers.items()]
    with served(Starlette(routes=routes)) as url:
        for base, words in ((url, "nothing that Farthing would say"), (f"{url}/odd", "red  [31m")):
            line = one_line(farthing("report", "--url", base, cwd=folder), ServiceError.exit_code)
            assert words in line
            assert "\x1b" not in line


@pytest.mark.real
def test_a_service_is_believed_that_an_authority_of_this_host_vouches_for(folder, tmp_path, monkeypatch, capsys):
    """A company's own authority, by SSL_CERT_FILE; without it nothing is sent."""
    pem, key = certificate(tmp_path, "company", "-addext", "subjectAltName=IP:127.0.0.1")
    app = Starlette(routes=[Route(REPORT_PATH, lambda _: PlainTextResponse("what it cost"))])
    with served(app, ssl_certfile=pem, ssl_keyfile=key) as url:
        with pytest.raises(ServiceError, match="CERTIFICATE_VERIFY_FAILED"):
            print_remote_report(url, folder / "token", {})
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        print_remote_report(url, folder / "token", {})
    assert capsys.readouterr().out == "what it cost\n"


@pytest.mark.parametrize(
    "arguments", [["--token-file", "token"], ["--url", "http://x", "--ledger", "y"], ["--url", "http://x", "-c", "z"]]
)
def test_options_that_contradict_each_other_are_refused(folder, arguments):
    """A token is for a service; a service has a ledger and settings of its own."""
    assert farthing("report", *arguments, cwd=folder).code == 2
