"""Nobody is answered who may not be: by token, by session, by route, and while the tokens' file changes."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route
from tests.service.doors import NOW, Browser, Doors

from farthing.domain.access import EVERYBODY, Scope
from farthing.domain.errors import ConfigError
from farthing.ledger.repository import Ledger
from farthing.service.access_rules import PUBLIC, ROUTE_SCOPES
from farthing.service.access_tokens import Tokens, add_token, digest, new_token, read_tokens, remove_token
from farthing.service.access_wiring import access_of, note_if_open, readers_of
from farthing.service.gpu_agent import Agent
from farthing.service.server import Service
from farthing.settings import Settings

OPENS: dict[str, set[Scope | None]] = {
    "/healthz": {*Scope, None},
    "/": {*Scope, None},
    "/metrics": {Scope.READ_ALL, Scope.ADMIN},
    "/api/v1/gpus": {Scope.READ_ALL, Scope.ADMIN},
    "/api/v1/snapshot": {Scope.READ_TENANT, Scope.READ_ALL, Scope.ADMIN},
    "/secret": {Scope.ADMIN},
    "/mounted/x": {Scope.ADMIN},
}


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """A guarded application with a token of each scope, called as its scope is."""
    return Doors(tmp_path_factory.mktemp("doors"), intake_token="the-plain-one")


def code(doors, path, name=None, method="GET", **headers):
    """Status of an answer."""
    return doors.ask(path, name, method, **headers).status_code


@pytest.mark.parametrize("path", OPENS)
@pytest.mark.parametrize("scope", [*Scope, None])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_each_route_is_opened_by_its_scopes_and_by_nothing_else(doors, path, scope, method):
    """401 for nobody, 403 for somebody with too little."""
    refused = 401 if scope is None else 403
    assert code(doors, path, scope, method) == (200 if scope in OPENS[path] else refused)


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "NONSENSE"])
def test_another_method_asks_for_the_same_scope(doors, method):
    """Nobody learns without a token what a route can do."""
    assert code(doors, "/metrics", None, method) == 401
    assert code(doors, "/metrics", Scope.INGEST, method) == 403
    assert code(doors, "/metrics", Scope.READ_ALL, method) == 405


def test_the_service_lists_each_of_its_routes_and_no_other(tmp_path):
    """What is forgotten is for administrators, and this test says so before anybody has to find out."""
    with_ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    try:
        app = Service(Settings(), with_ledger).app
        routes = {route.name: route.path for route in app.routes if isinstance(route, Route)}
    finally:
        with_ledger.close()
    assert len(routes) == len(app.routes)
    assert set(routes) == set(ROUTE_SCOPES)
    public = {name for name, scope in ROUTE_SCOPES.items() if scope is PUBLIC}
    assert {routes[name].partition("{")[0] for name in public} == {
        "/", "/healthz", "/readyz", "/static/", "/login", "/logout",
    }  # fmt: skip


def test_a_path_that_does_not_exist_is_told_to_those_who_are_let_in(doors):
    """Others learn nothing of which paths there are."""
    assert code(doors, "/api/v1/nothing") == 401
    assert code(doors, "/api/v1/nothing", Scope.INGEST) == 404


def test_a_refusal_names_what_is_missing_and_never_the_token(doors):
    """One line for a person, RFC 6750's challenge for a program."""
    answer = doors.ask("/metrics")
    assert answer.json() == {"error": "a valid bearer token with the scope read-all is required"}
    assert answer.headers["www-authenticate"] == "Bearer"
    answer = doors.ask("/metrics", authorization="Bearer farthing_wrong")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert "farthing_wrong" not in answer.text
    answer = doors.ask("/metrics", Scope.INGEST)
    assert answer.json() == {"error": "a token with the scope read-all is required; 'ingest' has ingest"}
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="read-all"'


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_schemes_case_and_spaces_do_not_matter(doors, scheme):
    """RFC 9110, 11.1."""
    assert code(doors, "/metrics", authorization=f"{scheme} {doors.plain[Scope.READ_ALL]}") == 200


