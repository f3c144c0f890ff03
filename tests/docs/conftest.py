"""The recordings' results, which several pages quote."""

import pytest

from farthing.replay.offline import cost_recording
from farthing.replay.recording import load_recording
from farthing.service.server import price_book
from farthing.settings import Settings


def run(name):
    """A packaged recording costed with the default settings and prices."""
    settings = Settings()
    return cost_recording(load_recording(name), settings, price_book(settings))


@pytest.fixture(scope="session")
def text_run():
    """The 8B text model's run."""
    return run("h100-llama8b-vllm0.26")


@pytest.fixture(scope="session")
def vision_run():
    """The 7B vision model's run."""
    return run("h100-qwen2vl7b-vllm0.26")
