"""Bad input: one clear line, a documented exit status, and nothing lost that was recorded before."""

import asyncio
import gzip
import shutil
import socket
import sqlite3
import subprocess

import httpx
import pytest
import yaml
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route
from tests.alerts.real_parts import free_port
from tests.cli.commands import farthing, one_line
from tests.replay.conftest import TEXT
from tests.service.books import content
from tests.service.running import FARTHING, Serve, served, wait_until

from farthing.domain import conventions as c
from farthing.domain import errors
from farthing.ledger.repository import Ledger
from farthing.replay.recording import PACKAGED, load_recording
from farthing.replay.sender import Sender
from farthing.replay.wire_records import wire_records


@pytest.fixture(scope="module", autouse=True)
def nothing_lost(booked):
    """Whatever the commands below were given, the books that were there before are there after them."""
    before = _books(booked)
    yield
    assert _books(booked) == before


def _books(folder):
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    found = content(ledger)
    ledger.close()
    return found


def settings_in(folder, booked, **keys):
    """A farthing.yaml on the booked ledger with some keys more."""
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump({"ledger": f"sqlite:///{booked}/ledger.db", **keys}))
    return str(path)


@pytest.fixture
def recording(tmp_path):
    """A copy of a recording that may be broken."""
    copy = tmp_path / "recording"
    shutil.copytree(PACKAGED / TEXT, copy)
    copy.chmod(0o755)
    for path in copy.iterdir():
        path.chmod(0o644)
    return copy


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("command", [["check"], ["report"], ["prices"], ["status"], ["serve"], ["replay", TEXT]])
def test_an_unknown_key_of_the_settings_is_named_with_its_line(tmp_path, command):
    """And with the keys that are known."""
    (tmp_path / "farthing.yaml").write_text("currency: USD\nserve:\n  prot: 9464\n")
    line = one_line(farthing(*command, cwd=tmp_path), errors.ConfigError.exit_code)
    assert line.startswith("farthing.yaml:3: serve.prot: unknown key; known here: host, port")


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("engines: [1,\ncurrency: USD\n", "farthing.yaml:3: not valid YAML"),
        ("a: b: c\n", "farthing.yaml:1: not valid YAML"),
        ("\tcurrency: USD\n", "farthing.yaml:1: not valid YAML"),
        ("- currency\n", "farthing.yaml:1: the top level must be a mapping"),
        ("serve:\n  port: ninety\n", "farthing.yaml:2: serve.port: "),
        (
            "prices:\n  - {gpu: H100-SXM, usd_per_hour: free, from: 2026-01-01}\n",
            "farthing.yaml:2: prices.0.usd_per_hour",
        ),
        (
            "engines:\n  - {name: a, url: 'http://a'}\n  - {name: a, url: 'http://b'}\n",
            "farthing.yaml:1: engines: engine name 'a' is used twice",
        ),
    ],
)
def test_malformed_settings_are_named_by_file_line_and_key(tmp_path, text, beginning):
    """Whatever is wrong with them."""
    (tmp_path / "farthing.yaml").write_text(text)
    assert one_line(farthing("check", cwd=tmp_path), errors.ConfigError.exit_code).startswith(beginning)


def test_settings_that_are_not_text_are_one_line(tmp_path):
    """A file that is no UTF-8 is not a settings file."""
    (tmp_path / "farthing.yaml").write_bytes(b"\xff\xfe\x00currency")
    line = one_line(farthing("prices", cwd=tmp_path), errors.ConfigError.exit_code)
    assert "farthing.yaml: cannot be read" in line


def test_an_engine_that_does_not_answer_is_named_with_its_url(tmp_path, booked):
    """The table of findings is on standard output, the failure on standard error too."""
    port = free_port()
    config = settings_in(tmp_path, booked, engines=[{"name": "e", "url": f"http://127.0.0.1:{port}", "gpu": "L4"}])
    ran = farthing("check", "--config", config, cwd=tmp_path)
    line = one_line(ran, errors.EngineUnreachableError.exit_code)
    assert line.startswith(f"engine e: http://127.0.0.1:{port}/metrics did not answer: ")
    assert "failed" in ran.out
    assert "ledger" in ran.out


def test_an_exposition_that_is_html_is_named_as_such(tmp_path, booked):
    """A proxy's login page is not an engine."""
    with served(_web_page()) as url:
        config = settings_in(tmp_path, booked, engines=[{"name": "e", "url": url, "gpu": "L4"}])
        line = one_line(farthing("check", "--config", config, cwd=tmp_path), errors.ExpositionError.exit_code)
    assert line.startswith(f"engine e: {url}/metrics answered an HTML or XML page")


