"""The images' Dockerfiles, the bake file, the probe's way into an engine's image, and the demonstration's traffic."""

import json
import os
import re
import runpy
import subprocess
import tarfile
import threading
import venv
import zipfile
from collections import Counter
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import ClassVar

import hcl2
import pytest
import yaml
from tests.stack.scenery import require

from farthing.stack.compose_config import COMPOSE_FILE

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deploy/images"
DOCKERFILES = {path.stem: path for path in IMAGES.glob("*.Dockerfile")}
SECONDS = 1_700_000_000


def instructions(path):
    """A Dockerfile's instructions, each with its words, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text())
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.split()[1:]) for line in lines if line.strip()]


def last_stage(path):
    """What follows the last FROM."""
    found = instructions(path)
    start = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[start + 1 :]


def arguments(path):
    """The names of a Dockerfile's build arguments, with their defaults."""
    words = (words[0] for name, words in instructions(path) if name == "ARG")
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def copied(path):
    """What a Dockerfile copies from the repository."""
    copies = [words for name, words in instructions(path) if name == "COPY" and not words[0].startswith("--from")]
    return [source for words in copies for source in words[:-1]]


def sent():
    """What .dockerignore lets through to the builder."""
    return [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def program(name):
    """The names that a program of the images' defines."""
    return runpy.run_path(str(IMAGES / name))


def test_there_is_an_image_of_farthing_of_vllm_and_of_the_demonstration():
    """The names that compose.yaml, the bake file and the documentation use."""
    assert set(DOCKERFILES) == {"farthing", "vllm", "demo"}


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_what_a_dockerfile_copies_is_there_and_is_sent_to_the_builder(name):
    """The classic builder reads the .dockerignore of the context alone, BuildKit that one too."""
    sources = copied(DOCKERFILES[name])
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == rule or source.startswith(f"{rule}/") for rule in sent()), f"{source} is not sent"


def test_nothing_is_sent_to_the_builder_that_no_image_copies():
    """A forgotten line could send a ledger, or a secret, into a layer."""
    sources = [source for path in DOCKERFILES.values() for source in copied(path)]
    for rule in sent():
        assert any(source == rule or source.startswith(f"{rule}/") for source in sources), rule


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_an_image_runs_as_a_plain_user_says_how_it_is_and_ends_when_told(name):
    """A shell as the first process would keep the signal to itself; a name of a user means nothing to Kubernetes."""
    stage = dict(last_stage(DOCKERFILES[name]))
    assert stage["USER"] == ["10001:10001"]
    assert "HEALTHCHECK" in stage
    assert stage["ENTRYPOINT"][0].startswith("[")
    json.loads(" ".join(stage["ENTRYPOINT"]))
    json.loads(" ".join(stage.get("CMD", ["[]"])))
    assert "org.opencontainers.image.licenses" in DOCKERFILES[name].read_text()


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_a_dockerfile_needs_no_builder_but_the_classic_one(name):
    """Docker 20.10 and docker-compose 1.29 build it: no mounts, no here-documents, no modes of copies."""
    for word, words in instructions(DOCKERFILES[name]):
        assert not any(flag.startswith(("--mount", "--chmod", "--link", "--parents")) for flag in words), words
        assert not any(text.startswith("<<") for text in words), words
        assert word in {
            *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "USER"),
            *("VOLUME", "WORKDIR"),
        }


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_every_base_can_be_swapped_by_a_build_argument(name):
    """For a mirror, a digest, or the tests' own Debian."""
    bases = [words[0] for word, words in instructions(DOCKERFILES[name]) if word == "FROM"]
    given = arguments(DOCKERFILES[name])
    assert given["PYTHON_IMAGE"] == "python:3.11-slim-bookworm"
    for base in bases:
        assert base[:2] + base[-1] == "${}", f"{base} cannot be swapped"
        variable = base[2:-1]
        assert re.fullmatch(r"\S+:[\w.-]+", given[variable]), f"{base} is not pinned to a version"


def test_the_engine_that_the_documentation_names_is_the_one_of_the_image():
    """Two places that name a version of vLLM part company, otherwise."""
    image = arguments(DOCKERFILES["vllm"])["VLLM_IMAGE"]
    assert f"FROM {image}" in (ROOT / "docs/probe.md").read_text()


def test_the_flags_of_the_engine_s_images_are_those_that_the_probe_needs():
    """Without the middleware every tenant is unknown."""
    for name in ("vllm", "demo"):
        command = json.loads(" ".join(dict(last_stage(DOCKERFILES[name]))["ENTRYPOINT"]))
        assert command[command.index("--middleware") + 1] == "farthing_probe.RequestMeter"
        assert "--enable-logging-iteration-details" in command


