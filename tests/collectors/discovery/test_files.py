"""Engines by files of targets: what they say, what is wrong with them, and what holds meanwhile."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farthing.collectors.discovery.files import MAX_TARGETS, FileSource, parse_targets
from farthing.collectors.discovery.target import Target, engine_of
from farthing.domain.errors import DiscoveryError
from farthing.settings_discovery import DiscoverySettings

FILE = """\
- targets: ["gpu-1:8000"]
  labels: {instance: llama-8b, farthing_gpu: H100-SXM, farthing_gpu_count: 2, farthing_probe: true, team: search}
- targets:
    - gpu-2:8000
    - gpu-3:8000
  labels:
    farthing_gpu: L4
    __metrics_path__: /v1/metrics
    __scheme__: https
    __param_tenant: a
"""


def read(source):
    return asyncio.run(source.read())


def test_a_file_gives_one_engine_a_target_with_its_labels(tmp_path):
    """Labels of Farthing's are settings, Prometheus' own say where, all others belong to series."""
    path = tmp_path / "engines.yaml"
    path.write_text(FILE)
    targets, complaints = read(FileSource(path))
    llama, two, three = map(engine_of, targets)
    assert complaints == []
    assert (llama.name, llama.metrics_url, llama.gpu_count, llama.probe) == (
        "llama-8b",
        "http://gpu-1:8000/metrics",
        2,
        True,
    )
    assert (two.name, two.metrics_url) == ("gpu-2:8000", "https://gpu-2:8000/v1/metrics?tenant=a")
    assert (three.name, three.gpu, three.gpu_count, three.probe) == ("gpu-3:8000", "L4", 1, False)


def test_json_says_the_same_as_yaml(tmp_path):
    """Prometheus reads both."""
    groups = [{"targets": ["gpu-1:8000"], "labels": {"instance": "a", "farthing_gpu": "L4"}}]
    assert [
        engine_of(one) for one in parse_targets(json.dumps(groups), "f.json")
    ] == [engine_of(Target("gpu-1:8000", {"instance": "a", "farthing_gpu": "L4"}, ""))]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- targets: [a:1\n", "f.yaml:2: not valid YAML"),
        ("targets: [a:1]\n", "f.yaml:1: here belongs a list of targets"),
        ("- targets: [a:1]\n  label: {x: y}\n", "f.yaml:1: unknown key 'label'"),
        ("- targets: [a:1]\n  labels:\n    x: [y]\n", "f.yaml:3: here belongs one word"),
        ("- targets: [a:1]\n- targets: b:1\n", "f.yaml:2: here belongs a list of HOST:PORT"),
        ("- targets: [a:1]\n- b:1\n", "f.yaml:2: here belong keys"),
    ],
)
def test_what_is_no_list_of_targets_is_named_with_its_line(text, complaint):
    """The line where a person has to look."""
    with pytest.raises(DiscoveryError) as raised:
        parse_targets(text, "f.yaml")
    assert str(raised.value).startswith(complaint)


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ({"instance": "a b"}, "f:1: 'a b' is no name of an engine"),
        ({"instance": "a" * 65}, "is no name of an engine"),
        ({"farthing_gpus": "2"}, "no label 'farthing_gpus' is known; known are farthing_kind"),
        ({"farthing_gpu_count": "two"}, "label farthing_gpu_count: Input should be a valid integer"),
        ({"farthing_price": "a", "farthing_capacity": "b"}, "has a price and a capacity"),
        ({"farthing_kind": "tgi"}, "label farthing_kind"),
        ({"__scheme__": "http://elsewhere/?x="}, "'http://elsewhere/?x=' is neither http nor https"),
    ],
)
def test_a_label_that_no_engine_can_have_is_named(labels, complaint):
    """With file and line, the engine, and what belongs there."""
    with pytest.raises(DiscoveryError) as raised:
        engine_of(Target("gpu-1:8000", labels, "f:1"))
    assert complaint in str(raised.value)
    assert str(raised.value).startswith("f:1: ")


def test_a_broken_file_keeps_what_it_said_and_a_mended_one_says_more(tmp_path):
    """Whoever saves half a file must not end every engine; one that is taken away does."""
    source = FileSource(tmp_path / "*.yaml")
    assert read(source) == ([], [])
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("- targets: [a:1]\n")
    two.write_text("- targets: [b:1]\n")
    assert [target.address for target in read(source)[0]] == ["a:1", "b:1"]
    one.write_text("- targets: [a:1, c:1\n")
    for _ in range(2):
        targets, (complaint,) = read(source)
        assert [target.address for target in targets] == ["a:1", "b:1"]
        assert complaint.startswith(f"{one}:2: not valid YAML")
        assert complaint.endswith("what it said before holds")
    one.write_text("- targets: [a:1, c:1]\n")
    two.unlink()
    targets, complaints = read(source)
    assert [target.address for target in targets] == ["a:1", "c:1"]
    assert complaints == []


def test_a_file_without_a_star_that_is_not_there_is_told(tmp_path):
    """A pattern that matches nothing yet is not."""
    path = tmp_path / "engines.yaml"
    assert read(FileSource(path)) == (
        [],
        [f"{path}: there is no such file; create it, or take it out of discovery.files"],
    )


def test_a_file_that_is_replaced_by_a_link_is_read_again(tmp_path):
    """As Kubernetes does with what it mounts: folder by folder, and the file's own name never changes."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "e.yaml").write_text(f"- targets: [gpu-{version}:8000]\n")
    (tmp_path / "data").symlink_to("1")
    (tmp_path / "e.yaml").symlink_to(Path("data") / "e.yaml")
    source = FileSource(tmp_path / "*.yaml")
    assert [target.address for target in read(source)[0]] == ["gpu-1:8000"]
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(tmp_path / "data")
    assert [target.address for target in read(source)[0]] == ["gpu-2:8000"]


