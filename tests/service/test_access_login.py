"""A login of the page opens what its token opens, for reading, until the token is removed or time is up."""

import json
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.service.doors import NOW, Doors

from farthing.domain.access import Scope
from farthing.service.access_sessions import SESSION_KEY, Sessions, session_key
from farthing.service.access_tokens import Tokens, add_token, read_tokens, remove_token

COOKIE = "farthing-session-9464"


@pytest.fixture
def doors(tmp_path):
    """A guarded application with a token of each scope, called as its scope is."""
    return Doors(tmp_path)


def test_a_login_opens_what_its_token_opens(doors):
    """With the cookie alone."""
    browser = doors.log_in(Scope.READ_TENANT)
    assert browser.get("/api/v1/snapshot").json() == {"principal": "read-tenant"}
    assert browser.get("/metrics").status_code == 403
    assert doors.log_in(Scope.READ_ALL).get("/metrics").status_code == 200
    assert doors.client().get("/metrics").status_code == 401


def test_the_page_and_the_login_are_told_who_came(doors):
    """The token itself is nowhere in the answer or in the cookie."""
    token = doors.plain[Scope.READ_TENANT]
    answer = doors.client().post("/login", json={"token": f" {token}\n"})
    assert answer.json() == {"name": "read-tenant", "scopes": ["read-tenant"], "tenants": ["acme"]}
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    told = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert told == {"httponly", "samesite=strict", "path=/", "max-age=43200"}
    assert answer.headers["cache-control"] == "no-store"
    assert token not in cookie + answer.text


def test_over_tls_the_cookie_stays_on_tls(doors):
    """Also behind a proxy that says so, whom uvicorn believes."""
    browser = doors.client("https://farthing.example")
    answer = browser.post("/login", json={"token": doors.plain[Scope.ADMIN]})
    assert "; Secure" in answer.headers["set-cookie"]
    assert answer.headers["set-cookie"].startswith("farthing-session=")
    assert browser.get("/metrics").status_code == 200


def test_services_on_other_ports_of_a_host_keep_their_own_logins(doors):
    """Browsers share cookies between ports."""
    one = doors.client("http://127.0.0.1:9464").post("/login", json={"token": doors.plain[Scope.ADMIN]})
    other = doors.client("http://127.0.0.1:11464").post("/login", json={"token": doors.plain[Scope.ADMIN]})
    names = {answer.headers["set-cookie"].partition("=")[0] for answer in (one, other)}
    assert names == {"farthing-session-9464", "farthing-session-11464"}


def test_a_plain_form_is_taken_to_the_page(doors):
    """Where scripts are off."""
    browser = doors.client()
    answer = browser.post("/login", data={"token": doors.plain[Scope.READ_ALL]})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert browser.get("/metrics").status_code == 200


def test_a_session_never_delivers_records_nor_changes_anything(doors):
    """Another site could make a browser send it."""
    browser = doors.log_in(Scope.ADMIN)
    for method in ("POST", "PUT", "DELETE"):
        assert browser.request(method, "/v1/usage").status_code == 401
        assert browser.request(method, "/secret").status_code == 401
    assert browser.get("/secret").status_code == 200


def test_a_wrong_token_is_not_outweighed_by_a_session(doors):
    """Who shows a token means that token."""
    browser = doors.log_in(Scope.ADMIN)
    assert browser.get("/metrics", headers={"authorization": "Bearer x"}).status_code == 401


def test_a_session_ends_with_its_token_and_another_of_its_name_does_not_revive_it(doors):
    """At once."""
    browser = doors.log_in(Scope.READ_ALL)
    remove_token(doors.file, "read-all")
    assert browser.get("/metrics").status_code == 401
    doors.add("read-all", [Scope.READ_ALL])
    assert browser.get("/metrics").status_code == 401


def test_a_session_ends_after_its_hours(doors):
    """Twelve here."""
    browser = doors.log_in(Scope.READ_ALL)
    doors.wall += 12 * 3_600 - 1
    assert browser.get("/metrics").status_code == 200
    doors.wall += 1
    assert browser.get("/metrics").status_code == 401


def test_logging_out_takes_the_cookie_away(doors):
    """The browser's, that is: nothing is kept on the server."""
    browser = doors.log_in(Scope.READ_ALL)
    assert browser.post("/logout").status_code == 200
    assert browser.get("/metrics").status_code == 401


