"""Products of matrices inside compiled loops: torch's own BLAS, called without torch.

torch's wheels for Linux and macOS have `sgemm_` of the library that multiplies their matrices (MKL, OpenBLAS,
Accelerate), under the name and with the arguments that BLAS has had since 1990. Called from a compiled loop, a product
needs neither the GIL nor the 10 to 20 microseconds of a call from Python. Importing this raises ImportError where there
is none.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import types

from densecli.engine.loops import loop

_LIBRARIES = {"linux": "libtorch_cpu.so", "darwin": "libtorch_cpu.dylib"}
_SYMBOL = "densecli_sgemm"
_NO, _YES = np.array([ord("N")], dtype=np.uint8), np.array([ord("T")], dtype=np.uint8)


def _found() -> Any:
    """`sgemm_` of torch."""
    name = _LIBRARIES.get(sys.platform)
    if name is None:
        raise ImportError(f"no BLAS of torch is known on {sys.platform}")
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name)).sgemm_
    except (OSError, AttributeError) as error:
        raise ImportError(f"torch's {name} has no sgemm_: {error}") from error


# By name and not by address, so that compiled code can be kept on disk.
llvm.add_symbol(_SYMBOL, ctypes.cast(_found(), ctypes.c_void_p).value)
_sgemm: Any = types.ExternalFunction(_SYMBOL, types.void(*[types.voidptr] * 13))


@loop()
def product(out, a, a_turned, b, b_turned, kept, sizes, factors):
    """out = kept · out + a @ b, with a or b transposed where it is `turned`.

    out, a, b: matrices of float32 whose rows are contiguous, at any distance from each other. kept: 0 or 1. sizes: 6
    int64 and factors: 2 float32, room for what BLAS takes by address.
    """
    rows, columns = out.shape
    inner = a.shape[0] if a_turned else a.shape[1]
    # Column by column, as BLAS has matrices, ours are transposed: outᵀ = bᵀ @ aᵀ. Addresses of int64 serve a BLAS with
    # integers of 32 bits as well, on machines that put the low bytes first.
    sizes[0], sizes[1], sizes[2] = columns, rows, inner
    sizes[3], sizes[4], sizes[5] = b.strides[0] // 4, a.strides[0] // 4, out.strides[0] // 4
    factors[0], factors[1] = 1.0, kept
    _sgemm(
        (_YES if b_turned else _NO).ctypes,
        (_YES if a_turned else _NO).ctypes,
        sizes.ctypes,
        sizes[1:].ctypes,
        sizes[2:].ctypes,
        factors.ctypes,
        b.ctypes,
        sizes[3:].ctypes,
        a.ctypes,
        sizes[4:].ctypes,
        factors[1:].ctypes,
        out.ctypes,
        sizes[5:].ctypes,
    )