def test_a_token_elsewhere_than_in_its_header_opens_nothing(doors):
    """In an address it would be in every log."""
    token = doors.plain[Scope.ADMIN]
    for header in ("Basic " + token, token, f"Bearer {token},", f'Bearer "{token}"', f"Bearer {token} x"):
        assert code(doors, "/metrics", authorization=header) == 401
    assert code(doors, f"/metrics?access_token={token}&token={token}") == 401
    assert code(doors, "/metrics", cookie=f"farthing-session-9464={token}") == 401


def test_two_headers_are_no_token_even_where_both_are_right(doors):
    """A proxy and the service could each take another one for the caller's."""
    header = ("authorization", f"Bearer {doors.plain[Scope.ADMIN]}")
    assert doors.client().get("/metrics", headers=[header, header]).status_code == 401
    assert doors.client().get("/metrics", headers=[header, ("Authorization", "Basic x")]).status_code == 401


@given(raw=st.binary(max_size=200))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_are_sent_as_a_token_are_refused_and_nothing_breaks(doors, raw):
    """Any encoding, any length."""
    sent = raw.replace(b"\r", b"").replace(b"\n", b"")
    for header in (sent, b"Bearer " + sent):
        answer = doors.client().get("/metrics", headers=[(b"authorization", header)])
        assert answer.status_code == 401
    cookie = (b"cookie", b"farthing-session-9464=" + sent)
    assert doors.client().get("/metrics", headers=[cookie]).status_code == 401


