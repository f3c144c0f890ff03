"""What every container of the Compose stack may do, whom it reaches, and what it is told."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.stack.test_compose import SERVICES, TEXT, resolved

from farthing.settings import Settings
from farthing.stack.compose_config import compose_files

NETWORKS: dict[str, Any] = yaml.safe_load(TEXT)["networks"]
COPYING = {"backup": ["CHOWN", "DAC_OVERRIDE"], "restore": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]}
"""One-shots that read or write the volumes of several users, with what they may do besides; nothing else is root."""
LASTING = sorted(set(SERVICES) - {"secrets", "reveal", *COPYING})
"""Services that are not over when they have done their work."""
EVERY = pytest.mark.parametrize("name", sorted(SERVICES))
# scraping, delivery of records, and reading exporters: these sit beside each other
ENGINES = ("dcgm-exporter", "demo-engine", "demo-traffic", "farthing", "prometheus", "replay")
MEETINGS = {
    *combinations(ENGINES, 2),
    # alerts, and what Grafana shows
    ("alertmanager", "prometheus"),
    ("alertmanager", "grafana"),
    ("grafana", "prometheus"),
    ("grafana", "jaeger"),
    # spans, and what is counted of them
    ("farthing", "jaeger"),
    ("jaeger", "prometheus"),
}
SECRET_WORDS = re.compile(r"password|secret|token|_key", re.IGNORECASE)


@EVERY
def test_no_container_runs_as_root_writes_its_root_or_gains_privileges(name):
    """Images say otherwise: Grafana's and Prometheus' do not, but a newer one may."""
    service = SERVICES[name]
    user, group = service["user"].split(":")
    assert (int(user) > 0) is (name not in COPYING)
    assert group.isdigit()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == COPYING.get(name, [])
    assert not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(re.fullmatch(r"/tmp:size=\d+m,mode=1777", entry) for entry in service["tmpfs"])


@EVERY
def test_every_container_has_limits_and_a_log_that_ends(name):
    """One of them that leaks memory, spins or chatters does not take the machine with it."""
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    # more than a machine has would be refused; a model on less than two is no fun
    assert 0 < service["cpus"] <= (2 if name == "demo-engine" else 1)
    assert 0 < service["pids_limit"] <= 512
    log = service["logging"]
    assert log["driver"] == "none" or set(log["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_service_comes_back_and_is_checked_for_health(name):
    """A service that is unwell shows; one that dies starts again."""
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"


def test_what_is_published_is_on_loopback_only():
    """And a demo, an exporter or a one-shot publishes nothing."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"prometheus", "alertmanager", "grafana", "jaeger", "farthing"}
    for port in [port for ports in published.values() for port in ports]:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", resolved(port)), port


def test_two_containers_meet_only_where_one_asks_the_other():
    """No two meet in the networks that publish ports, and those are the only ways out."""
    networks = {name: set(service.get("networks", ())) for name, service in SERVICES.items()}
    met = {pair for pair in combinations(sorted(SERVICES), 2) if networks[pair[0]] & networks[pair[1]]}
    assert met == MEETINGS
    ways_out = {name for name, network in NETWORKS.items() if not (network or {}).get("internal")}
    publishing = {name for name, service in SERVICES.items() if "ports" in service}
    assert ways_out == {f"{name}-edge" for name in publishing}
    for name in SERVICES:
        assert networks[name] & ways_out == ({f"{name}-edge"} if name in publishing else set())
    for name in ("grafana-edge", "jaeger-edge"):
        assert NETWORKS[name]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert {name for name, service in SERVICES.items() if "network_mode" in service} == {"secrets", "reveal", *COPYING}
    for name in COPYING:
        assert resolved(SERVICES[name]["network_mode"]) == "none"
        assert SERVICES[name]["profiles"] == ["tools"]
        assert SERVICES[name]["restart"] == "no"


