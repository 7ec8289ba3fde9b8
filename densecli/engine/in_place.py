"""Buffers that are used again, and layer normalisation in place.

A fresh tensor of some megabytes costs page faults: as much time on the CPU as the arithmetic that fills it.
"""

from __future__ import annotations

import math
import threading
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from densecli.engine.compiled import kernels
from densecli.engine.threads import worker_threads

# Weights below this go: they add nothing to sums in float32, and as denormal numbers, which a sharp attention has by
# the thousand, they make products of matrices ten times slower (1.7 ms a prompt, not 0.8, where it was found).
_NEXT_TO_NOTHING = 1e-18
_NONE = np.empty((0, 0), dtype=np.float32)


class Buffers:
    """Memory for large results, by name, for each thread its own; a result is gone when its thread makes the next one.

    used: whether to use it; where not, products come in fresh memory, as torch gives it.
    """

    def __init__(self, used: bool) -> None:
        self.used = used
        self._held: dict[tuple[int, str], torch.Tensor] = {}

    def product(self, name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a @ b for tensors … × n × k and k × m or, of three axes both, … × k × m."""
        if not self.used:
            return a @ b
        return torch.matmul(a, b, out=self.room(name, (*a.shape[:-1], b.shape[-1]), a))

    def softmax(self, name: str, x: torch.Tensor, axis: int) -> torch.Tensor:
        """Softmax of x over an axis; on the CPU without what is next to nothing."""
        if not self.used:
            return x.softmax(axis)
        return torch.threshold_(torch.softmax(x, axis, out=self.room(name, x.shape, x)), _NEXT_TO_NOTHING, 0.0)

    def clear(self) -> None:
        """Let go of all memory."""
        self._held.clear()

    def room(self, name: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """Memory of this shape, of the type and on the device of `like`, with anything in it."""
        size = math.prod(shape)
        if not self.used:
            return like.new_empty(shape)
        key = threading.get_ident(), name
        held = self._held.get(key)
        if held is None or held.numel() < size:
            held = self._held[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return held[:size].view(shape)


def normalised(
    x: torch.Tensor, norm: torch.nn.LayerNorm, added: torch.Tensor | None = None, *, compiled: bool = True
) -> torch.Tensor:
    """`norm(x + added)` over the last axis of x (… × n × C; added: n × C); x is no longer what it was."""
    loops = kernels() if compiled and x.device.type == "cpu" and x.dtype == torch.float32 else None
    if loops is None or not x.is_contiguous() or norm.weight.dtype != torch.float32:
        return F.layer_norm(x if added is None else x + added, x.shape[-1:], norm.weight, norm.bias, norm.eps)
    rows = x.view(-1, x.shape[-1]).numpy()
    plus = _NONE if added is None else added.contiguous().numpy()
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    n = torch.get_num_threads()
    bounds = np.linspace(0, len(rows), n + 1).astype(int).tolist()

    def work(begin: int, end: int) -> None:
        if len(plus) and begin % len(plus):  # to where `added` begins anew
            first = begin % len(plus)
            step = min(end - begin, len(plus) - first)
            loops.normalise_rows(rows[begin : begin + step], plus[first:], weight, bias, np.float32(norm.eps))
            begin += step
        if begin < end:
            loops.normalise_rows(rows[begin:end], plus, weight, bias, np.float32(norm.eps))

    # This thread takes the first share itself.
    others = [worker_threads(n - 1).submit(work, *share) for share in pairwise(bounds[1:])] if n > 1 else []
    work(*bounds[:2])
    for other in others:
        other.result()
    return x
