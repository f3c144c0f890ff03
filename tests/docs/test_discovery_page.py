"""The page on discovery says what the code does: its examples are read, its labels are all there are."""

import re
from pathlib import Path

from farthing.collectors.discovery.containers import ContainerSource
from farthing.collectors.discovery.files import MAX_TARGETS, parse_targets
from farthing.collectors.discovery.names import NameSource
from farthing.collectors.discovery.target import engine_of
from farthing.settings import EngineSettings, parse_settings
from farthing.settings_discovery import DEFAULT_ENGINE_PORT, DOCKER_PREFIX, LABEL_PREFIX

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/discovery.md").read_text()
(SETTINGS,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
(LINE,) = re.findall(r"```\n(- .*?)```", PAGE, re.DOTALL)


def test_its_settings_are_settings():
    """As they stand there."""
    discovery = parse_settings(SETTINGS, "discovery.md").discovery
    assert (len(discovery.files), len(discovery.dns), len(discovery.docker)) == (1, 1, 1)


def test_its_line_is_an_engine_and_so_is_that_of_the_compose_folder():
    """The same one in both places."""
    (target,) = parse_targets(LINE, "discovery.md")
    engine = engine_of(target)
    assert (engine.name, engine.gpu, engine.metrics_url) == ("llama-8b", "H100-SXM", "http://gpu-1:8000/metrics")
    readme = (ROOT / "deploy/compose/engines.d/README.md").read_text()
    (line,) = re.findall(r"^    (- \{targets.*)$", readme, re.MULTILINE)
    assert engine_of(parse_targets(line, "README.md")[0]).name == "llama-8b"


def test_its_table_has_every_label_of_an_engine():
    """And none that is not read."""
    own = {name for name in EngineSettings.model_fields if name not in {"name", "url", "metrics_path"}}
    table = re.findall(r"^\| `(farthing_\w+)` \| `(farthing\.\w+)` \| `(\w+)`", PAGE, re.MULTILINE)
    assert set(table) == {(LABEL_PREFIX + name, DOCKER_PREFIX + name, name) for name in own}


def test_its_limits_are_those_of_the_code():
    """Targets of a file, refreshes without an answer, the port of a container."""
    assert f"more than {MAX_TARGETS:,} targets" in PAGE
    assert NameSource.patience == ContainerSource.patience == 5
    assert "for five refreshes" in PAGE
    assert f"(default {DEFAULT_ENGINE_PORT})" in PAGE
