"""Prometheus and Farthing discover the same engines under the same names: a real Prometheus is asked what it found."""

import asyncio
import json
import random
import socket
import subprocess
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from tests.collectors.discovery.docker_stand_in import docker_at
from tests.stack.scenery import require

from farthing.collectors.discovery.target import Target, engine_of
from farthing.collectors.discovery.watch import look_once
from farthing.domain.conventions import JOB_ENGINES
from farthing.domain.errors import DiscoveryError
from farthing.settings import Settings
from farthing.stack.scrape import PROMETHEUS_CONFIG, prometheus_files

GENERATED = 300
NAMES = (
    "llama-{}",
    "ns:pod.{}",
    "a {}",
    "ünïcode{}",
    "x" * 61 + "{:03}",
    "x" * 62 + "{:03}",
    "",
    "docs/{}",
    "({})",
    "gpu_{}",
)
HOSTS = ("10.1.{1}.{2}", "node-{0}.internal", "[2001:db8::5:{0:x}]", "node-{0}")
PORTS = (":8000", ":443", ":80", "")
FILE = """\
- targets: [gpu-1:8000]
  labels: {instance: first, farthing_gpu: H100-SXM, team: search}
- targets: ["[2001:db8::1]:8000", "gpu-9:8001"]
- targets: [gpu-2:8000]
  labels: {instance: static}
- targets: [gpu-3:8000]
  labels: {__meta_dns_name: vllm.internal}
- targets: ["gpu-4:8000"]
  labels: {instance: "no name"}
"""


def generated():
    """Targets of every shape, from a fixed seed: name or none, host and port or none, labels that say where."""
    chance = random.Random(9)  # noqa: S311 - shapes, not secrets
    groups = []
    for number in range(GENERATED):
        labels = {"instance": chance.choice(NAMES).format(number)}
        labels |= {"__scheme__": chance.choice(["http", "https"])} if chance.random() < 0.3 else {}
        labels |= {"__metrics_path__": "/v1/metrics"} if chance.random() < 0.3 else {}
        labels |= {"__param_tenant": "a"} if chance.random() < 0.2 else {}
        labels |= {"farthing_gpu": "L4", "farthing_gpu_count": "2"} if chance.random() < 0.5 else {}
        address = chance.choice(HOSTS).format(number, number // 250, number % 250) + chance.choice(PORTS)
        groups.append({"targets": [address], "labels": labels})
    return groups


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What Prometheus and Farthing make of the same settings: active targets, and engines."""
    folder = tmp_path_factory.mktemp("discovery")
    (folder / "engines.d").mkdir()
    (folder / "engines.d/hand.yaml").write_text(FILE)
    (folder / "engines.d/many.json").write_text(json.dumps(generated()))
    with docker_at(folder / "docker.sock"):
        settings = Settings.model_validate(
            {
                "engines": [{"name": "static", "url": "http://gpu-0:8000"}],
                "discovery": {
                    "files": [f"{folder}/engines.d/*.yaml", f"{folder}/engines.d/*.json"],
                    "dns": [
                        {"name": "vllm.internal", "port": 8000, "scheme": "https", "metrics_path": "/m"},
                        {"name": "_http._tcp.vllm.internal", "type": "SRV"},
                    ],
                    "docker": [{"host": f"unix://{folder}/docker.sock", "refresh_seconds": 1}],
                    "external_labels": {"cluster": "paris", "replica": "0"},
                },
            }
        )
        files = prometheus_files(
            engines=settings.engines,
            rules={},
            farthing_address="127.0.0.1:1",
            alertmanager_address="127.0.0.1:2",
            interval_seconds=60,
            discovery=settings.discovery,
        )
        for path, text in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text)
        engines, complaints = asyncio.run(look_once(settings.discovery, settings.engines))
        targets = [
            target
            for target in _targets_of(folder / PROMETHEUS_CONFIG, folder, 2 + len(engines))
            if target["labels"]["job"] == JOB_ENGINES
        ]
    return folder, targets, {engine.name: engine for engine in (*settings.engines, *engines)}, complaints


def _targets_of(config, folder, expected):
    """Active targets of a Prometheus that runs with a configuration, once there are so many, or after a minute."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                require("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    targets: list[Any] = []
    try:
        deadline = time.monotonic() + 60
        while len(targets) < expected and time.monotonic() < deadline:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.25)
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/targets", trust_env=False).json()
                targets = answer["data"]["activeTargets"]
            except httpx.HTTPError:
                continue
    finally:
        process.terminate()
        process.wait(10)
    return targets


