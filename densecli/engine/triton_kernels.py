"""Access to the Triton kernels, which some machines cannot have: no triton, or no C compiler for its launchers."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch

from densecli.engine.current_device import current

# What decoder_kernels takes of a block's shared memory for an official shape at its least is 81 KB; consumers' cards
# from Ampere on have 99, those before 64.
_FUSED_BYTES = 96 << 10


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a block of threads can have on a CUDA device; 0 where PyTorch does not say."""
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0))


def fused_fits(shared_memory: int) -> bool:
    """Whether decoder_kernels fits a device with so many bytes of shared memory a block."""
    return shared_memory >= _FUSED_BYTES


@cache
def scoring_kernel(device: torch.device) -> ModuleType | None:
    """The module scoring_kernel, or None where triton cannot be used on a CUDA device: a launch tells, once each."""
    try:
        from densecli.engine import scoring_kernel
    except (ImportError, RuntimeError, OSError):
        return None
    try:
        with current(device):
            scoring_kernel.try_out(device)
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