@given(host=st.binary(max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_host_changes_nothing(doors, host):
    """The cookie's name comes from the host header's port."""
    headers = [(b"host", host), (b"authorization", b"Bearer " + doors.plain[Scope.ADMIN].encode())]
    assert doors.client().get("/metrics", headers=headers).status_code == 200
    assert doors.client().get("/metrics", headers=headers[:1]).status_code == 401


def test_intake_takes_tokens_of_its_scope_and_the_plain_one(doors):
    """The plain one opens nothing else."""
    assert code(doors, "/v1/usage", Scope.INGEST, "POST") == 200
    assert code(doors, "/v1/usage", Scope.ADMIN, "POST") == 200
    assert code(doors, "/v1/usage", Scope.READ_ALL, "POST") == 403
    assert code(doors, "/v1/usage", None, "POST") == 401
    doors.plain["plain"] = "the-plain-one"
    assert code(doors, "/v1/usage", "plain", "POST") == 200
    assert code(doors, "/metrics", "plain") == 403
    assert {"intake-usage", "metrics"} <= set(doors.denied)


def test_an_intake_token_alone_leaves_reading_open_and_intake_closed(tmp_path):
    """As on a laptop: only what changes the books is asked for."""
    doors = Doors(tmp_path, tokens=False, intake_token="crown")
    doors.plain = {"right": "crown", "wrong": "crowns"}
    assert [code(doors, "/v1/usage", name, "POST") for name in (None, "wrong", "right")] == [401, 401, 200]
    assert [code(doors, "/api/v1/snapshot", name) for name in (None, "wrong", "right")] == [200, 200, 200]
    assert code(doors, "/secret") == 401


def test_without_any_token_everybody_is_everybody(tmp_path):
    """The principal is the same object, so that rooms need not ask where it comes from."""
    doors = Doors(tmp_path, tokens=False)
    assert code(doors, "/secret") == 200
    assert code(doors, "/v1/usage", method="POST") == 200
    assert doors.seen == [EVERYBODY, EVERYBODY]


@pytest.mark.parametrize(
    "host", ["evil.example:9464", "127.0.0.1.evil.example", "localhost.evil.example.", "[::1].evil.example"]
)
@pytest.mark.parametrize("intake_token", [None, "crown"])
def test_without_tokens_a_domain_that_leads_to_this_host_reads_and_delivers_nothing(tmp_path, host, intake_token):
    """Its owner's page, open in a browser on this host, would read the books (DNS rebinding)."""
    doors = Doors(tmp_path, tokens=False, intake_token=intake_token)
    doors.plain["intake"] = "crown"
    assert code(doors, "/api/v1/snapshot", host=host) == 403
    assert code(doors, "/v1/usage", method="POST", host=host) == 403
    assert code(doors, "/healthz", host=host) == 200
    doors.add("all", [Scope.READ_ALL])
    assert code(doors, "/api/v1/snapshot", "all", host=host) == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9464", "localhost:9464", "LOCALHOST", "[::1]:9464", "a.localhost", "farthing"]
)
def test_without_tokens_this_hosts_own_names_are_answered(tmp_path, host):
    """Addresses belong to no domain, and neither does a name without a dot."""
    doors = Doors(tmp_path, tokens=False)
    assert code(doors, "/api/v1/snapshot", host=host) == 200
    assert code(doors, "/v1/usage", method="POST", host=host, origin=f"http://{host}") == 200


@pytest.mark.parametrize(
    "told",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_without_tokens_no_other_sites_page_delivers(tmp_path, told):
    """A page anywhere can post to the loopback of whoever looks at it, and would write into the books."""
    doors = Doors(tmp_path, tokens=False)
    assert code(doors, "/v1/usage", method="POST", **told) == 403
    assert code(doors, "/v1/usage", method="POST") == 200


def test_a_token_opens_at_once_and_its_removal_closes_at_once(tmp_path):
    """Without a restart; the first token closes what was open."""
    doors = Doors(tmp_path, tokens=False)
    assert code(doors, "/metrics") == 200
    doors.add("prometheus", [Scope.READ_ALL])
    assert (code(doors, "/metrics"), code(doors, "/metrics", "prometheus")) == (401, 200)
    remove_token(doors.file, "prometheus")
    assert (code(doors, "/metrics"), code(doors, "/metrics", "prometheus")) == (401, 401)


@pytest.mark.parametrize(
    "text", ["- name: [", "nonsense", "- {name: a}", "a: 1", "\x00", "- *x", "!!python/object:os.system {}", "[" * 500]
)
def test_a_broken_file_leaves_tokens_as_they_were_and_is_complained_of_once(tmp_path, caplog, text):
    """It never opens anything, and never locks out those who are in."""
    doors = Doors(tmp_path)
    doors.file.write_text(text)
    for _ in range(3):
        assert (code(doors, "/metrics"), code(doors, "/metrics", Scope.READ_ALL)) == (401, 200)
    assert caplog.text.count("tokens as they were stay in force") == 1
    doors.file.unlink()
    assert (code(doors, "/metrics"), code(doors, "/metrics", Scope.READ_ALL)) == (401, 200)
    doors.file.write_text(text)
    with pytest.raises(ConfigError, match=r"not valid YAML|tokens are a list|sha256"):
        read_tokens(doors.file)
    doors.file.unlink()
    again = add_token(doors.file, "again", [Scope.READ_ALL], (), NOW)
    doors.plain["again"] = again
    assert (code(doors, "/metrics", Scope.READ_ALL), code(doors, "/metrics", "again")) == (401, 200)


def test_a_service_that_was_open_is_closed_by_a_file_that_is_broken(tmp_path):
    """Somebody wanted tokens: nobody is let in by a slip of the pen."""
    doors = Doors(tmp_path, tokens=False)
    doors.file.write_text("- name: [")
    assert code(doors, "/metrics") == 401


def test_a_file_that_cannot_be_read_keeps_the_service_from_starting(tmp_path):
    """With the line that is wrong."""
    (tmp_path / "tokens.yaml").write_text("- {name: a, sha256: abc, scopes: [admin], created: 2026-11-27}\n")
    with pytest.raises(ConfigError, match=r"tokens\.yaml:1: 0\.sha256: "):
        Doors(tmp_path, tokens=False)


@pytest.mark.parametrize("field", [{"name": "other"}, {"sha256": "0" * 64}])
def test_a_token_that_is_there_twice_is_refused(tmp_path, field):
    """By name or by hash: whose would it be."""
    one = {"name": "a", "sha256": digest(b"x"), "scopes": ["admin"], "created": "2026-11-27"}
    path = tmp_path / "tokens.yaml"
    path.write_text(json.dumps([one, {**one, **field}]))
    with pytest.raises(ConfigError, match="twice"):
        read_tokens(path)


def test_tokens_are_of_256_random_bits_and_only_their_hashes_are_kept(tmp_path):
    """43 characters of base64 after the prefix."""
    plain = add_token(tmp_path / "tokens.yaml", "a", [Scope.INGEST], (), NOW)
    assert plain.startswith("farthing_")
    assert len(plain) == len("farthing_") + 43
    assert new_token() != new_token()
    text = (tmp_path / "tokens.yaml").read_text()
    assert plain not in text
    assert digest(plain.encode()) in text
    assert (tmp_path / "tokens.yaml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "farthing.example", ""])  # noqa: S104 - not bound
def test_off_loopback_without_tokens_nothing_is_served(tmp_path, host, monkeypatch, caplog):
    """An intake token alone is not enough: the costs would be everybody's to read."""
    monkeypatch.setenv("FARTHING_INTAKE_TOKEN", "crown")
    given = Settings.model_validate({"serve": {"host": host, "tokens_file": str(tmp_path / "tokens.yaml")}})
    with pytest.raises(ConfigError, match=r"farthing tokens add NAME --scope admin"):
        access_of(given)
    (tmp_path / "tokens.yaml").write_text("[]\n")
    with pytest.raises(ConfigError, match=r"has no token"):
        access_of(given)
    add_token(tmp_path / "tokens.yaml", "a", [Scope.ADMIN], (), NOW)
    access = access_of(given)
    assert access.open_to is None
    note_if_open(access, given)
    assert caplog.text == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_on_loopback_without_tokens_it_is_said_once_that_everybody_may_read(tmp_path, host, caplog):
    """Other users of the host are among them."""
    caplog.set_level("INFO")
    given = Settings.model_validate({"serve": {"host": host}, "stack": {"state_dir": str(tmp_path)}})
    access = access_of(given)
    assert access.open_to is EVERYBODY
    note_if_open(access, given)
    assert caplog.text.count("everybody on this host may read") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_intake_token_is_a_mistake_and_not_an_open_door(tmp_path, text):
    """An empty token file would otherwise let everybody in."""
    (tmp_path / "intake").write_text(text)
    given = Settings.model_validate(
        {"serve": {"token_file": str(tmp_path / "intake")}, "stack": {"state_dir": str(tmp_path)}}
    )
    with pytest.raises(ConfigError, match="the intake token is empty"):
        access_of(given)


def test_who_is_turned_away_is_counted_by_reason(tmp_path):
    """Not those who show nothing: every browser begins so."""
    doors = Doors(tmp_path)
    code(doors, "/metrics")
    code(doors, "/metrics", authorization="Bearer x")
    code(doors, "/metrics", Scope.INGEST)
    doors.client().post("/login", json={"token": "x"})
    assert dict(doors.access.failures) == {"token": 1, "scope": 1, "login": 1}


def test_a_change_of_tokens_keeps_the_files_owner_and_mode(tmp_path):
    """An administrator's command must not lock the service out of its own tokens."""
    path = tmp_path / "tokens.yaml"
    add_token(path, "a", [Scope.ADMIN], (), NOW)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 10001, 10001)
    before = path.stat()
    add_token(path, "b", [Scope.INGEST], (), NOW)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert {token.name for token in read_tokens(path) or ()} == {"a", "b"}


def test_tokens_behind_a_link_are_changed_where_it_leads(tmp_path):
    """Several services may share a file: what is removed for one is removed for all."""
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real/tokens.yaml", tmp_path / "tokens.yaml"
    link.symlink_to(real)
    add_token(link, "a", [Scope.ADMIN], (), NOW)
    add_token(link, "b", [Scope.ADMIN], (), NOW)
    remove_token(link, "a")
    assert link.is_symlink()
    assert set((read_tokens(real) or Tokens({}, {})).by_name) == {"b"}


def test_an_agent_of_devices_asks_for_a_token_where_the_settings_name_some(tmp_path):
    """It tells no costs, so that by default everybody may read it."""
    path = tmp_path / "tokens.yaml"
    open_to_all = Browser(Agent(Settings(), [], None, readers_of(Settings())).app)
    assert [open_to_all.get(path).status_code for path in ("/metrics", "/api/v1/gpus", "/healthz")] == [200] * 3
    given = Settings.model_validate({"serve": {"tokens_file": str(path)}})
    with pytest.raises(ConfigError, match="is not there"):
        readers_of(given)
    token = add_token(path, "prometheus", [Scope.READ_ALL], (), NOW)
    guarded = Browser(Agent(given, [], None, readers_of(given)).app)
    assert [guarded.get(path).status_code for path in ("/metrics", "/api/v1/gpus", "/healthz")] == [401, 401, 200]
    assert guarded.get("/metrics", headers={"authorization": f"Bearer {token}"}).status_code == 200
