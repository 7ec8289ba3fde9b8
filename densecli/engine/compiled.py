"""Access to the compiled loops, which some machines cannot have."""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def kernels() -> ModuleType | None:
    """The module cpu_kernels, or None where numba cannot be used (not importable, or nowhere to cache its code)."""
    return _kernels()[0]


def why_not() -> str | None:
    """What numba said where it cannot be used, so that a run takes longer; None where it can."""
    return _kernels()[1]


def not_kept() -> str | None:
    """What keeps compiled loops from being kept, so that every run compiles them anew; said once a process."""
    if kernels() is None:
        return None
    from densecli.engine import loops

    return loops.not_kept()


@cache
def _kernels() -> tuple[ModuleType | None, str | None]:
    try:
        import numba

        # As Python, products by BLAS would do nothing, and the rest take hours.
        if getattr(numba.config, "DISABLE_JIT", 0):
            return None, "NUMBA_DISABLE_JIT is set"
        from densecli.engine import cpu_kernels
    except Exception as error:  # ImportError of a NumPy that is too new; SystemError, AttributeError of one built apart
        return None, " ".join(str(error).split()) or type(error).__name__
    return cpu_kernels, None


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


def will_compile(device: str) -> bool:
    """Whether a first run is ahead: nothing that numba compiled for this processor and version is kept.

    device: cpu, or cuda, which needs fewer loops, and Triton's kernels, of which the same is taken to be true. False
    where that cannot be known, or where there is nothing to compile.
    """
    loops, name = (factor_kernels(), "first_weights") if device == "cpu" else (kernels(), "parents")
    if loops is None:
        return False
    try:
        # numba's own index, which is empty for other versions of the source and says so in no public way.
        return not getattr(loops, name)._cache._cache_file._load_index()
    except Exception:  # of another numba
        return False