def test_every_volume_of_secrets_finds_a_folder_of_its_own_in_the_image():
    """A named volume takes its owner from the folder it is mounted on; without one it is root's."""
    services = yaml.safe_load((ROOT / COMPOSE_FILE).read_text())["services"]
    places = [mount.split(":")[1] for mount in services["secrets"]["volumes"]]
    assert len(places) > 4
    made = " ".join(word for name, words in last_stage(DOCKERFILES["farthing"]) if name == "RUN" for word in words)
    for place in [*places, "/var/lib/farthing"]:
        assert place in made.replace(";", " ").split(), place


def test_the_bake_file_builds_every_image_for_both_architectures():
    """Every target's Dockerfile is there, takes the arguments given, and has a tag; every variable has a default."""
    with (IMAGES / "docker-bake.hcl").open() as file:
        bake = hcl2.load(file)
    variables, groups, targets = (
        {name.strip('"'): body for block in bake[kind] for name, body in block.items()}
        for kind in ("variable", "group", "target")
    )
    assert all("default" in body for body in variables.values())
    dockerfiles = {}
    for name, body in targets.items():
        if "dockerfile" not in body:
            continue
        dockerfiles[name] = ROOT / body["dockerfile"].strip('"')
        assert set(body["args"]) <= set(arguments(dockerfiles[name]))
        assert set(body["args"].values()) <= set(variables)
        (tag,) = body["tags"]
        assert set(re.findall(r"\$\{(\w+)\}", tag)) <= set(variables)
    assert set(dockerfiles.values()) == set(DOCKERFILES.values())
    released = [name.strip('"') for name in groups["release"]["targets"]]
    bases = [[base.strip('"') for base in targets[name]["inherits"]] for name in released]
    assert sorted(base for base, _ in bases) == sorted(dockerfiles)
    for _, other in bases:
        assert [platform.strip('"') for platform in targets[other]["platforms"]] == ["linux/amd64", "linux/arm64"]
    for variable, base in (("PYTHON_IMAGE", "farthing"), ("VLLM_IMAGE", "vllm")):
        assert variables[variable]["default"].strip('"') == arguments(dockerfiles[base])[variable]


def require_uv():
    """uv of the tools' environment, else of PATH."""
    own = ROOT / ".venv-tools/bin/uv"
    return str(own) if own.exists() else require("uv")


@pytest.fixture(scope="module")
def probe_wheel(tmp_path_factory):
    """The probe's wheel, from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [require_uv(), "build", "--wheel", "--package", "farthing-probe", "--out-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("farthing_probe-*.whl")
    return wheel


def engine_environment(folder, *, with_vllm):
    """An interpreter of its own, with a package called vllm beside it or not; without any installer."""
    venv.create(folder, with_pip=False, symlinks=True)
    if with_vllm:
        (packages,) = folder.glob("lib/python3.*/site-packages")
        (packages / "vllm").mkdir()
        # an engine is not loaded to install beside it
        (packages / "vllm/__init__.py").write_text("raise RuntimeError('no GPU in a build')\n")
    return folder / "bin/python"


def run_install(python, wheel):
    """What install_probe.py says, run by an engine's interpreter."""
    command = [str(python), "-B", str(IMAGES / "install_probe.py"), str(wheel)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.real
def test_the_probe_is_installed_beside_vllm_without_an_installer(tmp_path, probe_wheel):
    """The engine's interpreter then finds the plugin, the middleware and the version."""
    python = engine_environment(tmp_path, with_vllm=True)
    done = run_install(python, probe_wheel)
    assert done.returncode == 0, done.stderr
    asked = (
        "from importlib.metadata import entry_points, version; import farthing_probe;"
        "(found,) = entry_points(group='vllm.stat_logger_plugins');"
        "print(found.name, found.value, version('farthing-probe'), farthing_probe.RequestMeter.__name__)"
    )
    told = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["farthing", "farthing_probe.stat_logger:FarthingStatLogger", "0.1.0", "RequestMeter"]


@pytest.mark.real
def test_an_interpreter_without_vllm_is_refused_in_one_line(tmp_path, probe_wheel):
    """An image has several interpreters, and the first on PATH need not be the engine's."""
    done = run_install(engine_environment(tmp_path, with_vllm=False), probe_wheel)
    assert done.returncode == 1
    assert re.fullmatch(r"install_probe: \S+ has no vllm: run this with the engine's own interpreter\n", done.stderr)


def test_a_wheel_without_the_plugin_is_refused(tmp_path):
    """vLLM would start, and nothing would be on the books."""
    python = engine_environment(tmp_path, with_vllm=True)
    wheel = tmp_path / "other-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.py", "")
    done = run_install(python, wheel)
    assert done.returncode == 1
    assert done.stderr.startswith("install_probe: other-1-py3-none-any.whl brings no entry point 'farthing'")


