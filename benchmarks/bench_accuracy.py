"""The tables of docs/accuracy.md for ``make bench``: same as ``python -m benchmarks.accuracy``."""

import sys
from pathlib import Path

# a script finds only what lies beside it; the oracle lies in the repository's tests
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.accuracy import main

if __name__ == "__main__":
    main()
