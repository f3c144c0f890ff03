"""`farthing serve` as it runs: who reaches it over TLS, off loopback, and with this host's own commands."""

import json
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.alerts.real_parts import free_port
from tests.cli.commands import farthing, one_line
from tests.service.doors import NOW
from tests.service.running import FARTHING, Serve, certificate, wait_until

from farthing.domain import errors
from farthing.domain.access import Scope
from farthing.domain.conventions import METRIC_INTAKE
from farthing.domain.errors import ConfigError
from farthing.service.access_tokens import add_token
from farthing.service.asking import READ_TOKEN, asking_headers, system_tls, trusted_tls
from farthing.settings import Settings


@dataclass
class Secured:
    """A service over TLS with tokens."""

    folder: Path
    url: str
    certificate: Path
    token: str


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """Started once; its log tells no token."""
    folder = tmp_path_factory.mktemp("secured")
    pem, key = certificate(folder, "farthing")
    port = free_port()
    (folder / "intake").write_text("crown\n")
    serve = {"tls_certificate": str(pem), "tls_key": str(key), "port": port, "token_file": str(folder / "intake")}
    (folder / "farthing.yaml").write_text(
        json.dumps({"serve": serve, "stack": {"state_dir": str(folder / "s")}, "gpus": {"nvml": "off"}})
    )
    token = add_token(folder / "s/secrets/tokens.yaml", "local", [Scope.READ_ALL], (), NOW)
    (folder / "s/secrets" / READ_TOKEN).write_text(token + "\n")
    running = Serve(folder / "farthing.yaml", port, folder / "serve.log")
    running.url = f"https://127.0.0.1:{port}"
    running.tls = trusted_tls(pem)
    running.start()
    try:
        running.wait_ready()
        yield Secured(folder, running.url, pem, token)
        assert running.stop() == 0
        assert token not in running.log.read_text()
    finally:
        running.close()


@pytest.mark.real
def test_over_tls_the_page_is_logged_into_and_answers_are_guarded(secured):
    """The cookie is for TLS alone."""
    with httpx.Client(base_url=secured.url, verify=trusted_tls(secured.certificate), trust_env=False) as client:
        assert client.get("/metrics").status_code == 401
        answer = client.post("/login", json={"token": secured.token})
        assert "; Secure" in answer.headers["set-cookie"]
        assert client.get("/metrics").status_code == 200


@pytest.mark.real
def test_only_the_services_own_certificate_is_trusted(secured, tmp_path):
    """Not whoever else listens there; plain HTTP gets no answer."""
    other, _ = certificate(tmp_path, "other")
    for tls in (trusted_tls(other), True):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{secured.url}/healthz", verify=tls, trust_env=False)
    with pytest.raises(httpx.HTTPError):
        httpx.get(secured.url.replace("https", "http") + "/healthz", trust_env=False)


@pytest.mark.real
def test_this_hosts_commands_know_the_token_and_the_certificate(secured):
    """`farthing status` and `farthing gpus` read from the service without being told either."""
    status = json.loads(farthing("status", "--output", "json", cwd=secured.folder).out)
    assert status["source"] == f"{secured.url}/api/v1/snapshot"
    gpus = json.loads(farthing("gpus", "--once", "--output", "json", cwd=secured.folder).out)
    assert gpus["from"] == f"{secured.url}/api/v1/gpus"


@pytest.mark.real
def test_a_replay_on_this_host_delivers_over_tls_as_the_native_stack_starts_it(secured):
    """With the service's address given, and the plain intake token."""
    words = ["replay", "h100-llama8b-vllm0.26", "--lead", "85", "--port", str(free_port()), "--to", secured.url]
    config = secured.folder / "farthing.yaml"
    replay = subprocess.Popen([FARTHING, *words, "--config", config], stderr=subprocess.PIPE, cwd=secured.folder)
    try:
        wait_until(lambda: accepted(secured) > 0, 30, "an accepted record")
    finally:
        replay.terminate()
        _, said = replay.communicate(timeout=30)
    assert b"CERTIFICATE" not in said


def accepted(secured):
    """Records that intake took, as its metrics tell once they are costed."""
    tls = trusted_tls(secured.certificate)
    headers = {"authorization": f"Bearer {secured.token}"}
    text = httpx.get(f"{secured.url}/metrics", headers=headers, verify=tls, trust_env=False).text
    found = [line for line in text.splitlines() if line.startswith(METRIC_INTAKE) and 'result="accepted"' in line]
    return sum(float(line.split()[-1]) for line in found)


@pytest.mark.real
def test_a_command_without_the_token_says_which_it_needs(secured):
    """Rather than that nobody answers."""
    file = secured.folder / "s/secrets" / READ_TOKEN
    file.rename(file.with_suffix(".away"))
    try:
        assert "wants a token with the scope read-all (FARTHING_TOKEN)" in farthing("status", cwd=secured.folder).out
        shown = farthing("gpus", "--once", cwd=secured.folder).out
        assert "wants a token with the scope read-all: set FARTHING_TOKEN" in " ".join(shown.split())
    finally:
        file.with_suffix(".away").rename(file)


def test_off_loopback_without_tokens_the_service_refuses_to_start(tmp_path):
    """The line says what to do."""
    ran = farthing("serve", "--host", "0.0.0.0", "--port", str(free_port()), cwd=tmp_path)  # noqa: S104 - refused
    assert "farthing tokens add NAME --scope admin" in one_line(ran, errors.ConfigError.exit_code)


def test_a_certificate_without_its_key_or_that_is_none_is_one_line(tmp_path):
    """Both are checked before anything is served."""
    (tmp_path / "c.pem").write_text("not a certificate\n")
    for serve, said in (
        ({"tls_certificate": "c.pem"}, "tls_certificate is set and tls_key is not"),
        ({"tls_certificate": "c.pem", "tls_key": "c.pem"}, "c.pem"),
        ({"tls_certificate": "away.pem", "tls_key": "c.pem"}, "away.pem"),
    ):
        (tmp_path / "farthing.yaml").write_text(json.dumps({"serve": serve}))
        ran = farthing("serve", "--port", str(free_port()), cwd=tmp_path)
        assert said in one_line(ran, errors.ConfigError.exit_code)
    with pytest.raises(ConfigError, match="no certificate in PEM"):
        trusted_tls(tmp_path / "c.pem")


def test_commands_show_the_hosts_token_to_the_service_of_their_settings_alone(tmp_path):
    """Another host's service would learn it."""
    settings = Settings.model_validate({"stack": {"state_dir": str(tmp_path)}})
    (tmp_path / "secrets").mkdir()
    assert asking_headers(settings, environ={}) == {}
    (tmp_path / "secrets" / READ_TOKEN).write_text("farthing_own\n")
    assert asking_headers(settings, environ={}) == {"Authorization": "Bearer farthing_own"}
    assert asking_headers(settings, own=False, environ={}) == {}
    given = {"FARTHING_TOKEN": "farthing_given"}
    for own in (True, False):
        assert asking_headers(settings, own=own, environ=given) == {"Authorization": "Bearer farthing_given"}
    assert isinstance(trusted_tls(None), bool)
    assert ssl.create_default_context().check_hostname


@pytest.mark.real
def test_elsewhere_a_companys_own_authority_is_trusted_by_its_file(tmp_path, monkeypatch):
    """And certifi's list, where a container has none."""
    pem, _ = certificate(tmp_path, "company")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    trusted = [str(found["subject"]) for found in system_tls().get_ca_certs()]
    assert any("company.example" in subject for subject in trusted)
    assert len(trusted) > 50
