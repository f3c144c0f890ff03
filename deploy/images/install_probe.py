"""Install the probe's wheel beside the vLLM that this interpreter runs, with the standard library alone.

    python install_probe.py WHEEL

Images of vLLM differ in where their packages lie and in which installer they have, if any. The probe is pure Python
with no dependency and no script, so unpacking its wheel is installing it (PEP 427). Ends with one line and status 1
where there is no vLLM, or where vLLM would not find the plugin.
"""

from __future__ import annotations

import sys
import zipfile
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

GROUP, PLUGIN = "vllm.stat_logger_plugins", "farthing"
"""The entry point that vLLM looks up (see docs/probe.md)."""


def packages() -> Path:
    """The folder that vLLM is installed in; SystemExit where it is not. Does not import it."""
    found = find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"install_probe: {sys.executable} has no vllm: run this with the engine's own interpreter")
    return Path(found.submodule_search_locations[0]).parent


def install(wheel: Path) -> None:
    """Unpack the wheel, and look the plugin up as vLLM does."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages())
    if not any(entry.name == PLUGIN for entry in entry_points(group=GROUP)):
        raise SystemExit(f"install_probe: {wheel.name} brings no entry point {PLUGIN!r} of {GROUP}")


if __name__ == "__main__":
    install(Path(sys.argv[1]))
