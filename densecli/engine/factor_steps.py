"""The steps of `factored.py` that go over all places of the image tokens, as tensor operations and as compiled loops.

Both do the same; the loops are for the CPU, where they can be had. Symbols as in `factored.py`: B prompts, T tokens
each, N image tokens, C channels, H heads, d channels of a head, K = H·T.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from densecli.engine.compiled import factor_kernels
from densecli.engine.in_place import Buffers


class FirstLayer(NamedTuple):
    """What layer 0's image side takes of an image: queries, crossed H × d × N; squares N; its norm's eps."""

    queries: torch.Tensor
    crossed: torch.Tensor
    squares: torch.Tensor
    channels: int
    eps: float


class SecondLayer(NamedTuple):
    """What layer 1's image side takes of an image: queries, positional, crossed0, crossed1 H × d × N; squares, bias N;
    its norm's eps.
    """

    queries: torch.Tensor
    positional: torch.Tensor
    crossed0: torch.Tensor
    crossed1: torch.Tensor
    squares: torch.Tensor
    bias: torch.Tensor
    channels: int
    eps: float


class Shown(NamedTuple):
    """What an attention to the image takes of it: keys, positional H × d × N; values H × N × d."""

    keys: torch.Tensor
    positional: torch.Tensor
    values: torch.Tensor


class TensorSteps:
    """Tensor operations.

    Keys, queries and values of prompts are B × H × T × d, the keys and queries scaled for an attention's scores.
    least_of_thread: prompts that a thread must have for a share of its own to pay.
    """

    # Fewer leave too little between the calls from Python, at which threads wait for each other.
    least_of_thread = 8

    def __init__(self, buffers: Buffers) -> None:
        self.buffers = buffers

    def first_weights(
        self, image: FirstLayer, keys: torch.Tensor, values: torch.Tensor, grams: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """a0 (B × K × N), already multiplied by s1, and s1 (B × N), in memory that the thread's next call takes.

        grams: B × K × K, products of the values.
        """
        a0 = self._softmax_over_tokens("a0", self._product("scores", keys, image.queries), keys.shape[1])
        squares = self._product("scores", values, image.crossed).baddbmm_(grams, a0)
        s1 = torch.rsqrt((image.squares + _weighted_sum(squares, a0)) / image.channels + image.eps)
        return a0.mul_(s1[:, None]), s1

    def second_weights(
        self,
        image: SecondLayer,
        keys: torch.Tensor,
        crossed_keys: torch.Tensor,
        values: tuple[torch.Tensor, torch.Tensor],
        grams: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        a0: torch.Tensor,
        s1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """a1 (B × K × N) and s2 (B × N), in memory that the thread's next call takes.

        crossed_keys: B × K × K, the keys' products with layer 0's values. grams: the like, products of values: layer
        0's, twice layer 1's with layer 0's, layer 1's.
        """
        scale1 = s1[:, None]
        scores, positional = (
            self._product("scores", keys, image.queries),
            self._product("positional", keys, image.positional),
        )
        scores = torch.addcmul(positional, scores, scale1, out=scores)
        a1 = self._softmax_over_tokens("a1", scores.baddbmm_(crossed_keys, a0), keys.shape[1])
        squares = self._product("scores", values[0], image.crossed0).mul_(scale1).baddbmm_(grams[0], a0)
        variance = s1 * (s1 * image.squares + image.bias) + _weighted_sum(squares, a0)
        squares = self._product("scores", values[1], image.crossed1).mul_(scale1)
        squares.baddbmm_(grams[1], a0).baddbmm_(grams[2], a1)
        return a1, torch.rsqrt((variance + _weighted_sum(squares, a1)) / image.channels + image.eps)

    def attention(
        self,
        image: Shown,
        queries: torch.Tensor,
        factors: tuple[tuple[torch.Tensor, torch.Tensor], ...],
        s1: torch.Tensor,
        s2: torch.Tensor | None,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Attention of t tokens to the image: its weights summed up by each factor, and its values of the shared part.

        factors: a (B × K × N), and the queries' products with its values, B × H·t × K. s2: None before layer 1's norm.
        Returns B × H·t × K for each factor, and B × H × t × d.
        """
        scale1, scale2 = s1[:, None], None if s2 is None else s2[:, None]
        scores = self._product("scores", queries, image.keys).mul_(scale1)
        for a, crossed in factors:
            scores.baddbmm_(crossed, a)
        positional = self._product("positional", queries, image.positional)
        scores = scores.add_(positional) if scale2 is None else torch.addcmul(positional, scores, scale2, out=scores)
        weights = self.buffers.softmax("weights", scores, -1)
        if scale2 is not None:
            weights.mul_(scale2)
        pooled = [torch.bmm(weights, a.mT) for a, _ in factors]
        by_head = weights.mul_(scale1).view(*queries.shape[:3], -1)
        return pooled, torch.stack([torch.bmm(one, image.values) for one in by_head])

    def _product(self, name: str, x: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """B × H·t × N of x (B × H × t × d) with what all prompts share (H × d × N)."""
        b, heads, t, _ = x.shape
        room = self.buffers.room(name, (b, heads, t, shared.shape[-1]), x)
        for one, of_x in zip(room, x, strict=True):  # one product for all would copy what is shared for every prompt
            torch.bmm(of_x, shared, out=one)
        return room.flatten(1, 2)

    def _softmax_over_tokens(self, name: str, scores: torch.Tensor, heads: int) -> torch.Tensor:
        """B × K × N weights of a head's tokens. N stays innermost, where the processor's vectors work along it."""
        b, _, n = scores.shape
        return self.buffers.softmax(name, scores.view(b, heads, -1, n), 2).view(scores.shape)


class CompiledSteps(TensorSteps):
    """The same by `loops` (factor_kernels), all prompts of a share in one call."""

    # A share still costs a hundred calls from Python, a millisecond or two in which other threads may have to wait: on
    # many cores, more shares of fewer prompts would only queue.
    least_of_thread = 4

    def __init__(self, buffers: Buffers, loops: ModuleType) -> None:
        super().__init__(buffers)
        self.loops = loops

    def first_weights(
        self, image: FirstLayer, keys: torch.Tensor, values: torch.Tensor, grams: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        a0, s1 = self._factor("a0", keys, image.squares)
        arrays = [_array(x) for x in (keys, image.queries, values, image.crossed, grams, image.squares)]
        self.loops.first_weights(*arrays, np.float32(image.channels), np.float32(image.eps), a0.numpy(), s1.numpy())
        return a0, s1

    def second_weights(
        self,
        image: SecondLayer,
        keys: torch.Tensor,
        crossed_keys: torch.Tensor,
        values: tuple[torch.Tensor, torch.Tensor],
        grams: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        a0: torch.Tensor,
        s1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        a1, s2 = self._factor("a1", keys, image.squares)
        scores = (keys, image.queries, image.positional, crossed_keys, a0, s1)
        variance = (values[0], image.crossed0, values[1], image.crossed1, torch.stack(grams), image.squares, image.bias)
        arrays = [_array(x) for x in (*scores, *variance)]
        self.loops.second_weights(*arrays, np.float32(image.channels), np.float32(image.eps), a1.numpy(), s2.numpy())
        return a1, s2

    def attention(
        self,
        image: Shown,
        queries: torch.Tensor,
        factors: tuple[tuple[torch.Tensor, torch.Tensor], ...],
        s1: torch.Tensor,
        s2: torch.Tensor | None,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        pooled = [torch.empty_like(crossed) for _, crossed in factors]
        update = torch.empty_like(queries)
        s2 = s1[:0] if s2 is None else s2
        self.loops.attention_to_image(
            *(_array(x) for x in (queries, image.keys, image.positional)),
            tuple(_array(crossed) for _, crossed in factors),
            tuple(_array(a) for a, _ in factors),
            *(_array(x) for x in (s1, s2, image.values)),
            tuple(x.numpy() for x in pooled),
            update.numpy(),
        )
        return pooled, update

    def _factor(self, name: str, keys: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for B × K × N weights and B × N scales."""
        b, heads, tokens, _ = keys.shape
        return self.buffers.room(name, (b, heads * tokens, len(places)), keys), keys.new_empty(b, len(places))


def steps_for(buffers: Buffers) -> TensorSteps:
    """Compiled loops where they can be had."""
    loops = factor_kernels()
    return TensorSteps(buffers) if loops is None else CompiledSteps(buffers, loops)


def _array(x: torch.Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _weighted_sum(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """B × N, sum over K of x · weights (B × K × N each); x is no longer what it was."""
    return x.mul_(weights).sum(1)
