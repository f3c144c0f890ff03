"""The committed Compose stack on a real Docker engine: farthing, Prometheus and Alertmanager from compose.yaml.

Images are swapped by name alone: farthing's own is built by its Dockerfile on a base made by debootstrap, Prometheus
and Alertmanager are Debian's, and Grafana and Jaeger are stood in for by servers that do nothing but run where they
would: as their users, with their mounts, in their networks.
"""

import os
import re
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
import yaml
from tests.alerts.real_parts import wait_for
from tests.integration.docker.compose_stack import (
    PATIENCE_SECONDS,
    STOOD_IN,
    TENANT,
    ComposeStack,
    compose_stack,
    login_token,
)
from tests.integration.docker.restoring import destroy_and_restore

from farthing.domain.conventions import JOB_SPANS

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(1200)]

ALERT_SECONDS = 180.0
"""Spend is looked at once a minute, and so is the rule."""
RUNNING = {"farthing", "replay", *STOOD_IN}
PROTECTED = {
    "farthing": (9464, "/metrics"),
    "prometheus": (9090, "/api/v1/query?query=up"),
    "alertmanager": (9093, "/"),
}
REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1).close()
    print("reached")
except OSError as error:
    print("not", error)
"""
ASK = """
import base64, sys, urllib.request
url, file = sys.argv[1:]
pair = base64.b64encode(b"farthing:" + open(file, "rb").read().strip()).decode()
print(urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": "Basic " + pair}), timeout=5).status)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The stack, up since `farthing up` returned."""
    with compose_stack(tmp_path_factory.mktemp("compose")) as running:
        yield running


def test_data_flows_from_the_replay_to_rules_in_prometheus(stack: ComposeStack):
    """Within a minute of the start, with no engine configured; every target is up and every rule evaluates."""
    wait_for(lambda: (stack.value("sum(farthing_cost_usd_total)") or 0) > 0, 60, "cost in Prometheus")
    wait_for(lambda: (stack.value("sum(llm:generation_tokens:rate1m)") or 0) > 0, 60, "a recorded rate")
    # Jaeger, of which there is no image here, would have the spans
    targets = [one for one in stack.api("/api/v1/targets")["activeTargets"] if one["labels"]["job"] != JOB_SPANS]
    assert {(one["labels"]["job"], one["labels"]["instance"], one["health"]) for one in targets} == {
        ("farthing", "farthing", "up"),
        ("llm-engines", "replay", "up"),
    }
    groups = stack.api("/api/v1/rules")["groups"]
    assert len(groups) > 10
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"] == []


def test_every_container_runs_without_root_or_privileges_on_a_root_that_it_cannot_write(stack: ComposeStack):
    """As its processes are, and not as its image promises."""
    containers = stack.containers()
    assert {name for name, one in containers.items() if one["State"]["Running"]} == RUNNING
    assert containers["secrets"]["State"]["ExitCode"] == 0
    for name in sorted(RUNNING):
        one = containers[name]
        host = one["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name
        assert min(host["Memory"], host["NanoCpus"], host["PidsLimit"]) > 0, name
        assert set(host["LogConfig"]["Config"]) == {"max-file", "max-size"}, name
        status = Path(f"/proc/{one['State']['Pid']}/status").read_text()
        assert all(int(uid) > 0 for uid in re.findall(r"^Uid:(.*)$", status, re.MULTILINE)[0].split()), name
        assert re.findall(r"^Cap(?:Eff|Prm|Bnd|Amb):\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 4, name
        assert "\nNoNewPrivs:\t1\n" in status, name
        container = stack.name(name)
        assert stack.engine.docker("exec", container, "touch", "/tmp/it").returncode == 0
        refused = stack.engine.docker("exec", container, "touch", "/etc/it", check=False)
        assert "Read-only file system" in refused.stderr, name


def test_farthings_image_adds_to_its_base_what_leaves_it_below_300_megabytes(stack: ComposeStack):
    """python:3.11-slim-bookworm, its default base, takes 130 MB unpacked."""
    layers = stack.engine.docker("history", "--human=false", "--format={{.Size}} {{.CreatedBy}}", "farthing:local")
    sizes = [line.partition(" ") for line in layers.stdout.splitlines()]
    added = [int(size) for size, _, made_by in sizes if "/bin/sh" in made_by]
    assert 50_000_000 < sum(added) < 170_000_000


def test_nothing_is_published_beyond_loopback_and_nothing_answers_without_a_login(stack: ComposeStack):
    """Every port that a container publishes is asked with no login, a wrong one and the right one."""
    published = {
        name: [(bound["HostIp"], int(bound["HostPort"])) for ports in found.values() for bound in ports or ()]
        for name, one in stack.containers().items()
        if (found := one["NetworkSettings"]["Ports"])
    }
    assert {address for ports in published.values() for address, _ in ports} == {"127.0.0.1"}
    assert {name for name, ports in published.items() if ports} == {"farthing", *STOOD_IN}
    assert stack.engine.gateway  # an address of this machine that is not loopback
    for name, (port, path) in PROTECTED.items():
        assert [number for _, number in published[name]] == [port + stack.offset]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((stack.engine.gateway, port + stack.offset), timeout=3)
        for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic ZmFydGhpbmc6eA=="}):
            assert httpx.get(stack.url(port, path), headers=wrong, trust_env=False).status_code == 401, name
    assert "farthing_cost_usd_total" in stack.metrics()
    login = ("farthing", stack.secret("alertmanager/password"))
    assert httpx.get(stack.url(9093, "/api/v2/alerts"), auth=login, trust_env=False).status_code == 200
    refused = httpx.post(stack.url(9464, "/v1/usage"), content=b"{}", trust_env=False)
    assert refused.status_code == 401


def test_the_login_is_shown_once_and_opens_the_page(stack: ComposeStack):
    """`farthing up` printed it; asking again shows it no more, and the plain token is gone from its volume."""
    token = login_token(stack.printed)
    answer = httpx.post(stack.url(9464, "/login"), json={"token": token}, trust_env=False)
    assert answer.is_success
    assert answer.cookies
    with httpx.Client(cookies=answer.cookies, trust_env=False) as browser:
        assert browser.get(stack.url(9464, "/api/v1/snapshot")).status_code == 200
    assert token not in stack.compose("run", "--rm", "-T", "reveal")
    assert token not in stack.secrets().values()
    stack.secrets()["shown once"] = token


def test_containers_reach_whom_they_ask_and_nobody_else(stack: ComposeStack):
    """Grafana reaches its sources with the passwords of its volume; the replay reaches nothing outside."""
    for source, path in (("prometheus:9090", "/api/v1/query?query=up"), ("alertmanager:9093", "/api/v2/status")):
        file = f"/run/farthing/secrets/{source.partition(':')[0]}-password"
        assert stack.exec("grafana", "python3", "-c", ASK, f"http://{source}{path}", file) == "200\n"
    assert stack.exec("grafana", "python3", "-c", REACH, "jaeger", "13133") == "reached\n"
    # its page of what it counted of spans
    file = "/run/farthing/secrets/prometheus-password"
    assert stack.exec("jaeger", "python3", "-c", ASK, "http://prometheus:9090/api/v1/query?query=up", file) == "200\n"
    for asking, asked, port in (
        ("alertmanager", "farthing", 9464),
        ("grafana", "farthing", 9464),
        ("jaeger", "alertmanager", 9093),
        ("replay", "alertmanager", 9093),
    ):
        address = stack.address(asked)
        # this machine reaches it there: it is the network that keeps the other away
        socket.create_connection((address, port), timeout=3).close()
        assert stack.exec(asking, "python3", "-c", REACH, address, str(port)) == "not timed out\n", (asking, asked)
    answer = stack.exec("alertmanager", "python3", "-c", REACH, "farthing", "9464")
    assert re.match(r"not .*(Name or service|Temporary failure)", answer), answer


def test_grafana_and_jaeger_can_read_what_is_mounted_and_write_their_volumes(stack: ComposeStack):
    """As the users that their services name; what they do with it is checked by their schemas alone."""
    for name in ("admin-password", "secret-key", "prometheus-password", "alertmanager-password", "jaeger-password"):
        assert stack.exec("grafana", "cat", f"/run/farthing/secrets/{name}").strip()
    assert "basicAuthPassword" in stack.exec("grafana", "cat", "/etc/grafana/provisioning/datasources/farthing.yml")
    assert stack.exec("grafana", "cat", "/etc/farthing/dashboards/farthing-fleet.json").startswith("{")
    stack.exec("grafana", "touch", "/var/lib/grafana/it")
    config = yaml.safe_load(stack.exec("jaeger", "cat", "/etc/jaeger/jaeger.yaml"))
    htpasswd = config["extensions"]["basicauth"]["htpasswd"]["file"]
    assert stack.exec("jaeger", "cat", htpasswd).startswith("farthing:$2a$")
    stack.exec(
        "jaeger", "mkdir", config["extensions"]["jaeger_storage"]["backends"]["traces"]["badger"]["directories"]["keys"]
    )
    for name in ("grafana", "jaeger", "prometheus", "alertmanager"):
        assert "first-token" not in stack.exec(name, "ls", "/run/farthing/secrets")


def test_an_alert_is_delivered_outside(stack: ComposeStack):
    """Through Prometheus' login at Alertmanager to a webhook on this machine."""
    wanted = {"alertname": "FarthingBudgetSpent", "tenant": TENANT}

    def told() -> bool:
        alerts = [one["labels"] for post in list(stack.posts) for one in post["alerts"] if one["status"] == "firing"]
        return any(wanted.items() <= labels.items() for labels in alerts)

    wait_for(told, ALERT_SECONDS, "the message that a budget is spent")


def test_a_container_that_is_killed_comes_back_with_all_it_knew(stack: ComposeStack):
    """The process dies by SIGKILL from outside; the restart policy starts it again, on the same volume."""
    rows, nano, last = stack.settled()
    assert rows > 0
    past = time.time()
    before = stack.api("/api/v1/query", query="sum(farthing_cost_usd_total)", time=str(past))["result"]
    for name in ("farthing", "prometheus"):
        (one,) = stack.engine.inspect(stack.name(name))
        os.kill(one["State"]["Pid"], signal.SIGKILL)
    for name in ("farthing", "prometheus"):
        stack.await_health(name, restarts=1)
    assert stack.settled(last) == (rows, nano, last)
    after = stack.api("/api/v1/query", query="sum(farthing_cost_usd_total)", time=str(past))["result"]
    assert [one["value"] for one in after] == [one["value"] for one in before]
    wait_for(lambda: stack.settled()[0] > rows, PATIENCE_SECONDS, "the replay's work after the restart")
    wait_for(lambda: stack.value('min(up{job=~"farthing|llm-engines"})') == 1, PATIENCE_SECONDS, "scraping again")


def test_volumes_keep_the_ledger_and_the_logins_when_every_container_is_removed(stack: ComposeStack):
    """`farthing down` and `farthing up`: settled lines of the journal are equal to the nano-dollar."""
    rows, nano, last = stack.settled()
    secrets = dict(stack.secrets())
    past = str(time.time())
    before = stack.api("/api/v1/query", query="farthing_cost_usd_total", time=past)["result"]
    assert before
    stack.down()
    assert stack.engine.docker("ps", "--all", "--quiet").stdout == ""
    printed = stack.up()
    assert "#token=" not in printed
    assert stack.settled(last) == (rows, nano, last)
    assert stack.secrets() == secrets
    assert stack.api("/api/v1/query", query="farthing_cost_usd_total", time=past)["result"] == before


def test_no_secret_is_in_compose_output_containers_images_or_logs(stack: ComposeStack):
    """Not in what Compose resolves, nor in an environment, a command line, a layer or any log."""
    secrets = {value for value in stack.secrets().values() if value}
    assert len(secrets) >= 8
    containers = stack.engine.docker("ps", "--all", "--quiet").stdout.split()
    images = stack.engine.docker("images", "--quiet").stdout.split()
    logs = [stack.engine.docker("logs", one) for one in containers]
    mounted = stack.folder / "state/compose"
    texts = {
        "config": stack.compose("config"),
        "inspect": stack.engine.docker("inspect", *containers, *images).stdout,
        "history": "".join(stack.engine.docker("history", "--no-trunc", one).stdout for one in images),
        "logs": "".join(log.stdout + log.stderr for log in logs),
        "generated": "".join(path.read_text() for path in mounted.rglob("*") if path.is_file()),
    }
    for where, text in texts.items():
        assert len(text) > 100, where
        assert [secret for secret in secrets if secret in text] == [], where


def test_a_backup_brings_everything_back_when_every_volume_is_destroyed(stack: ComposeStack):
    """One command each way; money is equal to the nano-dollar, and every sample, silence, dashboard and token is."""
    destroy_and_restore(
        stack,
        backup=lambda file: stack.farthing("backup", str(file)),
        restore=lambda file: stack.farthing("restore", str(file)),
    )
