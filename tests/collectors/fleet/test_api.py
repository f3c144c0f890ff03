"""The query API of a Prometheus: what it answers becomes series, and whatever goes wrong one line with the fix."""

import asyncio
import gzip
import json
from urllib.parse import parse_qs

import httpx
import pytest
from tenacity import wait_none

from farthing.collectors.fleet.api import PrometheusApi, fleet_client
from farthing.domain.clock import MILLISECOND
from farthing.domain.errors import ConfigError, EngineUnreachableError, ExpositionError

URL = "http://prometheus:9090"
# of Prometheus 2.42.0, and of VictoriaMetrics 1.79.5 with a point more: a marker of staleness
MATRIX = (
    b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up","instance":"e"},'
    b'"values":[[1795762988.837,"1"],[1795762989.837,"0"]]},{"metric":{"__name__":"vllm:generation_tokens_total",'
    b'"instance":"e"},"values":[[1795762988.837,"123456789"],[1795762989.837,"NaN"],[1795762990.837,null]]}]}}'
)
VECTOR = (
    b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1795762993,"1795762963.36"]}]}}'
)


def ask(*answers, query="up[30s]", **options):
    """What a query is answered with, by a server that gives these answers in turn; and the requests that it saw."""
    left, seen = list(answers), []

    def answer(request):
        seen.append(request)
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, httpx.Response) else httpx.Response(200, content=given)

    async def run():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await PrometheusApi(URL, client, wait=wait_none(), **options).query(query)

    return asyncio.run(run()), seen


def refusal(*answers, kind=ExpositionError, **options):
    with pytest.raises(kind) as caught:
        ask(*answers, **options)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is kind
    return str(caught.value)


def test_stored_samples_come_with_the_times_of_their_scrapes():
    """To the millisecond, in nanoseconds; markers of staleness are no samples."""
    (up, tokens), (request,) = ask(MATRIX)
    assert dict(up.points) == {1_795_762_988_837 * MILLISECOND: 1.0, 1_795_762_989_837 * MILLISECOND: 0.0}
    assert up.labels == {"__name__": "up", "instance": "e"}
    assert list(tokens.points.values()) == [123456789.0]
    assert (request.method, request.url.path) == ("POST", "/api/v1/query")
    assert parse_qs(request.content.decode()) == {"query": ["up[30s]"]}


def test_an_instant_value_is_a_series_of_one_point():
    """What counting series is answered with."""
    ((series,), _) = ask(VECTOR)
    assert list(series.points.values()) == [1795762963.36]


def test_a_server_that_is_away_or_busy_is_asked_again():
    """A restart of it, or a limit on how often, passes."""
    answers, seen = ask(httpx.ConnectError("refused"), httpx.Response(503), MATRIX)
    assert (len(answers), len(seen)) == (2, 3)
    message = refusal(*[httpx.Response(429, text="too many requests")] * 3, kind=EngineUnreachableError)
    assert "HTTP 429 (too many requests)" in message


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(401), "check token_file, or username and password_file"),
        (httpx.Response(404, text="404 page not found"), "give the base URL of it (Mimir's ends with /prometheus)"),
        (httpx.Response(302, headers={"location": "/login"}), "redirects (HTTP 302) to /login"),
        (
            httpx.Response(400, json={"status": "error", "errorType": "bad_data", "error": "parse error: unexpected"}),
            "HTTP 400 (parse error: unexpected); check fleet[].match",
        ),
        (httpx.Response(422, json={"status": "error", "error": "would load too many samples"}), "too many samples"),
        (httpx.Response(200, text="<html>login</html>"), "answered what no Prometheus does"),
        (httpx.Response(200, json={"status": "error", "error": "execution: timed out"}), "execution: timed out"),
        (httpx.Response(200, content=MATRIX.replace(b'"123456789"', b'"many"')), "a sample that is no number"),
    ],
)
def test_what_will_not_mend_itself_is_told_at_once(answer, expected):
    """The URL, what came, and what to do; asking again would not help."""
    message = refusal(answer)
    assert message.startswith(URL)
    assert expected in message


