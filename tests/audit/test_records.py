"""What a record says: fields that are named, and nothing that could be content or a secret."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audit.trails import NOON, audited

from farthing.audit.chain import encoded, parse_signed, signed_line
from farthing.audit.export import COLUMNS
from farthing.audit.records import request, stamp

texts = st.text(max_size=40)


def test_times_are_utc_to_the_nanosecond():
    """RFC 3339."""
    assert stamp(NOON + 5) == "2026-11-25T12:00:00.000000005Z"
    assert stamp(NOON + 999_999_999) == "2026-11-25T12:00:00.999999999Z"


def test_money_is_integer_nano_dollars_and_adds_up():
    """By phase, and together."""
    said = request(audited(0, cost_nano=(1, 20, 300)), NOON, "EUR")
    assert [said[f"{phase}_nano"] for phase in ("prefill", "decode", "vision")] == [1, 20, 300]
    assert (said["cost_nano"], said["currency"]) == (321, "EUR")


@pytest.mark.parametrize(("computed", "cached", "prompt"), [(100, 20, 120), (None, 20, None), (100, None, None)])
def test_unknown_tokens_are_never_0(computed, cached, prompt):
    """Nobody told."""
    said = request(audited(0, prompt_computed=computed, prompt_cached=cached, output_tokens=None), NOON, "USD")
    assert (said["prompt_tokens"], said["cached_tokens"], said["output_tokens"]) == (prompt, cached, None)


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("8f3ae9d1c07b5542", "8f3ae9d1c07b5542"),
        ("ada@example.com", "hidden"),
        ("8F3AE9D1C07B5542", "hidden"),
        ("8f3ae9d1c07b5542\n", "hidden"),
        ("", ""),
        (None, None),
    ],
)
def test_only_a_pseudonym_of_the_probes_stands_for_a_user(user, shown):
    """What is in a trail stays there."""
    assert request(audited(0, user=user), NOON, "USD")["user"] == shown


@pytest.mark.parametrize(
    ("key", "tenant", "shown"),
    [
        ("5d0b91c3a44e7f20", "acme", "5d0b91c3a44e7f20"),
        ("", "key-5d0b91c3a44e7f20", "5d0b91c3a44e7f20"),
        ("", "key-west", None),
        ("", "acme", None),
    ],
)
def test_a_key_is_there_by_its_pseudonym(key, tenant, shown):
    """The record's own, or that of a tenant who is known by nothing else."""
    assert request(audited(0, key=key, tenant=tenant), NOON, "USD")["key"] == shown


@given(texts, texts, texts)
def test_whatever_names_hold_a_record_is_one_line_of_ascii(tenant, request_id, model):
    """So that a line is a record, and a byte is a byte, for whoever reads it."""
    body = encoded({"n": 1, **request(audited(0, tenant=tenant, request_id=request_id, model=model), NOON, "USD")})
    assert body.isascii()
    assert not set(body) & {0x0A, 0x0D}
    said = json.loads(body)
    assert (said["tenant"], said["request_id"], said["model"]) == (tenant, request_id, model)
    assert set(said) <= set(COLUMNS)


@given(st.binary(max_size=300))
def test_whatever_a_head_holds_it_is_read_or_refused_in_words(data):
    """No exception that nobody expects."""
    signed, wrong = parse_signed("head", "0" * 64, data, ())
    assert signed is None
    assert wrong


@pytest.mark.parametrize("content", [{}, {"kind": "head"}, {"kind": "head", "day": 1}, {"kind": ["day"]}])
def test_a_line_with_a_right_hash_and_another_content_is_refused(content):
    """Whoever forges a line can give it a right hash."""
    line = signed_line("head", "0" * 64, content, None).line
    assert parse_signed("head", "0" * 64, line, ()) == (None, "says something else than it has to")
