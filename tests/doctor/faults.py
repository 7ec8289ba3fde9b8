"""What tests of the doctor share: what a false nvidia-smi says, and types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from densecli.doctor import nvidia

Package = Callable[[str, str], Path]
LIMIT = 300.0
"""Seconds; so long that no machine imports slowly enough for a warning."""

SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*) echo "NVIDIA GeForce RTX 2080, GPU-1, 8192, {free}" ;;
  --query-compute-apps=*) echo "GPU-1, 4711, /usr/bin/blender, 7000" ;;
  *) echo "| NVIDIA-SMI {driver}   Driver Version: {driver}   CUDA Version: {cuda} |" ;;
esac
"""


def looked(limit: float = LIMIT) -> nvidia.Nvidia:
    program = nvidia.shutil.which("nvidia-smi")
    assert program is not None
    return nvidia.by_program(program, limit)
