"""Who pays: the map of keys, then what a gateway says, then a pseudonym, and nobody by a claim that was refused."""

import asyncio
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.probe.rig import CHAT, JSON, rigged

from farthing.collectors.wire import decode_line
from farthing_probe import wire
from farthing_probe.attribution import attribute, clamp
from farthing_probe.settings import HEADERS, Settings

KEY = b"sk-canary-0123456789"
MAP = {hashlib.sha256(KEY).hexdigest(): "acme"}
SALT = b"pepper"


def digest(value: bytes) -> str:
    """The documented pseudonym, computed beside the code."""
    return hmac.new(SALT, value, hashlib.sha256).hexdigest()[:16]


@pytest.mark.parametrize(
    ("header", "field"), [(header, field) for field, headers in HEADERS.items() for header in headers]
)
def test_each_known_header_fills_its_field(header, field):
    """X-Tenant-Id and its like, and those that llm-d sends."""
    expected = digest(b"blue") if field == "user" else "blue"
    assert attribute({header.encode(): b" blue "}, Settings(salt=SALT)) == {field: expected}


def test_llm_d_headers_are_the_documented_ones():
    """Written out, so that a slip in the table does not test itself."""
    headers = {b"x-llm-d-inference-fairness-id": b"t", b"x-llm-d-workload-id": b"w", b"x-llm-d-user-id": b"u"}
    assert attribute(headers, Settings(salt=SALT)) == {"tenant": "t", "workload": "w", "user": digest(b"u")}
    headers[b"x-llm-d-tenant-id"] = b"t2"
    assert attribute(headers, Settings())["tenant"] == "t2", "it says more than a fairness id"
    headers[b"x-tenant-id"] = b"t3"
    assert attribute(headers, Settings())["tenant"] == "t3"


@pytest.mark.parametrize(
    "headers",
    [{b"authorization": b"Bearer " + KEY}, {b"authorization": b"bearer  " + KEY + b" "}, {b"x-api-key": KEY}],
)
def test_a_key_that_the_map_names_beats_the_header(headers):
    """Whoever holds a key cannot spend as somebody else."""
    claimed = {**headers, b"x-tenant-id": b"globex", b"x-project-id": b"p1"}
    assert attribute(claimed, Settings(keys=MAP)) == {"tenant": "acme", "project": "p1"}


def test_a_key_that_no_map_names_leaves_the_header_alone():
    """The gateway knows better than a pseudonym."""
    headers = {b"authorization": b"Bearer other", b"x-tenant-id": b"globex"}
    assert attribute(headers, Settings(keys=MAP, salt=SALT)) == {"tenant": "globex", "key_pseudonym": digest(b"other")}
    assert attribute(headers, Settings(keys=MAP)) == {"tenant": "globex"}


def test_a_key_goes_with_the_record_as_a_pseudonym_whoever_is_booked():
    """The audit trail tells which key was used; a key itself is nowhere."""
    fields = attribute({b"x-api-key": KEY}, Settings(keys=MAP, salt=SALT))
    assert fields == {"tenant": "acme", "key_pseudonym": digest(KEY)}
    assert attribute({b"x-api-key": KEY}, Settings(keys=MAP)) == {"tenant": "acme"}


def test_an_unnamed_key_is_a_pseudonym_under_the_salt_and_nothing_without_one():
    """An unsalted hash of a key could be looked up."""
    headers = {b"authorization": b"Bearer other"}
    assert attribute(headers, Settings(salt=SALT)) == {
        "tenant": "key-" + digest(b"other"),
        "key_pseudonym": digest(b"other"),
    }
    assert attribute(headers, Settings()) == {}
    assert attribute({b"authorization": b"Basic other"}, Settings(salt=SALT)) == {}
    assert attribute({b"authorization": b"Bearer "}, Settings(salt=SALT)) == {}


def test_a_user_is_a_pseudonym_under_the_salt_and_left_out_without_one():
    """Personal data does not leave the engine's process in the clear."""
    assert attribute({b"x-user-id": b"ann@example.com"}, Settings()) == {}
    salted = attribute({b"x-user-id": b"ann@example.com"}, Settings(salt=SALT))
    assert salted == {"user": digest(b"ann@example.com")}


def test_untrusted_headers_say_nothing():
    """Where clients reach the engine directly they may claim anything; a key still counts."""
    headers = {b"x-tenant-id": b"globex", b"x-tier": b"gold", b"authorization": b"Bearer " + KEY}
    assert attribute(headers, Settings(trust_headers=False, keys=MAP)) == {"tenant": "acme"}
    assert attribute(headers, Settings(trust_headers=False)) == {}


def test_a_header_of_ones_own_comes_before_the_known_ones():
    """FARTHING_PROBE_HEADERS."""
    settings = Settings.from_environment({"FARTHING_PROBE_HEADERS": "Tenant=X-Team", "FARTHING_PROBE_SPOOL": ""})
    headers = {b"x-team": b"blue", b"x-tenant-id": b"red"}
    assert attribute(headers, settings) == {"tenant": "blue"}
    del headers[b"x-team"]
    assert attribute(headers, settings) == {"tenant": "red"}


def test_control_characters_and_length_are_made_to_fit_the_column():
    """Intake refuses a record for either; a request must not be lost because of its headers."""
    headers = {b"x-tenant-id": b"a\x00b\x7fc\xff" + b"t" * 4096, b"x-tier": b"g" * 4096, b"x-project-id": b"p" * 4096}
    fields = attribute(headers, Settings())
    assert fields["tenant"].startswith("a?b?c\ufffdttt")
    assert {name: len(value) for name, value in fields.items()} == {"tenant": 256, "tier": 64, "project": 512}


@given(st.dictionaries(st.sampled_from([h.encode() for hs in HEADERS.values() for h in hs]), st.binary(max_size=600)))
def test_whatever_headers_hold_intake_takes_the_record(headers):
    """Bytes of any kind."""
    fields = attribute(headers, Settings(salt=SALT))
    record = wire.usage(
        "b", 0, 0, request_id=clamp("\x00\ud800" + "i" * 600, 512), engine_index=0, model="m", outcome="finished",
        status=200, arrived_ns=0, ended_ns=0,
    )  # fmt: skip
    decode_line(json.dumps({**record, **fields}).encode())


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_never_booked_to_the_tenant_it_claims(status):
    """Not to the header's, and not to the pseudonym of a wrong key either."""
    settings = Settings(spool=None, salt=SALT, keys=MAP)
    claims = [(b"x-tenant-id", b"globex"), (b"x-project-id", b"p"), (b"x-user-id", b"u"), (b"x-tier", b"gold")]

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": JSON})
        await send({"type": "http.response.body", "body": b'{"error":"Unauthorized"}'})

    with rigged(settings) as rig:
        rig.begin()
        for key in (b"Bearer wrong", b"Bearer " + KEY):
            scope = rig.scope(CHAT, [*claims, (b"authorization", key)])
            asyncio.run(rig.asked(app, scope=scope))
        for usage in rig.settle():
            assert (usage.outcome, usage.status) == ("rejected", status)
            assert (usage.tenant, usage.project, usage.user, usage.tier) == ("unknown", "", "", "unknown")
        assert len(rig.usages) == 2
