"""An exposition is read whole, or refused in one line that says what came instead."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.collectors.engines.exposition import parse_exposition
from farthing.domain.errors import ExpositionError

ROOT = Path(__file__).parents[3]
CAPTURES = sorted(
    [
        *(ROOT / "tests/fixtures/vllm-0.32-cpu").glob("*.txt"),
        *ROOT.glob("app/farthing/replay/recordings/*/metrics_final.txt"),
    ]
)
URL = "http://engine:8000/metrics"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
REAL = (ROOT / "tests/fixtures/vllm-0.32-cpu/metrics-vlm.txt").read_bytes()


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_captured_exposition_is_read_line_by_line(capture):
    """Each sample line of a live capture becomes one sample, none is lost."""
    body = capture.read_bytes()
    lines = [line for line in body.decode().splitlines() if line and not line.startswith("#")]
    exposition = parse_exposition(body, TEXT, URL)
    assert len(exposition) == len(lines) == len(list(exposition))


def test_samples_are_found_by_name_and_labels():
    """A lookup gives the series whose labels match, and nothing for a name that is absent."""
    exposition = parse_exposition(REAL, TEXT, URL)
    (computed,) = exposition.find("vllm:prompt_tokens_by_source_total", {"source": "local_compute"})
    assert computed.value == 1805
    assert computed.labels == {"engine": "0", "model_name": "tiny", "source": "local_compute"}
    assert len(exposition.find("vllm:request_success_total")) == 5
    assert exposition.find("vllm:request_success_total", {"finished_reason": "bored"}) == []
    assert exposition.find("vllm:no_such_metric") == []


def test_openmetrics_is_read_with_its_own_parser():
    """vLLM's Rust frontend answers OpenMetrics, whose TYPE lines lack _total."""
    body = b'# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{engine="0"} 7\n# EOF\n'
    (sample,) = parse_exposition(body, OPENMETRICS, URL).find("vllm:prompt_tokens_total")
    assert sample.value == 7


@pytest.mark.parametrize(
    ("body", "content_type", "what"),
    [
        pytest.param(b"<!doctype html><title>Sign in</title>\n", "text/html", "an HTML or XML page", id="HTML"),
        pytest.param(b'{"detail":"Not Found"}', "application/json", "JSON", id="JSON"),
        pytest.param(b"[]\n", "application/json", "JSON", id="a JSON list"),
        pytest.param(b"", "text/plain", "an empty body", id="empty"),
        pytest.param(b"  \n", "text/plain", "an empty body", id="blank"),
        pytest.param(b"404 page not found\n", "text/plain", "text that is no Prometheus exposition", id="prose"),
        pytest.param(b'{, ="x"\n', "text/plain", "JSON", id="a label list that the parser indexes past"),
        pytest.param(b"# HELP a b\n", "text/plain", "an exposition without samples", id="comments only"),
        pytest.param(b"a 1\nb 5", "text/plain", "an exposition cut off within its last line", id="cut off"),
        pytest.param(b"a 1\n", OPENMETRICS, "Missing # EOF", id="OpenMetrics cut off"),
        pytest.param(b"\x1f\x8b\x08\xff", "", "bytes that are not UTF-8 text", id="binary"),
    ],
)
def test_anything_else_is_refused_by_url_kind_content_type_and_start(body, content_type, what):
    """The one-line error says where it came from, what it looks like, and what to check."""
    with pytest.raises(ExpositionError) as caught:
        parse_exposition(body, content_type, URL)
    message = str(caught.value)
    assert message.startswith(f"{URL} answered ")
    assert what in message
    assert (content_type or "none") in message
    assert "check engines[].url and metrics_path" in message
    assert "\n" not in message


@given(st.integers(1, len(REAL) - 1))
def test_a_capture_cut_anywhere_never_yields_a_wrong_number(length):
    """A cut within a line is refused; a cut between lines gives the samples before it, digit for digit."""
    body = REAL[:length]
    if not body.endswith(b"\n"):
        with pytest.raises(ExpositionError, match="cut off"):
            parse_exposition(body, TEXT, URL)
    elif any(line and not line.startswith(b"#") for line in body.splitlines()):
        cut = list(parse_exposition(body, TEXT, URL))
        assert cut == list(parse_exposition(REAL, TEXT, URL))[: len(cut)]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from([TEXT, OPENMETRICS, ""]))
def test_garbage_is_always_an_exposition_error(body, content_type):
    """No parser's own exception escapes, and no message has more than one line."""
    try:
        parse_exposition(body, content_type, URL)
    except ExpositionError as error:
        message = str(error)
    else:
        message = "an exposition"
    assert len(message.splitlines()) == 1
