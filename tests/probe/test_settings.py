"""The environment of the engine's process: what it holds, what a slip in it says, and what is never shown."""

import hashlib
from pathlib import Path

import pytest

from farthing_probe import probe
from farthing_probe.settings import DEFAULT_URL, HEADERS, SettingError, Settings

P = "FARTHING_PROBE_"


def read(**variables):
    """Settings of an environment; names without the prefix."""
    return Settings.from_environment({P + name: value for name, value in variables.items()})


def test_nothing_set_is_a_probe_that_works(monkeypatch):
    """The intake on this host, a spool below the user's state, the engine named by its host and port."""
    monkeypatch.setattr("sys.argv", ["vllm", "serve", "m", "--port=8123"])
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-7")
    settings = Settings.from_environment({"XDG_STATE_HOME": "/state"})
    assert settings == Settings(
        url=DEFAULT_URL, engine="gpu-7:8123", spool=Path("/state/farthing-probe"),
        off_file=Path("/state/farthing-probe/off"),
    )  # fmt: skip
    assert settings.headers == HEADERS


@pytest.mark.parametrize(
    ("argv", "port"),
    [
        (["serve", "m"], "8000"),
        (["serve", "--port", "9000"], "9000"),
        (["serve", "--port=9001", "--port-range", "1"], "9001"),
        (["serve", "--port"], "8000"),
        (["serve", "--port", "x"], "8000"),
    ],
)
def test_the_engine_is_named_by_its_own_port(argv, port, monkeypatch):
    """Two engines of one host are two engines."""
    monkeypatch.setattr("sys.argv", argv)
    assert read().engine.endswith(f":{port}")


def test_every_variable_is_read(tmp_path):
    """One environment that sets them all."""
    for name, text in {"token": "s3cret\n", "salt": "pepper\n"}.items():
        (tmp_path / name).write_text(text)
    digest = hashlib.sha256(b"sk").hexdigest()
    (tmp_path / "keys").write_text(f'{{"{digest.upper()}": "acme"}}')
    settings = read(
        URL="https://farthing.example:9464/base/", TOKEN_FILE=str(tmp_path / "token"), ENGINE="llama", GPU="H100",
        GPU_COUNT="8", SPOOL=str(tmp_path / "spool"), SPOOL_MIB="1", QUEUE_MIB="2", TRUST_HEADERS="no",
        HEADERS="tenant=X-Team, user=x-login,,", KEYS_FILE=str(tmp_path / "keys"), SALT_FILE=str(tmp_path / "salt"),
        OFF_FILE=str(tmp_path / "stop"), ITERATION_LOG="TRUE",
    )  # fmt: skip
    assert settings == Settings(
        url="https://farthing.example:9464/base", token="s3cret", engine="llama", gpu="H100", gpu_count=8,
        spool=tmp_path / "spool", spool_bytes=1 << 20, queue_bytes=2 << 20, trust_headers=False,
        headers={
            **HEADERS, "tenant": ("x-team", *HEADERS["tenant"]), "user": ("x-login", *HEADERS["user"]),
        },
        keys={digest: "acme"}, salt=b"pepper", off_file=tmp_path / "stop", iteration_log=True,
    )  # fmt: skip


def test_an_empty_spool_is_none_and_then_only_a_named_file_is_the_switch():
    """FARTHING_PROBE_SPOOL= keeps the probe off the disk."""
    assert (read(SPOOL="").spool, read(SPOOL="").off_file) == (None, None)
    assert read(SPOOL="", OFF_FILE="/run/off").off_file == Path("/run/off")


BAD = [
    ("URL", "ftp://host"),
    ("URL", "host:9464"),
    ("URL", "http://"),
    ("URL", "http://host:port"),
    ("URL", "http://host:99999"),
    ("URL", "http://[::1"),
    ("URL", "http://user:secret@host"),
    ("URL", "http://host/?token=secret"),
    ("GPU_COUNT", "two"),
    ("GPU_COUNT", "-1"),
    ("GPU_COUNT", "1.5"),
    ("GPU_COUNT", "1025"),
    ("SPOOL_MIB", "1G"),
    ("QUEUE_MIB", "-5"),
    ("TRUST_HEADERS", "maybe"),
    ("ITERATION_LOG", "2"),
    ("HEADERS", "tenant"),
    ("HEADERS", "tenant="),
    ("HEADERS", "colour=x-colour"),
    ("HEADERS", "tenant=x-ümlaut"),
    ("TOKEN_FILE", "/nonexistent/token"),
    ("SALT_FILE", "/nonexistent/salt"),
    ("KEYS_FILE", "/nonexistent/keys"),
    ("SPOOL", "~nobody-of-that-name/spool"),
    ("OFF_FILE", "~nobody-of-that-name/off"),
    ("TOKEN_FILE", "~nobody-of-that-name/token"),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value}" for name, value in BAD])
def test_a_value_that_cannot_be_used_is_one_line_naming_the_variable(name, value):
    """Without the secret that it may hold."""
    with pytest.raises(SettingError) as raised:
        read(**{name: value})
    assert P + name in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


FILES = {
    "not JSON": "nope",
    "a list": "[]",
    "a short digest": '{"ab": "acme"}',
    "no digest": '{"' + "g" * 64 + '": "acme"}',
    "a tenant that is no text": '{"' + "0" * 64 + '": 1}',
    "nested deeply": "[" * 100_000,
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_of_keys_that_cannot_be_used_is_named_and_never_quoted(text, tmp_path):
    """It holds digests of keys, or keys where somebody has misread the documentation."""
    (tmp_path / "keys").write_text(text)
    with pytest.raises(SettingError, match=f"{P}KEYS_FILE") as raised:
        read(KEYS_FILE=str(tmp_path / "keys"))
    assert text not in str(raised.value)


@pytest.mark.parametrize("name", ["TOKEN_FILE", "SALT_FILE"])
def test_an_empty_or_unreadable_secret_is_an_error_and_not_no_secret(name, tmp_path):
    """An empty salt would make pseudonyms of nobody."""
    for content in (b" \n", b"\xff\xfe"):
        (tmp_path / "secret").write_bytes(content)
        with pytest.raises(SettingError, match=P + name):
            read(**{name: str(tmp_path / "secret")})


def test_secrets_are_not_in_what_is_printed():
    """Settings may end in a log."""
    shown = repr(Settings(token="canary-token", salt=b"canary-salt", keys={"canary-key": "acme"}))
    assert "canary" not in shown


def test_without_a_home_the_spool_that_nobody_asked_for_is_left_out(monkeypatch):
    """A container's arbitrary user has no entry in the system's list: the engine must be metered all the same."""
    monkeypatch.delenv("HOME")

    def nobody(_):
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    settings = Settings.from_environment({})
    assert (settings.spool, settings.off_file) == (None, None)


def test_the_engine_serves_on_with_settings_that_cannot_be_used(monkeypatch, caplog):
    """One line in the log, and no probe."""
    monkeypatch.setenv(P + "GPU_COUNT", "two")
    monkeypatch.setattr(probe, "_refused", False)
    monkeypatch.setattr(probe, "_probe", None)
    assert probe.obtain(object()) is None
    assert probe.obtain(object()) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"farthing_probe is off: {P}GPU_COUNT is 'two'; give a whole number, 1024 at most"
    ]