def test_an_answer_without_end_is_refused():
    """Memory is bounded, whatever a match matches."""
    assert "narrow fleet[].match" in refusal(MATRIX, max_body=100)


def test_credentials_are_read_again_for_every_question(tmp_path):
    """Kubernetes changes a pod's token every hour; errors never quote it."""
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text("one\n")
    _, (first,) = ask(MATRIX, token_file=token)
    token.write_text("two\n")
    _, (second,) = ask(MATRIX, token_file=token, tenant="team-a")
    assert [one.headers["authorization"] for one in (first, second)] == ["Bearer one", "Bearer two"]
    assert second.headers["x-scope-orgid"] == "team-a"
    password.write_text("p:w")
    _, (third,) = ask(MATRIX, username="farthing", password_file=password)
    assert third.headers["authorization"] == httpx.BasicAuth("farthing", "p:w")._auth_header
    password.write_text("secret\nof two lines")
    message = refusal(kind=ConfigError, username="farthing", password_file=password)
    assert "one line" in message
    assert "secret\n" not in message
    assert "cannot be read" in refusal(kind=ConfigError, token_file=tmp_path / "missing")


def test_a_file_without_certificates_is_named(tmp_path):
    """Before anything is asked."""
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(ConfigError, match=r"ca\.pem: no certificates"):
        fleet_client(tmp_path / "ca.pem")


def test_a_deadline_holds_for_the_whole_answer():
    """A server that drips bytes would hold a poll for ever."""

    async def drip():
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    answers = [httpx.Response(200, content=drip()) for _ in range(3)]
    assert "nothing within 0.05 s" in refusal(*answers, kind=EngineUnreachableError, timeout_seconds=0.05)


def test_the_body_that_asks_holds_any_match():
    """Quotes and ampersands are PromQL, too."""
    query = json.dumps('{job="a&b=c", x=~"é+"}')
    _, (request,) = ask(MATRIX, query=query)
    assert parse_qs(request.content.decode())["query"] == [query]


def test_what_is_compressed_twice_is_refused_unread():
    """A kilobyte of it becomes gigabytes in one step."""
    bomb = gzip.compress(gzip.compress(b" " * 1_000_000))

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield bomb

    answer = httpx.Response(200, headers={"content-encoding": "gzip, gzip"}, stream=Body())
    assert "compressed 2 times over" in refusal(answer, max_body=1_000)


@pytest.mark.parametrize("token", ["tökén", "a b"])
def test_a_token_that_no_header_holds_is_named_by_its_file(tmp_path, token):
    """And not quoted; the engines of that API are then shown as what cannot be read."""
    (tmp_path / "token").write_text(token)
    message = refusal(kind=ConfigError, token_file=tmp_path / "token")
    assert message.startswith(f"{tmp_path}/token: a token is one word of ASCII")
    assert token not in message


@pytest.mark.parametrize("at", [b"1e300", b"-1", b"9223372037"])
def test_a_sample_of_no_time_is_refused(at):
    """It would end the engine's timeline: nothing is later than it."""
    message = refusal(MATRIX.replace(b"1795762988.837", at))
    assert "its time is in no year from 1970 to 2261" in message


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(400, text="what is Authorization: Bearer s3cret-token"),
        httpx.Response(302, headers={"location": "http://elsewhere/?from=s3cret-token"}),
        httpx.Response(200, json={"status": "error", "error": "no access for s3cret-token"}),
    ],
)
def test_a_token_that_a_server_quotes_stands_in_no_error(tmp_path, answer):
    """Errors are logged."""
    (tmp_path / "token").write_text("s3cret-token")
    message = refusal(answer, token_file=tmp_path / "token")
    assert "s3cret" not in message
    assert "[secret]" in message
