"""What the commands say on a terminal of a first run, which compiles."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Command, screen_of


@pytest.mark.slow
@pytest.mark.parametrize("command", ["segment", "batch"])
def test_a_first_run_says_why_it_takes_so_long(
    command: str, photo: np.ndarray, run_densecli: Command, tmp_path: Path
) -> None:
    """On a terminal, and not where the loops were compiled before."""
    pty = pytest.importorskip("pty")
    Image.fromarray(photo).save(tmp_path / "good.png")
    said = []
    for _ in range(2):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            run_densecli.argv(command, "good.png", "-o", "first", "--overwrite", "-s", "points_per_side=4"),
            cwd=tmp_path,
            env={
                **run_densecli.environment,
                "TERM": "xterm",
                "COLUMNS": "100",
                "NUMBA_CACHE_DIR": str(tmp_path / "loops"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
        )
        os.close(slave)
        screen = screen_of(master)
        process.communicate(timeout=60)
        assert process.returncode == 0, screen
        said.append(b"first run here: compiling for this machine, once" in screen)
    assert said == [True, False]
