"""Engines by containers' labels, from what a real Docker engine answered."""

import asyncio
import json

import pytest
from tests.collectors.discovery.docker_stand_in import docker_at

from farthing.collectors.discovery import containers
from farthing.collectors.discovery.containers import ContainerSource
from farthing.collectors.discovery.target import engine_of
from farthing.domain.errors import DiscoveryError
from farthing.settings_discovery import DockerSettings


@pytest.fixture
def docker(tmp_path):
    """The stand-in and a source that asks it."""
    with docker_at(tmp_path / "docker.sock") as stand_in:
        yield stand_in, ContainerSource(DockerSettings(host=f"unix://{tmp_path}/docker.sock"))


def test_containers_with_the_label_are_engines_with_what_their_labels_say(docker):
    """Two of them name themselves otherwise: by the container's name, and on the network of the host."""
    stand_in, source = docker
    targets, complaints = asyncio.run(source.read())
    found = {engine.name: engine for engine in map(engine_of, targets)}
    assert complaints == []
    assert {name: engine.metrics_url for name, engine in found.items()} == {
        "llama-8b": "http://172.17.0.3:8000/metrics",
        "vllm-docs": "http://172.17.0.4:9000/metrics",
        "on-host": "http://localhost:8123/metrics",
        "two-networks": "http://192.168.16.2:8000/v1/metrics",
    }
    llama = found["llama-8b"]
    assert (llama.gpu, llama.gpu_count, llama.price) == ("H100-SXM", 2, "reserved")
    assert [json.loads(filters) for filters in stand_in.asked] == [{"label": ["farthing.engine"]}]


def test_a_container_in_two_networks_must_say_which(docker):
    """Nobody knows otherwise where it is reached; the others are found all the same."""
    stand_in, source = docker
    containers = json.loads(stand_in.containers)
    for container in containers:
        container["Labels"].pop("farthing.network", None)
    stand_in.containers = json.dumps(containers).encode()
    targets, (complaint,) = asyncio.run(source.read())
    assert len(targets) == 3
    assert complaint.endswith("container vllm-two: it is in the networks net-a, net-b; say which by farthing.network")


@pytest.mark.parametrize(("label", "value"), [("farthing.port", "http"), ("farthing.network", "net-c")])
def test_a_label_that_means_nothing_is_named(docker, label, value):
    """With the container that has it."""
    stand_in, source = docker
    containers = json.loads(stand_in.containers)
    for container in containers:
        if container["Names"] == ["/vllm-chat"]:
            container["Labels"][label] = value
    stand_in.containers = json.dumps(containers).encode()
    targets, (complaint,) = asyncio.run(source.read())
    assert len(targets) == 3
    assert "container vllm-chat" in complaint
    assert value in complaint


def test_docker_that_does_not_answer_is_an_error_naming_the_socket(docker, tmp_path):
    """And so is one that refuses, or is something else."""
    stand_in, source = docker
    stand_in.status = 500
    with pytest.raises(DiscoveryError, match=r"docker\.sock: Docker answered 500"):
        asyncio.run(source.read())
    stand_in.status, stand_in.containers = 200, b'{"message": "no"}'
    with pytest.raises(DiscoveryError, match="no list of Docker's containers"):
        asyncio.run(source.read())
    away = ContainerSource(DockerSettings(host=f"unix://{tmp_path}/away.sock"))
    with pytest.raises(DiscoveryError, match=r"away\.sock: Docker does not answer"):
        asyncio.run(away.read())


def test_docker_that_drips_or_never_ends_is_given_up(tmp_path, monkeypatch):
    """A proxy at fault neither holds up the discovery of its engines nor takes the memory of all."""
    monkeypatch.setattr(containers, "TIMEOUT_SECONDS", 0.5)
    head = b"HTTP/1.1 200 OK\r\n\r\n"

    async def read(piece, pause):
        async def answer(_, writer):
            writer.write(head)
            while not writer.is_closing():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)

        async with asyncio.timeout(20):
            server = await asyncio.start_unix_server(answer, tmp_path / "docker.sock")
            try:
                await ContainerSource(DockerSettings(host=f"unix://{tmp_path}/docker.sock")).read()
            finally:
                server.close()

    with pytest.raises(DiscoveryError, match=r"does not answer \(TimeoutError\)"):
        asyncio.run(read(b" ", 0.01))
    monkeypatch.setattr(containers, "TIMEOUT_SECONDS", 10)
    monkeypatch.setattr(containers, "MAX_BYTES", 1_000)
    with pytest.raises(DiscoveryError, match="more than 1000 bytes"):
        asyncio.run(read(b" " * 500, 0))