def test_each_container_mounts_its_own_secrets_and_no_other():
    """But for the two that make and show them, and those that copy."""
    mounted = {
        name: {volume.split(":")[0] for volume in service.get("volumes", ()) if "-secrets:" in volume}
        for name, service in SERVICES.items()
    }
    everything = {
        f"{name}-secrets" for name in ("farthing", "replay", "prometheus", "alertmanager", "grafana", "jaeger")
    }
    for name in ("secrets", "reveal", *COPYING):
        assert mounted.pop(name) == everything
    for name in ("dcgm-exporter", "demo-traffic"):
        assert mounted.pop(name) == set()
    # the engine of the demonstration delivers as the replay does
    assert mounted.pop("demo-engine") == {"replay-secrets"}
    assert mounted == {name: {f"{name}-secrets"} for name in mounted}
    writable = [
        (name, volume)
        for name in mounted
        for volume in SERVICES[name]["volumes"]
        if "-secrets:" in volume and not volume.endswith(":ro")
    ]
    # its owner adds and removes tokens there
    assert writable == [("farthing", "farthing-secrets:/run/farthing/secrets/farthing")]


def test_every_service_waits_for_its_secrets():
    """Prometheus would not start without its own, and Grafana would with a password known to everybody."""
    delivering = {"replay", "demo-engine"}
    for name in sorted({name for name in LASTING if "-secrets" in str(SERVICES[name].get("volumes"))} - delivering):
        assert SERVICES[name]["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}
    # these wait for Farthing, that has waited
    for name in delivering:
        assert SERVICES[name]["depends_on"] == {"farthing": {"condition": "service_healthy"}}


@EVERY
def test_the_environment_holds_the_names_of_secret_files_and_no_secret(name):
    """`docker inspect` shows it to whoever asks."""
    for key, value in SERVICES[name].get("environment", {}).items():
        if SECRET_WORDS.search(key):
            assert re.fullmatch(r"\$\$__file\{/run/farthing/secrets/[a-z-]+\}|/run/farthing/secrets/[a-z-]+", value), (
                key
            )


def test_grafana_demands_a_login_and_has_no_default_of_its_own():
    """Its password, and the key of its database, are made by chance."""
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert {"GF_SECURITY_ADMIN_PASSWORD", "GF_SECURITY_SECRET_KEY"} <= set(environment)


def test_committed_configuration_names_files_of_secrets_and_holds_none():
    """Every key that could hold one names a file in the folder of its reader."""
    for path, text in compose_files(Settings()).items():
        for line in text.splitlines():
            key, _, value = line.strip().partition(": ")
            if SECRET_WORDS.search(key) and value:
                assert "/run/farthing/secrets/" in value, f"{path}: {line}"


def test_images_are_pinned_to_a_release_of_todays_majors():
    """None is `latest`, which differs from day to day."""
    images = {resolved(service["image"]) for service in SERVICES.values()}
    versions = {image.rpartition(":")[0].rpartition("/")[2]: image.rpartition(":")[2] for image in images}
    for built in ("farthing", "farthing-vllm-demo"):
        assert versions.pop(built) == "local"
    releases = {name: re.match(r"v?(\d+)\.\d+\.\d+", version) for name, version in versions.items()}
    assert all(releases.values()), versions
    assert {name: int(found[1]) for name, found in releases.items() if found} == {
        "prometheus": 3,
        "alertmanager": 0,
        "grafana": 13,
        "jaeger": 2,
        "dcgm-exporter": 4,
    }


def test_checks_of_health_log_in_with_a_file():
    """promtool and amtool read user and password as Prometheus' own clients do; neither is on the command line."""
    files = compose_files(Settings())
    for name in ("prometheus", "alertmanager"):
        option = f"--http.config.file=/etc/{name}/client.yml"
        assert option in SERVICES[name]["healthcheck"]["test"]
        client = yaml.safe_load(files[Path("deploy/compose/generated") / name / "client.yml"])
        assert client == {"basic_auth": {"username": "farthing", "password_file": "/run/farthing/secrets/password"}}
