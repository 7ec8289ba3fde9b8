"""Access to the compiled loops, which some machines cannot have."""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def kernels() -> ModuleType | None:
    """The module cpu_kernels, or None where numba cannot be used (not importable, or nowhere to cache its code)."""
    try:
        from densecli.engine import cpu_kernels
    except (ImportError, RuntimeError, OSError):
        return None
    return cpu_kernels


@cache
def edge_kernels() -> ModuleType | None:
    """The module edge_kernels, or None as above."""
    if kernels() is None:
        return None
    from densecli.engine import edge_kernels

    return edge_kernels


@cache
def upscaling_kernels() -> ModuleType | None:
    """The module upscaling_kernels, or None as above."""
    if kernels() is None:
        return None
    from densecli.engine import upscaling_kernels

    return upscaling_kernels


@cache
def factor_kernels() -> ModuleType | None:
    """The module factor_kernels, or None as above, or where torch's BLAS cannot be called without torch."""
    if upscaling_kernels() is None:
        return None
    try:
        from densecli.engine import factor_kernels
    except ImportError:
        return None
    return factor_kernels