def _place(url):
    """A URL with its port spelt out: Prometheus before 3.0 adds the usual one."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme], parts.path, parts.query


@pytest.mark.real
def test_both_know_the_same_engines_by_the_same_names_at_the_same_addresses(found):
    """Files by hand, three hundred targets of every shape, a recorded Docker, and an engine of farthing.yaml."""
    _, targets, engines, _ = found
    # a name whose records only its servers know; its rules are seen by a target that says it is of that name
    theirs = {target["labels"]["instance"]: _place(target["scrapeUrl"]) for target in targets}
    ours = {name: _place(engine.metrics_url) for name, engine in engines.items()}
    of_dns = theirs.pop("gpu-3:8000")
    ours.pop("gpu-3:8000")
    assert of_dns == ("https", "gpu-3", 8000, "/m", "")
    assert theirs == ours
    assert len(targets) == len(theirs) + 1
    assert len(theirs) > GENERATED // 2
    assert {"first", "2001:db8::1:8000", "gpu-9:8001", "static", "llama-8b", "two-networks", "vllm-docs"} <= set(theirs)
    assert theirs["static"] == ("http", "gpu-0", 8000, "/metrics", "")


@pytest.mark.real
def test_what_one_of_them_leaves_out_the_other_does_too(found):
    """Names that no engine may have, told by Farthing with the file and line."""
    _, targets, _, complaints = found
    refused = 0
    for group in generated():
        target = Target(group["targets"][0], group["labels"], "many")
        try:
            engine_of(target)
        except DiscoveryError:
            refused += 1
            assert not any(one["discoveredLabels"]["__address__"] == target.address for one in targets)
    assert refused > 20
    assert any("hand.yaml:8: 'no name' is no name of an engine" in complaint for complaint in complaints)


@pytest.mark.real
def test_farthings_own_labels_are_no_labels_of_series(found):
    """A GPU's price must not make new series; everybody else's labels stay."""
    _, targets, _, _ = found
    names = {label for target in targets for label in target["labels"]}
    assert names == {"instance", "job", "team"}


@pytest.mark.real
def test_of_two_replicas_an_alert_is_the_same_alert(found):
    """External labels go everywhere, the replica's not to Alertmanager; promtool takes all of it."""
    folder, _, _, _ = found
    config = yaml.safe_load((folder / PROMETHEUS_CONFIG).read_text())
    assert config["global"]["external_labels"] == {"cluster": "paris", "replica": "0"}
    assert config["alerting"]["alert_relabel_configs"] == [{"action": "labeldrop", "regex": "replica"}]
    done = subprocess.run(
        [require("promtool"), "check", "config", folder / PROMETHEUS_CONFIG],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_discovery_prometheus_is_told_of_farthing_yamls_engines_alone():
    """As ever: one file, no relabelling, no labels."""
    files = prometheus_files(
        engines=(), rules={}, farthing_address="a:1", alertmanager_address="b:1", interval_seconds=5
    )
    config = yaml.safe_load(files[PROMETHEUS_CONFIG])
    assert config["scrape_configs"][0] == {
        "job_name": JOB_ENGINES,
        "file_sd_configs": [{"files": ["targets/engines.json"], "refresh_interval": "5s"}],
    }
    assert set(config["global"]) == {"scrape_interval", "scrape_timeout", "evaluation_interval"}
    assert set(config["alerting"]) == {"alertmanagers"}