def chance():
    """What decides what a client of the demonstration asks."""
    return Random(1)  # noqa: S311 - traffic, not secrets


class Engine(BaseHTTPRequestHandler):
    """Answers a chat with two lines, and refuses what a tenant called refused asks."""

    asked: ClassVar[list[tuple[Message, dict[str, object]]]] = []

    def do_POST(self):
        """One chat."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.headers, body))
        self.send_response(503 if self.headers["X-Tenant-Id"] == "refused" else 200)
        self.end_headers()
        self.wfile.write(b"data: {}\n\ndata: [DONE]\n\n")

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def engine():
    """An engine's address, and what it was asked."""
    Engine.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Engine.asked
        server.shutdown()
        thread.join()


def test_the_demonstration_s_traffic_says_who_asks_and_shows_images(engine):
    """Every tenant of it, under the headers that the probe reads."""
    url, asked = engine
    traffic = program("demo/traffic.py")
    tenants = traffic["TENANTS"]
    for tenant in tenants:
        client = traffic["Client"](tenant, url, "tiny", chance(), Counter())
        assert client.ask() in {"answered", "left"}
    named = [(head["X-Tenant-Id"], head["X-Project-Id"], head["X-Tier"]) for head, _ in asked]
    assert named == [(tenant.name, tenant.project, tenant.tier) for tenant in tenants]
    assert len({tenant.name for tenant in tenants}) >= 3
    pictures = [json.dumps(body).count("data:image/png;base64,") for _, body in asked]
    assert pictures == [int(tenant.images) for tenant in tenants]
    assert all(body["model"] == "tiny" and body["stream"] for _, body in asked)


def test_a_client_that_hangs_up_and_one_that_is_refused_are_told_apart(engine):
    """The demonstration shows aborted requests on purpose, and says what failed."""
    url, _ = engine
    traffic = program("demo/traffic.py")
    leaving = traffic["Tenant"]("leaving", "p", "batch", 60, words=10, tokens=8, hang_ups=1.0)
    refused = traffic["Tenant"]("refused", "p", "batch", 60, words=10, tokens=8)
    assert traffic["Client"](leaving, url, "tiny", chance(), Counter()).ask() == "left"
    assert traffic["Client"](refused, url, "tiny", chance(), Counter()).ask() == "failed"


FAKE_DOCKER = """\
#!/bin/sh
case $1 in
  create) echo "container-of-$2" ;;
  export) cat "$IMAGES_OF_THE_TEST/$2.tar" ;;
  rm) echo "$3" >>"$IMAGES_OF_THE_TEST/removed" ;;
esac
"""


def test_two_images_are_compared_file_by_file(tmp_path, monkeypatch):
    """Content, mode, owner and time of what the build adds; not what the engine puts elsewhere, nor folders' times."""
    same_image = runpy.run_path(str(ROOT / "tools/same_image.py"))
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IMAGES_OF_THE_TEST", str(tmp_path))
    (tmp_path / "file").write_text("one")

    def image(name, **changed):
        with tarfile.open(tmp_path / f"container-of-{name}.tar", "w") as archive:
            folder = tarfile.TarInfo("opt/farthing")
            folder.type, folder.mtime = tarfile.DIRTYPE, changed.pop("folder_time", 1)
            archive.addfile(folder)
            for path in ("opt/farthing/file", "etc/hostname"):
                entry = archive.gettarinfo(tmp_path / "file", path)
                entry.mtime = SECONDS if path.startswith("opt") else hash(name) % 1000
                for key, value in changed.items():
                    if path.startswith("opt"):
                        setattr(entry, key, value)
                with (tmp_path / "file").open("rb") as content:
                    archive.addfile(entry, content)

    image("a")
    image("b", folder_time=2)
    assert same_image["main"](["a", "b"], same_image["ADDED"]) == 0
    for change in ({"mode": 0o600}, {"uid": 7}, {"mtime": 3}):
        image("c", **change)
        assert same_image["differences"](same_image["tree"]("a"), same_image["tree"]("c")) == ["opt/farthing/file"]
    (tmp_path / "file").write_text("two")
    image("d")
    assert same_image["main"](["a", "d"], same_image["ADDED"]) == 1
    assert same_image["main"](["a", "b"], ["nowhere"]) == 1
    removed = (tmp_path / "removed").read_text().split()
    assert set(removed) == {f"container-of-{name}" for name in "abcd"}
