"""Access to the Triton kernels, which some machines cannot have: no triton, or no C compiler for its launchers."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch


@cache
def scoring_kernel() -> ModuleType | None:
    """The module scoring_kernel, or None where triton cannot be used. For CUDA: whether it can, a launch tells."""
    try:
        from densecli.engine import scoring_kernel
    except (ImportError, RuntimeError, OSError):
        return None
    try:
        scoring_kernel.try_out(torch.device("cuda"))
    except Exception:  # whatever triton, its compiler, the driver or the launcher's C compiler have to say
        return None
    return scoring_kernel


@cache
def decoder_kernels() -> ModuleType | None:
    """The module decoder_kernels, or None where triton cannot be imported."""
    try:
        from densecli.engine import decoder_kernels
    except (ImportError, RuntimeError, OSError):
        return None
    return decoder_kernels