def _web_page():
    async def page(request):
        return HTMLResponse("<!DOCTYPE html>\n<html><body>Please sign in</body></html>")

    return Starlette(routes=[Route("/{path:path}", page)])


def test_serve_goes_on_when_an_engine_answers_html(tmp_path):
    """It says so once, shows it in its metrics, and still takes records in."""
    config, port = tmp_path / "farthing.yaml", free_port()
    with served(_web_page()) as url:
        settings = {
            "ledger": f"sqlite:///{tmp_path}/ledger.db",
            "engines": [{"name": "proxied", "url": url, "gpu": "L4"}],
            "costing": {"scrape_seconds": 0.2},
        }
        config.write_text(yaml.safe_dump(settings))
        serve = Serve(config, port, tmp_path / "serve.log")
        try:
            serve.start()
            serve.wait_ready()
            failures = f'{c.METRIC_SCRAPE_FAILURES}{{engine="proxied"}}'
            wait_until(lambda: _sample(serve, failures) >= 3, 15, "three failed scrapes")
            assert _sample(serve, f'{c.METRIC_SCRAPE_UP}{{engine="proxied"}}') == 0
            records = [item.record for item in wire_records(load_recording(TEXT), boot="b", engine="llama")]
            asyncio.run(_deliver(serve.url, records[:300]))
            wait_until(lambda: "llama" in serve.get("/api/v1/snapshot").text, 15, "the delivered engine")
            assert serve.get("/healthz").status_code == 200
            assert serve.stop() == 0
        finally:
            serve.close()
    log = serve.log.read_text()
    assert log.count("answered an HTML or XML page") == 1
    assert "Traceback" not in log


async def _deliver(url, records):
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        assert await Sender(url, None, client).send(records) == len(records)


def _sample(serve, series):
    for line in serve.get("/metrics").text.splitlines():
        if line.startswith(series):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


@pytest.mark.parametrize("file", ["steps", "requests", "metrics", "nvml"])
def test_a_truncated_recording_is_named_by_its_file(recording, tmp_path, file):
    """Offline, as the command line meets it."""
    path = recording / f"{file}.jsonl.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = one_line(farthing("replay", str(recording), "--offline", cwd=tmp_path), errors.RecordingError.exit_code)
    assert line.startswith(f"{path}: truncated or not gzip after line ")


def test_a_malformed_line_of_a_recording_is_named_by_its_number(recording, tmp_path, booked):
    """Also when it was to be written into a ledger: nothing is."""
    path = recording / "requests.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    lines[99] = lines[99][:-20]
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    ran = farthing(
        "replay", str(recording), "--offline", "--ledger", f"sqlite:///{booked}/ledger.db", cwd=tmp_path
    )  # fmt: skip
    assert one_line(ran, errors.RecordingError.exit_code).startswith(f"{path}:100: not a JSON line")


def test_a_missing_file_of_a_recording_is_named(recording, tmp_path):
    """Live and offline read the same files."""
    (recording / "nvml.jsonl.gz").unlink()
    for option in (["--offline"], ["--port", str(free_port())]):
        line = one_line(farthing("replay", str(recording), *option, cwd=tmp_path), errors.RecordingError.exit_code)
        assert line.startswith(f"{recording}/nvml.jsonl.gz: missing")


def test_a_recording_that_is_not_there_is_named_with_those_that_are(tmp_path):
    """A typing error is the usual reason."""
    line = one_line(farthing("replay", "h100-lama", "--offline", cwd=tmp_path), errors.RecordingError.exit_code)
    assert line == (
        "h100-lama: no such folder, and no packaged recording of that name "
        "(packaged: h100-llama8b-devices-vllm0.26, h100-llama8b-vllm0.26, h100-qwen2vl7b-vllm0.26)"
    )


def test_a_busy_port_is_named_with_the_setting_that_moves_it(tmp_path, booked, taken):
    """Two stacks on one host must be able to tell why the second does not start."""
    config = settings_in(tmp_path, booked)
    line = one_line(farthing("serve", "--config", config, "--port", str(taken), cwd=tmp_path), 7)
    assert line == (
        f"127.0.0.1:{taken} cannot be listened on (Address already in use); stop what uses it or set serve.port"
    )
    line = one_line(farthing("replay", TEXT, "--config", config, "--port", str(taken), cwd=tmp_path), 7)
    assert line.endswith("(Address already in use); stop what uses it or set stack.replay_port (or --port)")


