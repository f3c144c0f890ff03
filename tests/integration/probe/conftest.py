"""What the engines with the probe inside have in common.

None of them serves a pooling model: one more start for the sake of ``/v1/embeddings`` is not worth its minute.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.integration.probe.aborts import SHOWN
from tests.integration.probe.adapter import write_adapter
from tests.integration.probe.asks import ADAPTER
from tests.integration.probe.stand import Stand, unpacked_wheel

pytest.register_assert_rewrite("tests.integration.probe.claims")

TEXT_REQUESTS = 400
VISION_REQUESTS = 100
SEED = 20261126
LAYERS = 24
"""More than the tiny models have, so that a step takes as long as a real one's: with steps of 2 ms the engine is done
before its front end has looked at the socket, and no client could hang up on it."""
SPECULATION = '{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":4,"prompt_lookup_min":2}'


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Show the ends of both logs with a test that failed on a stand."""
    report = yield
    for value in getattr(item, "funcargs", {}).values() if report.failed else ():
        if isinstance(value, Stand):
            report.sections.append(("engine log, last lines", value.engine.log_tail()))
            report.sections.append(("serve log, end", value.serve.log.read_text(errors="replace")[-2_000:]))
    return report


def pytest_terminal_summary(terminalreporter, config):
    """Print how well aborts are known."""
    if SHOWN in config.stash:
        terminalreporter.section("aborted requests: what records claim beside what the engine counted, in tokens")
        terminalreporter.write_line(config.stash[SHOWN])


@pytest.fixture(scope="session")
def probe_installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe as its wheel installs it."""
    return unpacked_wheel(tmp_path_factory.mktemp("probe-wheel"))


@pytest.fixture(scope="session")
def text_arguments(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Flags of an engine for text with an adapter, speculation and tool calls."""
    adapter = write_adapter(tmp_path_factory.mktemp("adapter"))
    deeper = {"num_hidden_layers": LAYERS, "layer_types": ["full_attention"] * LAYERS}
    return (
        *("--max-model-len", "4096", "--hf-overrides", json.dumps(deeper)),
        *("--enable-lora", "--lora-modules", f"{ADAPTER}={adapter}", "--speculative-config", SPECULATION),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    )


@pytest.fixture(scope="session")
def vision_arguments() -> tuple[str, ...]:
    """Flags of an engine for pictures."""
    deeper = {"text_config": {"num_hidden_layers": LAYERS}}
    return ("--max-model-len", "4096", "--hf-overrides", json.dumps(deeper))
