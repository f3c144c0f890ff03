"""`farthing secrets`: made by chance, once, for each reader what it needs and nothing else; shown once."""

import base64
import stat
from datetime import UTC, datetime

import bcrypt
import pytest
import yaml
from tests.cli.commands import farthing, one_line

from farthing.domain import errors
from farthing.domain.access import Scope
from farthing.service.access_tokens import add_token, read_tokens, remove_token
from farthing.settings_traces import TracesSettings
from farthing.stack.secret_files import First, init_secrets, login_link, make_tokens, reveal_secrets

NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
READERS = {
    "farthing": {
        "tokens.yaml", "session-key", "intake-token", "first-token", "read-token", "prometheus-password",
        "jaeger-headers",
    },
    "replay": {"intake-token"},
    "prometheus": {"farthing-token", "web.yml", "password", "alertmanager-password"},
    "alertmanager": {"web.yml", "password"},
    "grafana": {"admin-password", "secret-key", "prometheus-password", "alertmanager-password", "jaeger-password"},
    "jaeger": {"password", "htpasswd", "prometheus-password"},
}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """A folder of secrets."""
    init_secrets(tmp_path, NOW)
    return tmp_path


def contents(folder):
    """What each file holds."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def names(folder):
    """Name -> scopes of the tokens."""
    return {token.name: set(token.scopes) for token in read_tokens(folder / "farthing/tokens.yaml") or ()}


def whose(folder, plain):
    """Name of the token that a plain one is."""
    found = (read_tokens(folder / "farthing/tokens.yaml") or pytest.fail("no tokens")).find(plain.strip().encode())
    return None if found is None else found.name


def test_each_reader_finds_what_it_needs_and_nothing_else(made):
    """A container that is broken into tells what its own folder holds."""
    found = {path.name: {file.name for file in path.iterdir()} for path in made.iterdir()}
    assert found == READERS


def test_what_is_the_services_own_is_its_owners_and_the_rest_is_read_by_whoever_mounts_it(made):
    """The users of the containers differ."""
    for path in (path for path in made.rglob("*") if path.is_file()):
        own = path.parent.name == "farthing"
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if own else 0o444), path


def test_each_plain_token_opens_what_its_reader_needs(made):
    """And no plain token is among the hashes."""
    held = contents(made)
    assert names(made) == {"first": {Scope.ADMIN}, "local": {Scope.READ_ALL}, "prometheus": {Scope.READ_ALL}}
    assert whose(made, held["farthing/first-token"]) == "first"
    assert whose(made, held["farthing/read-token"]) == "local"
    assert whose(made, held["prometheus/farthing-token"]) == "prometheus"
    assert whose(made, held["farthing/intake-token"]) is None
    assert held["farthing/intake-token"] == held["replay/intake-token"]
    assert not [
        text for text in held.values() if text.startswith("farthing_") and text.strip() in held["farthing/tokens.yaml"]
    ]


def test_prometheus_and_alertmanager_demand_passwords_of_their_own(made):
    """bcrypt, the one hash that their web configuration knows."""
    held = contents(made)
    assert held["prometheus/password"] != held["alertmanager/password"]
    for part in ("prometheus", "alertmanager"):
        ((user, hashed),) = yaml.safe_load(held[f"{part}/web.yml"])["basic_auth_users"].items()
        assert user == "farthing"
        assert bcrypt.checkpw(held[f"{part}/password"].strip().encode(), hashed.encode())
        assert held[f"grafana/{part}-password"] == held[f"{part}/password"]
    assert held["prometheus/alertmanager-password"] == held["alertmanager/password"]


def test_a_second_run_changes_nothing(made):
    """It runs before every start."""
    before = contents(made)
    init_secrets(made, NOW.replace(year=2027))
    assert contents(made) == before


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_whose_volume_is_lost_gets_what_the_others_know_or_something_new(made, reader):
    """Whatever is lost, afterwards everything fits together again."""
    for path in (made / reader).iterdir():
        path.unlink()
    init_secrets(made, NOW)
    held = contents(made)
    assert whose(made, held["prometheus/farthing-token"]) == "prometheus"
    assert whose(made, held["farthing/read-token"]) == "local"
    assert held["farthing/intake-token"] == held["replay/intake-token"]
    test_prometheus_and_alertmanager_demand_passwords_of_their_own(made)


def test_what_a_person_needs_is_shown_once(made):
    """The plain token is gone then, and does not come back."""
    shown: list[First] = []
    assert reveal_secrets(made, shown.append)
    assert whose(made, shown[0].token) == "first"
    assert shown[0].grafana_password == (made / "grafana/admin-password").read_text().strip()
    init_secrets(made, NOW)
    assert not reveal_secrets(made, shown.append)
    assert len(shown) == 1
    assert not [name for name, text in contents(made).items() if shown[0].token in text]


def test_what_could_not_be_shown_is_kept_to_be_shown_again(made):
    """A terminal that went away has seen nothing."""

    def away(_):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        reveal_secrets(made, away)
    assert reveal_secrets(made, lambda _: None)


def test_an_administrators_token_that_was_removed_is_not_made_again(made):
    """Nor where somebody made tokens before the first start."""
    reveal_secrets(made, lambda _: None)
    remove_token(made / "farthing/tokens.yaml", "first")
    init_secrets(made, NOW)
    assert "first" not in names(made)
    own = made / "own/tokens.yaml"
    add_token(own, "mine", [Scope.ADMIN], (), NOW)
    make_tokens(own, NOW)
    assert {token.name for token in read_tokens(own) or ()} == {"mine", "local"}
    assert not (own.parent / "first-token").exists()


def test_the_login_link_keeps_the_token_behind_the_hash_sign():
    """Browsers do not send what follows it."""
    assert login_link("http://127.0.0.1:9464/", "farthing_x") == "http://127.0.0.1:9464/login#token=farthing_x"


def test_the_commands_make_and_show(tmp_path):
    """The second time it is said how to get another token."""
    folder = str(tmp_path / "secrets")
    assert farthing("secrets", "init", "--folder", folder, cwd=tmp_path).code == 0
    ran = farthing("secrets", "reveal", "--folder", folder, "--url", "https://farthing.example/", cwd=tmp_path)
    assert "https://farthing.example/login#token=farthing_" in ran.out
    assert "user admin, password " in ran.out
    assert ran.err == ""
    ran = farthing("secrets", "reveal", "--folder", folder, cwd=tmp_path)
    assert (ran.code, ran.out) == (0, "")
    assert "farthing tokens add NAME --scope admin" in ran.err


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """It names the folder."""
    (tmp_path / "file").write_text("")
    ran = farthing("secrets", "init", "--folder", "file/below", cwd=tmp_path)
    assert "file/below/farthing: cannot be created" in one_line(ran, errors.ConfigError.exit_code)


def test_farthing_delivers_spans_with_the_login_that_jaeger_checks(made):
    """As `traces.headers_file` reads it; made anew with the password."""
    settings = TracesSettings(headers_file=made / "farthing/jaeger-headers")
    kind, _, login = settings.headers()["authorization"].partition(" ")
    password = (made / "jaeger/password").read_text().strip()
    assert (kind, base64.b64decode(login).decode()) == ("Basic", f"farthing:{password}")
    assert stat.S_IMODE((made / "farthing/jaeger-headers").stat().st_mode) == 0o600
    for name in ("jaeger/password", "grafana/jaeger-password"):
        (made / name).unlink()
    init_secrets(made, NOW)
    assert settings.headers()["authorization"] != f"Basic {login}"
