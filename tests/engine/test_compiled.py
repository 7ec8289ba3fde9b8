"""Whether a first run, which compiles, is ahead: for the CPU and for a GPU, which need different loops."""

from __future__ import annotations

import os

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
