"""``farthing check`` says what discovery finds, what is wrong there, and asks the engines that are found."""

import json

from tests.service.running import served

from farthing.cli.check import run_check
from farthing.replay.live import LiveReplay, ReplayOptions
from farthing.replay.recording import load_recording
from farthing.settings import Settings


def findings(capsys, settings):
    status = run_check(settings, "json")
    return status, [
        (found["subject"], found["level"], found["detail"]) for found in json.loads(capsys.readouterr().out)
    ]


def settings_of(tmp_path):
    return Settings.model_validate(
        {"ledger": f"sqlite:///{tmp_path}/ledger.db", "discovery": {"files": [f"{tmp_path}/engines.d/*.yaml"]}}
    )


def test_an_engine_that_is_discovered_is_asked_like_any_other(tmp_path, capsys):
    """What it is, what its file says wrong about another one, and that it has a price."""
    (tmp_path / "engines.d").mkdir()
    file = tmp_path / "engines.d/engines.yaml"
    replay = LiveReplay(load_recording("h100-llama8b-vllm0.26"), ReplayOptions("llama", "http://unused", None))
    with served(replay.app) as url:
        file.write_text(
            f"- targets: [{url.removeprefix('http://')}]\n"
            "  labels: {instance: llama, farthing_gpu: H100-SXM}\n"
            "- targets: [gpu-2:8000]\n"
            "  labels: {farthing_gpu_count: two}\n"
        )
        status, found = findings(capsys, settings_of(tmp_path))
    assert status == 0
    assert ("discovery", "ok", "engines found: 1 (llama)") in found
    (wrong,) = [detail for subject, level, detail in found if (subject, level) == ("discovery", "degraded")]
    assert wrong.startswith(f"{file}:3: engine 'gpu-2:8000': label farthing_gpu_count")
    assert any(subject == "engine llama" and level == "ok" for subject, level, _ in found)
    assert any(detail.startswith("list prices of a public cloud") for _, _, detail in found)


def test_sources_that_find_nothing_are_told(tmp_path, capsys):
    """Nothing is wrong with them yet, and the replay does not stand in for their engines."""
    _, found = findings(capsys, settings_of(tmp_path))
    assert ("discovery", "degraded", "engines found: 0") in found
    assert not any("replays a recorded H100" in detail for _, _, detail in found)
