"""`farthing tokens`: shown once, kept as a hash, gone when removed."""

import json

import pytest
from tests.cli.commands import farthing, one_line

from farthing.domain import errors
from farthing.service.access_tokens import digest, read_tokens


@pytest.fixture
def file(tmp_path):
    """Where tokens are kept by default, below the current folder."""
    return tmp_path / ".farthing/secrets/tokens.yaml"


def test_a_token_is_printed_alone_and_only_its_hash_is_kept(tmp_path, file):
    """`TOKEN=$(farthing tokens add …)` holds the token and nothing else."""
    ran = farthing("tokens", "add", "acme", "--scope", "read-tenant", "--tenant", "acme", cwd=tmp_path)
    plain = ran.out.removesuffix("\n")
    assert (ran.code, plain.split()) == (0, [plain])
    assert plain not in ran.err + file.read_text()
    (kept,) = list(read_tokens(file) or ())
    assert (kept.name, kept.sha256, kept.tenants) == ("acme", digest(plain.encode()), ("acme",))


def test_tokens_are_listed_without_hashes_and_removed_by_name(tmp_path, file):
    """What a list shows could not be used."""
    farthing("tokens", "add", "a", "--scope", "ingest", "--scope", "read-all", cwd=tmp_path)
    farthing("tokens", "add", "b", "--scope", "admin", cwd=tmp_path)
    shown = json.loads(farthing("tokens", "list", "--output", "json", cwd=tmp_path).out)
    assert [(one["name"], one["scopes"]) for one in shown] == [("a", ["ingest", "read-all"]), ("b", ["admin"])]
    for output in ("table", "csv", "json"):
        listed = farthing("tokens", "list", "--output", output, cwd=tmp_path).out
        assert not any(token.sha256[:16] in listed for token in read_tokens(file) or ())
    assert farthing("tokens", "remove", "a", cwd=tmp_path).code == 0
    assert [token.name for token in read_tokens(file) or ()] == ["b"]


def test_without_tokens_the_list_says_that_nobody_is_asked_for_one(tmp_path):
    """And where they would be."""
    assert "nobody is asked for one" in farthing("tokens", "list", cwd=tmp_path).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "b", "--scope", "read-tenant"), "no tenants"),
        (("add", "b", "--scope", "ingest", "--tenant", "x"), "without the scope read-tenant"),
        (("add", "a", "--scope", "admin"), "remove it first"),
        (("add", "a b", "--scope", "admin"), "name: "),
        (("add", "everybody", "--scope", "admin"), "cannot be called"),
        (("remove", "c"), "there are: a"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(tmp_path, file, words, said):
    """It says what to do."""
    farthing("tokens", "add", "a", "--scope", "admin", cwd=tmp_path)
    before = file.read_text()
    assert said in one_line(farthing("tokens", *words, cwd=tmp_path), errors.ConfigError.exit_code)
    assert file.read_text() == before


def test_the_settings_say_where_tokens_are(tmp_path):
    """By themselves, or by the state folder."""
    (tmp_path / "a.yaml").write_text("serve: {tokens_file: here/t.yaml}\n")
    (tmp_path / "b.yaml").write_text("stack: {state_dir: there}\n")
    for config in ("a.yaml", "b.yaml"):
        assert farthing("tokens", "add", "x", "--scope", "admin", "--config", config, cwd=tmp_path).code == 0
    assert (tmp_path / "here/t.yaml").exists()
    assert (tmp_path / "there/secrets/tokens.yaml").exists()
