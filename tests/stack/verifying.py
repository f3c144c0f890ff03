"""The script of deploy/verify as a module: it is no package, for people run it as a file."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["ROOT", "load_verify"]

ROOT = Path(__file__).parents[2]


def load_verify() -> ModuleType:
    """Its functions."""
    name = "deploy_verify"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / "verify" / "verify.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
