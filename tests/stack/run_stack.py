"""Runs a foreground stack of stand-ins, as ``farthing up --native`` runs the real one: STATE OFFSET SECONDS."""

import signal
import sys
from pathlib import Path

from rich.console import Console
from tests.stack.scenery import stand_in_programs

from farthing.domain.errors import FarthingError
from farthing.settings import Settings
from farthing.stack.native import up_native


def main(state: str, offset: str, seconds: str) -> int:
    """The exit status that the command would have."""
    settings = Settings.model_validate({"stack": {"state_dir": state}})
    try:
        return up_native(
            settings,
            detach=False,
            port_offset=int(offset),
            console=Console(),
            programs=stand_in_programs(),
            ready_seconds=float(seconds),
        )
    except FarthingError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    # as on a terminal: a shell that ran the tests in the background had them ignore it, which children inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(*sys.argv[1:]))