def test_ten_thousand_targets_are_read_and_one_more_is_refused(tmp_path):
    """What an unchanged file says is not read again."""
    path = tmp_path / "many.yaml"
    line = '- targets: ["10.{}.{}.1:8000"]\n  labels: {{instance: e-{}, farthing_gpu: L4}}\n'
    path.write_text("".join(line.format(n // 250, n % 250, n) for n in range(MAX_TARGETS)))
    source = FileSource(path)
    targets, complaints = read(source)
    assert (len(targets), complaints) == (MAX_TARGETS, [])
    again, _ = read(source)
    assert all(one is other for one, other in zip(again, targets, strict=True))
    path.write_text("- targets:\n" + "".join(f"  - gpu-{n}:8000\n" for n in range(MAX_TARGETS + 1)))
    kept, (complaint,) = read(source)
    assert len(kept) == MAX_TARGETS
    assert complaint.startswith(f"{path}:{MAX_TARGETS + 2}: more than {MAX_TARGETS} targets")


@pytest.mark.parametrize("deep", ["[", "- ", "{a: ", "? "])
def test_a_file_that_is_nested_without_end_is_refused_and_ends_nobody(tmp_path, deep):
    """The composer recurses in C: a process of its own tells whether one outlives it."""
    path = tmp_path / "deep.yaml"
    path.write_text(deep * 200_000)
    code = (
        "import asyncio, pathlib, sys; from farthing.collectors.discovery.files import FileSource;"
        "print(asyncio.run(FileSource(pathlib.Path(sys.argv[1])).read()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "deep.yaml:1: " in done.stdout


def test_a_pipe_or_device_in_the_folder_is_refused_and_holds_nothing_up(tmp_path):
    """A pipe that nobody writes to, and a link to what has no end; the folder's other files are read."""
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").symlink_to("/dev/zero")
    (tmp_path / "c.yaml").write_text('- targets: ["gpu-1:8000"]')
    (tmp_path / "d.yaml").mkdir()

    async def looked():
        async with asyncio.timeout(10):
            return await FileSource(tmp_path / "*.yaml").read()

    targets, complaints = asyncio.run(looked())
    assert [target.address for target in targets] == ["gpu-1:8000"]
    assert ["a.yaml" in one or "b.yaml" in one or "d.yaml" in one for one in complaints] == [True] * 3


@pytest.mark.parametrize("address", ["u:p@gpu-1:8000", "gpu-1:8000?x=1", "gpu-1:8000#", "gpu-1:8000/x", "a b:1", ""])
def test_an_address_with_more_than_host_and_port_is_named(address):
    """It would lead elsewhere, or stand in the log with a password."""
    with pytest.raises(DiscoveryError, match="is no HOST:PORT"):
        engine_of(Target(address, {"instance": "x"}, "f:1"))


@pytest.mark.parametrize(
    ("path", "asked"),
    [("@elsewhere/x", "/@elsewhere/x"), (":9/x", "/:9/x"), ("v1/metrics", "/v1/metrics"), ("/a?b#c", "/a%3Fb%23c")],
)
def test_a_path_is_a_path_whatever_it_says(path, asked):
    """As in Prometheus, which would else ask another host or port than Farthing does."""
    assert engine_of(Target("gpu-1:8000", {"__metrics_path__": path}, "f:1")).metrics_url == "http://gpu-1:8000" + asked


def test_two_stars_are_one(tmp_path):
    """Prometheus and the settings take them; Python's own globbing does not."""
    (tmp_path / "a.yaml").write_text('- targets: ["gpu-1:8000"]')
    settings = DiscoverySettings(files=(tmp_path / "**.yaml",))
    targets, complaints = read(FileSource(settings.files[0]))
    assert ([target.address for target in targets], complaints) == (["gpu-1:8000"], [])
