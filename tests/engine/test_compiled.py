"""Whether a first run, which compiles, is ahead: for the CPU and for a GPU, which need different loops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.engine.test_scoring import run_python

_CODE = """
import numpy as np
from densecli.engine.compiled import will_compile
from densecli.engine.parts import Placed, parents
from densecli.masks import Runs

ahead = [will_compile("cpu"), will_compile("cuda")]
parents([Placed(0, 0, Runs.of(np.ones((3, 3), bool)))])
print(ahead, [will_compile("cpu"), will_compile("cuda")])
"""


@pytest.mark.slow
def test_a_first_run_is_ahead_until_it_was(tmp_path) -> None:
    assert run_python(_CODE, NUMBA_CACHE_DIR=str(tmp_path)).strip() == "[True, True] [True, False]"
    assert run_python(_CODE, NUMBA_CACHE_DIR=str(tmp_path)).strip() == "[True, False] [True, False]"
    assert run_python(_CODE, NUMBA_DISABLE_JIT="1").strip() == "[False, False] [False, False]"


@pytest.mark.parametrize(
    "error", ["ImportError('Numba needs NumPy 2.2 or less')", "SystemError('initialization failed')"]
)
def test_a_numba_that_cannot_be_used_is_done_without_and_told(tmp_path, error: str) -> None:
    (tmp_path / "numba.py").write_text(f"raise {error}\n")
    code = "from densecli.engine import compiled as c, outlines; print(c.kernels(), c.factor_kernels(), c.why_not())"
    told = run_python(code, PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}").strip()
    assert told == f"None None {error.partition(chr(39))[2][:-2]}"


def test_numba_that_does_not_compile_is_done_without() -> None:
    """As Python the loops take hours, and products by BLAS gave what was in memory."""
    code = "from densecli.engine import compiled as c; print(c.kernels(), c.factor_kernels(), c.why_not())"
    assert run_python(code, NUMBA_DISABLE_JIT="1").strip() == "None None NUMBA_DISABLE_JIT is set"


_ONE_LOOP = """
import sys, numpy as np
from densecli.engine import compiled, loops

@loops.loop()
def twice(x):
    return x + x

if sys.argv[1:] == ["full"]:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(twice(21), twice.stats.cache_hits.total() if twice.stats.cache_hits else 0)
print(loops.not_kept(), loops.not_kept(), file=sys.stderr)
"""


def _one_loop(folder: Path, *arguments: str) -> tuple[str, str]:
    """Its output and what is told, run as a file, which is what code can be kept of."""
    script = folder / "one_loop.py"
    script.write_text(_ONE_LOOP)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "kept"), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("left", [0, 20])
def test_code_that_was_cut_off_is_compiled_anew(tmp_path, suffix: str, left: int) -> None:
    """As a power cut leaves it; every photo of every run failed."""
    assert _one_loop(tmp_path) == ("42 0", "None None")
    assert _one_loop(tmp_path) == ("42 1", "None None")
    for path in (tmp_path / "kept").rglob(f"*{suffix}"):
        path.write_bytes(path.read_bytes()[:left])
    assert _one_loop(tmp_path) == ("42 0", "None None")
    assert _one_loop(tmp_path) == ("42 1", "None None")


def test_code_that_cannot_be_kept_is_used_and_told_once(tmp_path) -> None:
    printed, told = _one_loop(tmp_path, "full")
    assert printed == "42 0" and told.startswith(f"{tmp_path / 'kept'}") and told.endswith(": File too large None")
