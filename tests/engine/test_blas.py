"""Products of matrices without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

blas = pytest.importorskip("densecli.engine.blas", reason="torch's BLAS cannot be called here")


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    inner=st.integers(1, 9),
    a_turned=st.booleans(),
    b_turned=st.booleans(),
    kept=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 1000),
)
def test_product(rows, columns, inner, a_turned, b_turned, kept, seed):
    """Of matrices that are windows of larger ones, as those of the loops are."""
    random = np.random.default_rng(seed)

    def window(n: int, m: int, turned: bool) -> np.ndarray:
        n, m = (m, n) if turned else (n, m)
        return random.normal(size=(n + 1, m + 5)).astype(np.float32)[1:, 2 : 2 + m]

    a, b = window(rows, inner, a_turned), window(inner, columns, b_turned)
    out = window(rows, columns, False)
    around = out.base.copy()
    expected = kept * out + (a.T if a_turned else a) @ (b.T if b_turned else b)
    blas.product(out, a, a_turned, b, b_turned, kept, np.empty(6, np.int64), np.empty(2, np.float32))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    around[1:, 2 : 2 + columns] = out
    np.testing.assert_array_equal(out.base, around, err_msg="wrote beyond its result")


def test_what_was_there_may_be_anything():
    """Fresh memory may hold NaN, which times 0 is NaN."""
    out, one = np.full((2, 2), np.nan, np.float32), np.ones((2, 2), np.float32)
    blas.product(out, one, False, one, False, 0.0, np.empty(6, np.int64), np.empty(2, np.float32))
    assert (out == 2).all()


@pytest.mark.slow
def test_compiled_code_from_the_disk_finds_it():
    """In a new process, where BLAS lies at another address."""
    code = "import numpy as np; from densecli.engine.blas import product as p; x = np.full((2, 2), 3, np.float32); "
    code += (
        "y = x.copy(); p(y, x, False, x, False, 0.0, np.empty(6, np.int64), np.empty(2, np.float32)); print(y[0, 0])"
    )
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert run.stdout.strip() == "18.0", run.stderr
