"""APIs that engines' counters are read from: mistakes that name their key, and what engines run on."""

import json

import pytest

from farthing.domain.errors import ConfigError
from farthing.settings import parse_settings


def fleet(text):
    return parse_settings(f"fleet:\n- {{name: f, url: 'http://prometheus:9090'{text}}}\n", "f.yaml").fleet[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (", match: 'job=llm'", "fleet.0.match: 'job=llm' are no label matchers"),
        (', match: \'job="a"} or up{x="\'', "are no label matchers"),
        (", username: u", "username and password_file go together"),
        (", username: u, password_file: p, token_file: t", "two ways to log in"),
        (", lookback_seconds: 20", "less than two intervals of 15 s"),
        (", cluster_label: replica, replica_label: replica", "enter different ones"),
        (", replica_label: instance", "enter different ones"),
        (", gpus: [{engine: a}]", "fleet.0.gpus.0.gpu"),
    ],
)
def test_a_mistake_names_its_key(text, expected):
    """The line comes first, as for every setting."""
    with pytest.raises(ConfigError, match=r"^f\.yaml:2: ") as caught:
        fleet(text)
    assert expected in str(caught.value)


def test_a_url_has_no_password():
    """It would stand in every log line about the API."""
    with pytest.raises(ConfigError, match="enter username and password_file"):
        parse_settings("fleet:\n- {name: f, url: 'http://u:p@prometheus:9090'}\n", "f.yaml")


def test_two_entries_have_two_names():
    """Messages say which is meant."""
    with pytest.raises(ConfigError, match="two fleet entries are called 'f'"):
        parse_settings("fleet:\n- {name: f, url: 'http://a'}\n- {name: f, url: 'http://b'}\n", "f.yaml")


@pytest.mark.parametrize("match", ['job="llm-engines"', ' job=~"a|b" ,  cluster!="x\\"y" ', 'a!~"b"'])
def test_matchers_are_as_between_the_braces_of_promql(match):
    """With any quotes within."""
    assert fleet(f", match: {json.dumps(match)}").match == match.strip()


def test_the_first_entry_that_fits_says_what_an_engine_runs_on():
    """Special ones before general ones; a star stands for any characters."""
    entry = fleet(", gpus: [{engine: 'eu:big-*', gpu: H200, gpu_count: 8}, {model: 'llama*', gpu: H100-SXM}]")
    assert entry.gpu_of("eu:big-1", "llama-70b").gpu == "H200"
    assert entry.gpu_of("eu:small-1", "llama-8b").gpu_count == 1
    assert entry.gpu_of("eu:small-1", "qwen") is None


def test_a_question_reaches_back_over_several_intervals():
    """What was written late is still found."""
    assert (fleet("").lookback, fleet(", interval_seconds: 60").lookback) == (60, 240)
    assert fleet(", lookback_seconds: 300").lookback == 300
