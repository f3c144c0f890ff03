"""Both packaged recordings, loaded and costed once."""

import pytest

from farthing.replay.offline import cost_recording
from farthing.replay.recording import load_recording
from farthing.service.server import price_book
from farthing.settings import Settings

TEXT = "h100-llama8b-vllm0.26"
DEVICES = "h100-llama8b-devices-vllm0.26"
"""Of a probe, with what Farthing itself read of the device."""
VISION = "h100-qwen2vl7b-vllm0.26"


@pytest.fixture(scope="session")
def recordings():
    """name -> recording."""
    return {name: load_recording(name) for name in (TEXT, VISION)}


@pytest.fixture(scope="session")
def runs(recordings):
    """name -> the recording, costed."""
    return {name: cost(recording) for name, recording in recordings.items()}


@pytest.fixture(params=[TEXT, VISION])
def recording(request, recordings):
    """Each recording in turn."""
    return recordings[request.param]


@pytest.fixture
def run(recording, runs):
    """Each costed recording in turn."""
    return runs[recording.name]


def cost(recording):
    """The recording at default settings and prices."""
    return cost_recording(recording, Settings(), price_book(Settings()))