@pytest.mark.parametrize("path", ["/login", "/logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://[x"},
    ],
)
def test_another_site_can_neither_log_a_browser_in_nor_out(doors, path, headers):
    """It would look at the costs of a stranger's token, and think them its own."""
    answer = doors.client().post(path, json={"token": doors.plain[Scope.ADMIN]}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1:9464"}, {}])
def test_the_page_itself_and_other_programs_log_in(doors, headers):
    """Browsers say which page sent a request."""
    answer = doors.client().post("/login", json={"token": doors.plain[Scope.ADMIN]}, headers=headers)
    assert answer.status_code == 200


def test_failed_logins_of_an_address_are_limited_and_others_wait_for_nobody(doors, caplog):
    """Each costs a second, after a handful; what is logged is the address, once a minute."""
    browser = doors.client()
    codes = [browser.post("/login", json={"token": "farthing_guess"}).status_code for _ in range(14)]
    assert codes == [401] * 11 + [429] * 3
    answer = browser.post("/login", json={"token": doors.plain[Scope.ADMIN]})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert doors.ask("/metrics", Scope.ADMIN).status_code == 200
    doors.clock += 1.1
    assert browser.post("/login", json={"token": doors.plain[Scope.ADMIN]}).status_code == 200
    assert caplog.text.count("was refused") == 1
    assert "farthing_guess" not in caplog.text


def test_a_token_that_only_delivers_has_nothing_to_look_at(doors):
    """It is said, rather than an empty page shown."""
    answer = doors.client().post("/login", json={"token": doors.plain[Scope.INGEST]})
    assert answer.status_code == 403
    assert "only delivers records" in answer.json()["error"]


@given(body=st.one_of(st.binary(max_size=300), st.text().map(lambda text: json.dumps({"token": text}).encode())))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_posted_is_answered_and_opens_nothing(doors, body):
    """JSON of any kind, forms, and what is neither."""
    doors.clock += 100
    for kind in ("application/json", "application/x-www-form-urlencoded", "", "text/plain; charset=x"):
        answer = doors.client().post("/login", content=body, headers={"content-type": kind})
        assert answer.status_code in {400, 401}
        assert set(answer.json()) == {"error"}
        assert "set-cookie" not in answer.headers


def test_a_body_without_end_is_not_read_to_its_end(doors):
    """A token is short."""
    assert doors.client().post("/login", content=b"x" * 5_000).status_code == 413
    assert doors.client().post("/login", content=b"[" * 4_000).status_code == 400


def test_where_nobody_is_asked_a_login_is_not_needed(tmp_path):
    """It succeeds without a cookie."""
    answer = Doors(tmp_path, tokens=False).client().post("/login", json={"token": "anything"})
    assert (answer.status_code, answer.json()["name"]) == (200, "everybody")
    assert "set-cookie" not in answer.headers


@given(text=st.text(max_size=120))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_cookie_but_ours_is_a_session(tmp_path, text):
    """Whatever it holds."""
    tokens = _tokens(tmp_path)
    sessions = Sessions(lambda: b"key", 1, NOW.timestamp)
    assert sessions.find(text, tokens) is None


@given(place=st.integers(0, 200), sign=st.sampled_from("0aZ._=é"))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_session_with_one_sign_changed_is_none(tmp_path, place, sign):
    """Name, end and signature are all signed."""
    tokens = _tokens(tmp_path)
    sessions = Sessions(lambda: b"key", 1, NOW.timestamp)
    cookie = sessions.begin(tokens.by_name["a"])
    place %= len(cookie)
    altered = cookie[:place] + sign + cookie[place + 1 :]
    found = sessions.find(altered, tokens)
    assert found is None or altered == cookie
    assert Sessions(lambda: b"another", 1, NOW.timestamp).find(cookie, tokens) is None


def _tokens(folder) -> Tokens:
    path = folder / "tokens.yaml"
    if not path.exists():
        add_token(path, "a", [Scope.READ_ALL], (), NOW)
    found = read_tokens(path)
    assert found is not None
    return found


def test_the_key_outlives_a_restart_and_is_the_owners_alone(tmp_path):
    """Nobody logs in again because of an upgrade."""
    key = session_key(tmp_path)
    assert session_key(tmp_path) == key
    assert len(key) == 64
    assert stat.S_IMODE((tmp_path / SESSION_KEY).stat().st_mode) == 0o600


def test_where_the_key_cannot_be_kept_logins_end_with_the_service(tmp_path, caplog):
    """A read-only folder is no reason not to serve."""
    first, second = session_key(tmp_path / "missing"), session_key(tmp_path / "missing")
    assert first != second
    assert len(first) == 32
    assert "logins end when the service does" in caplog.text
