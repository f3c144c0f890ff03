"""farthing.yaml: every error names file, line and key."""

import pytest

from farthing.domain.errors import ConfigError
from farthing.settings import Settings, load_settings, parse_settings


def test_an_empty_file_gives_the_defaults():
    """Every setting has a default."""
    assert parse_settings("", "farthing.yaml") == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engines: [", "f.yaml:1: not valid YAML"),
        ("- a\n", "f.yaml:1: the top level must be a mapping"),
        ("serve:\n  port: 99999\n", "f.yaml:2: serve.port: "),
        ("serve:\n  prot: 9464\n", "f.yaml:2: serve.prot: unknown key; known here: host, port"),
        ("engines:\n- name: a\n  url: nonsense\n", "f.yaml:3: engines.0.url: "),
        ("engines:\n- name: a\n  url: http://x\n- name: a\n  url: http://y\n", "engine name 'a' is used twice"),
        ("prices:\n- gpu: X\n  from: 2026-01-01\n  usd_per_hour: -1\n", "f.yaml:4: prices.0.usd_per_hour: "),
        ("prices:\n- gpu: X\n  from: 2026-01-01\n  usd_per_hour: .inf\n", "f.yaml:4: prices.0.usd_per_hour: "),
        ("stack:\n  prometheus_port: 9093\n", "give each its own port"),
        ("currency: dollars\n", "f.yaml:1: currency: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_line_and_key(text, message):
    """One clear line, with the file, the line and the key."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "f.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_which(tmp_path):
    """A path given on purpose must exist."""
    with pytest.raises(ConfigError, match="nowhere"):
        load_settings(tmp_path / "nowhere.yaml")


def test_the_environment_names_the_file(tmp_path):
    """FARTHING_CONFIG is read when no path is given."""
    file = tmp_path / "x.yaml"
    file.write_text("currency: EUR\n")
    assert load_settings(environ={"FARTHING_CONFIG": str(file)}).currency == "EUR"
