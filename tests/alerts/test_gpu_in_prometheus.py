"""A real Prometheus that scrapes every exporter's text records the same series of each, at once."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from tests.alerts.gpu_expositions import DEVICE, FIXTURES, KINDS, TRUE
from tests.alerts.live_prometheus import started
from tests.alerts.real_parts import free_port, wait_for
from tests.collectors.gpu.gpu_readings import AT, reading
from tests.service.running import served

from farthing.alerts.gpu_signals import GPU_SCALARS
from farthing.alerts.render import render_rules
from farthing.domain import conventions as names
from farthing.domain.clock import SECOND
from farthing.domain.gpu import GpuReading
from farthing.service.gpu_agent import Agent
from farthing.settings import Settings
from farthing.stack.scrape import prometheus_files
from farthing.vocabulary.loading import load_exporter

OWN_ID = {kind: f"1f2e3d4{number}" for number, kind in enumerate(KINDS)}
"""Kind -> the beginning of its devices' UUIDs, so that no source tells another's device."""


def own(kind: str, text: str) -> str:
    return text.replace("1f2e3d4c", OWN_ID[kind])


@contextmanager
def exporters() -> Iterator[str]:
    """The address where /KIND answers the fixture as its exporter would."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind = self.path.removeprefix("/")
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(own(kind, (FIXTURES / f"{kind}.txt").read_text()).encode())

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing: pytest shows what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.real
def test_every_exporter_gives_the_same_series_when_it_is_scraped(tmp_path):
    """Names, types and values as Prometheus itself reads them: a counter without _total stays as it is written."""
    (tmp_path / "rules").mkdir()
    vocabulary = yaml.safe_load(render_rules(Settings())[f"{names.GROUP_GPU_VOCABULARY}.yml"])
    vocabulary["groups"][0]["interval"] = "1s"
    (tmp_path / "rules" / "gpus.yml").write_text(yaml.safe_dump(vocabulary, width=10_000))
    with exporters() as target:
        targets = [
            {"targets": [target], "labels": {"instance": f"gpu-host-1:{port}", "__metrics_path__": f"/{kind}"}}
            for port, kind in enumerate(KINDS, 9400)
        ]
        config = {
            "global": {"scrape_interval": "1s"},
            "rule_files": ["rules/*.yml"],
            "scrape_configs": [{"job_name": names.JOB_GPUS, "static_configs": targets}],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        with started(tmp_path) as server:
            first = {kind: own(kind, DEVICE[kind]["uuid"]) for kind in KINDS}
            wait_for(
                lambda: all(server.query(f'{names.REC_GPU_POWER}{{uuid="{uuid}"}}') for uuid in first.values()),
                60,
                "the power of every exporter's device",
            )
            health = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
            found = {
                (kind, record): server.query(f'{record}{{uuid="{first[kind]}"}}') for kind in KINDS for record in TRUE
            }
            up = server.query(f'up{{job="{names.JOB_GPUS}"}} == 1')
    assert {rule["health"] for rule in health} == {"ok"}
    assert len(up) == len(KINDS)
    for (kind, record), samples in found.items():
        if GPU_SCALARS[record] in load_exporter(kind).lacking:
            assert samples == [], (kind, record)
            continue
        (sample,) = samples
        assert float(sample["value"][1]) == TRUE[record], (kind, record)
        labels = {label: own(kind, value) for label, value in DEVICE[kind].items()}
        assert sample["metric"] == {"__name__": record, **labels}, (kind, record)


class _Lasting:
    """A source of one H100 at 500 W, for as long as it is asked."""

    name = "nvml"

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid

    def read(self) -> list[GpuReading]:
        return [reading(self.uuid, after=time.time() - AT / SECOND, power_watts=500.0)]

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.real
def test_the_agents_that_the_settings_name_are_in_prometheus(tmp_path):
    """By the configuration as it is written for `farthing up`: a fleet's GPUs are seen, one agent each."""
    address = f"127.0.0.1:{free_port()}"
    settings = Settings.model_validate({"gpus": {"sample_seconds": 0.5, "batch_seconds": 10}})
    with ExitStack() as hosts:
        fleet = [f"GPU-{number}" for number in range(2)]
        agents = [hosts.enter_context(served(Agent(settings, [_Lasting(uuid)], None).app)) for uuid in fleet]
        files = prometheus_files(
            engines=(),
            rules={"gpu-vocabulary.yml": render_rules(settings)[f"{names.GROUP_GPU_VOCABULARY}.yml"]},
            farthing_address=address,
            alertmanager_address=address,
            interval_seconds=1,
            agents=[url.removeprefix("http://") for url in agents],
        )
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text.replace("interval: 15s", "interval: 1s"))
        with started(tmp_path, address=address) as server:
            wait_for(lambda: len(server.query(names.REC_GPU_POWER)) == len(fleet), 30, "the power of a fleet's GPUs")
            power = {one["metric"]["uuid"]: one["value"][1] for one in server.query(names.REC_GPU_POWER)}
            up = server.query(f'up{{job="{names.JOB_GPUS}"}} == 1')
    assert power == dict.fromkeys(fleet, "500")
    assert {f"http://{one['metric']['instance']}" for one in up} == set(agents)