def test_a_port_that_cannot_be_is_one_line_too(tmp_path, booked):
    """Not a traceback of the socket module."""
    ran = farthing("serve", "--config", settings_in(tmp_path, booked), "--port", "99999", cwd=tmp_path)
    assert "a port is 0 to 65535" in one_line(ran, errors.PortBusyError.exit_code)


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////proc/no/ledger.db", "oracle://host/db", "sqlite:////etc/hostname"]
)
def test_a_ledger_that_cannot_be_opened_is_one_line(tmp_path, url):
    """Whichever command meets it."""
    (tmp_path / "farthing.yaml").write_text(yaml.safe_dump({"ledger": url}))
    for command in (["report"], ["serve", "--port", str(free_port())]):
        line = one_line(farthing(*command, cwd=tmp_path), errors.LedgerError.exit_code)
        assert line.startswith("ledger ")
    line = one_line(farthing("replay", TEXT, "--offline", "--ledger", url, cwd=tmp_path), errors.LedgerError.exit_code)
    assert line.startswith("ledger ")


def test_a_ledger_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path, booked):
    """An older program must not write into what it does not understand."""
    newer = tmp_path / "newer.db"
    shutil.copy(booked / "ledger.db", newer)
    with sqlite3.connect(newer) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        before = list(connection.iterdump())
    connection.close()
    config = tmp_path / "farthing.yaml"
    config.write_text(yaml.safe_dump({"ledger": f"sqlite:///{newer}"}))
    commands = (
        ["report"],
        ["serve", "--port", str(free_port())],
        ["replay", TEXT, "--offline", "--ledger", f"sqlite:///{newer}"],
    )
    for command in commands:
        line = one_line(farthing(*command, cwd=tmp_path), errors.LedgerError.exit_code)
        assert "cannot be migrated" in line
    with sqlite3.connect(newer) as connection:
        assert list(connection.iterdump()) == before
    connection.close()


@pytest.mark.parametrize("since", ["nonsense", "24", "h24", "2026-13-01", "-3d", ""])
def test_a_moment_that_is_none_is_named(booked, since):
    """With what may be given instead."""
    line = one_line(farthing("report", "--since", since, cwd=booked), errors.ConfigError.exit_code)
    assert line == f"--since {since!r}: give a duration (24h, 7d), today, month, all, or a date such as 2026-11-01"


@pytest.mark.parametrize("since", ["99999999w", "999999999999999999999d", "0001-01-01", "1969-07-20"])
def test_a_moment_before_all_ledgers_is_the_beginning(booked, since):
    """However far back: a report of everything is a report."""
    whole = farthing("report", "--since", "all", "--output", "json", cwd=booked)
    assert farthing("report", "--since", since, "--output", "json", cwd=booked) == whole
    assert whole.code == 0


def test_a_gpu_without_a_price_is_named_and_not_free(recording, tmp_path, booked):
    """Offline there is nobody to wait for a price: it is an error."""
    path = recording / "nvml.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    lines[0] = b'{"name": "NVIDIA GeForce RTX 4090"}'
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    ran = farthing(
        "replay", str(recording), "--offline", "--ledger", f"sqlite:///{booked}/ledger.db", cwd=tmp_path
    )  # fmt: skip
    line = one_line(ran, errors.PriceError.exit_code)
    assert line.startswith("no price for GPU 'NVIDIA GeForce RTX 4090'; add it under prices:")
    assert ran.out == ""


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_intake_token_that_is_missing_or_empty_is_one_line(tmp_path, booked, text):
    """An empty token would let everybody in."""
    token = tmp_path / "token"
    if text is not None:
        token.write_text(text)
    config = settings_in(tmp_path, booked, serve={"token_file": str(token)})
    ran = farthing("serve", "--config", config, "--port", str(free_port()), cwd=tmp_path)
    assert "token" in one_line(ran, errors.ConfigError.exit_code)


def test_an_intake_url_that_is_none_is_one_line(tmp_path, booked):
    """Live replays are told where to send to."""
    port = str(free_port())
    ran = farthing(
        "replay", TEXT, "--config", settings_in(tmp_path, booked), "--to", "ftp://x", "--port", port, cwd=tmp_path
    )
    assert "is not an intake's URL" in one_line(ran, errors.ConfigError.exit_code)


def test_the_installed_command_behaves_alike(tmp_path):
    """What the other tests run in a fork is what a shell runs."""
    (tmp_path / "farthing.yaml").write_text("nonsense: true\n")
    ran = subprocess.run([FARTHING, "prices"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (errors.ConfigError.exit_code, "")
    assert ran.stderr == farthing("prices", cwd=tmp_path).err
