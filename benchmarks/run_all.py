"""`make bench`: every benchmark in turn, each in a process of its own. Takes about half an hour on 2 cores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = [
    "cold_start.py",
    "decoder.py",
    "postprocess.py",
    "memory.py",
    "whole_image.py",
    "batch_overhead.py",
    "million_files.py",
    "edges.py",
    "wholes.py",
    "tune.py",
]


def main() -> None:
    folder = Path(__file__).parent
    failed = [s for s in SCRIPTS if subprocess.run([sys.executable, str(folder / s)]).returncode]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
