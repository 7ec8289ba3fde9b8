"""Low-resolution mask logits of updated image tokens: `output_upscaling` and the product with the hyper-networks."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from densecli.engine.compiled import factor_kernels, upscaling_kernels
from densecli.engine.image_tokens import FirstConvolution, ImageTokens, PixelFactors
from densecli.engine.in_place import Buffers
from densecli.engine.threads import single_threads, without_gradients

# Image tokens that go through at a time on a CPU: what they become (3·C numbers each) stays in the cache of its cores.
# Half as many take 8 % longer on an official shape.
_TOKENS_OF_WINDOW = 1024
# In compiled loops, which lose nothing between windows; 64 to 512 are within 5 %.
_TOKENS_OF_COMPILED_WINDOW = 256


class Upscaler:
    """`output_upscaling` and the product with the hyper-networks, with channels last.

    A transposed convolution of kernel 2 and stride 2 is one matrix product per token, whose 4 × C' outputs are the
    four pixels that the token becomes. Left in that order, everything up to the logits is a product of matrices;
    only the logits, the smallest of all, are put into rows and columns.
    """

    def __init__(
        self,
        decoder: Any,
        high_res: tuple[torch.Tensor, ...],
        size: tuple[int, int],
        dtype: torch.dtype,
        buffers: Buffers,
    ) -> None:
        self.decoder, self.dtype, self.buffers = decoder, dtype, buffers
        self.height, self.width = height, width = size
        first, self.norm, self.act1, second, self.act2 = decoder.output_upscaling
        weight1, bias1 = _as_matrix(first)
        self.weight2, bias2 = _as_matrix(second)
        added1, self.added2 = bias1.expand(height * width, -1), bias2.expand(4 * height * width, -1)
        if decoder.use_high_res_features:
            stride4, stride8 = high_res
            pixels = stride8[0].view(-1, height, 2, width, 2).permute(1, 3, 2, 4, 0)
            added1 = added1 + pixels.reshape(height * width, -1)
            pixels = stride4[0].view(-1, height, 2, 2, width, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
            self.added2 = self.added2 + pixels.reshape(4 * height * width, -1)
        self.first = FirstConvolution(weight1, added1)
        gelus = all(type(a) is torch.nn.GELU and a.approximate == "none" for a in (self.act1, self.act2))
        in_float32 = dtype == self.added2.dtype == self.norm.weight.dtype == torch.float32
        self.loops = upscaling_kernels() if gelus and in_float32 and self.added2.device.type == "cpu" else None
        if self.loops is not None:
            self.added2 = self.added2.contiguous()
            self._norm_weight, self._norm_bias = (p.detach().numpy() for p in (self.norm.weight, self.norm.bias))

    def __call__(
        self, image: ImageTokens, tokens: torch.Tensor, outputs: range, keep: torch.Tensor, logits: torch.Tensor
    ) -> None:
        """Write the kept outputs' logits to the first places of `logits` (… × 4h × 4w), in row-major order of `keep`.

        image: image tokens of B prompts. tokens: B × M × C, final tokens of the outputs. keep: B × M bool.
        """
        rows = self.rows(tokens, outputs)
        if tokens.device.type == "cpu":
            factors, loops = image.pixels(), factor_kernels()
            if factors is not None and self.loops is not None and loops is not None:
                return self._of_factors(loops, factors, rows, keep, logits)
            return self._in_windows(image, rows, keep, logits)
        every, height, width = slice(None), self.height, self.width
        x = self._last_pixels(image.first_pixels()(every, every), every)
        found = rows.to(x.dtype) @ x.mT  # B × M × (h, w, 2, 2, 2, 2)
        found = found.view(*keep.shape, height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        found = found.reshape(*keep.shape, *logits.shape[1:])[keep]
        logits[: len(found)] = found

    def rows(self, tokens: torch.Tensor, outputs: range) -> torch.Tensor:
        """B × M × C'', what the hyper-networks make of the outputs' final tokens."""
        networks = self.decoder.output_hypernetworks_mlps
        return torch.stack([networks[i](tokens[:, n]) for n, i in enumerate(outputs)], 1)

    def _of_factors(
        self, loops: ModuleType, factors: PixelFactors, rows: torch.Tensor, keep: torch.Tensor, logits: torch.Tensor
    ) -> None:
        """The same in one compiled call."""
        loops.upscale(
            *(factor.contiguous().numpy() for factor in factors),
            *(self._norm_weight, self._norm_bias, np.float32(self.norm.eps)),
            *(self.weight2.contiguous().numpy(), self.added2.numpy()),
            *(rows[keep].numpy(), keep.sum(1).cumsum(0).numpy(), logits.numpy()),
            self.width,
            self.width * max(1, _TOKENS_OF_COMPILED_WINDOW // self.width),
        )

    def _in_windows(self, image: ImageTokens, rows: torch.Tensor, keep: torch.Tensor, logits: torch.Tensor) -> None:
        """The same prompt by prompt, some rows of image tokens at a time; every thread has windows of its own."""
        n, first_pixels = torch.get_num_threads(), image.first_pixels()
        # Enough windows for all threads.
        step = min(_TOKENS_OF_WINDOW // self.width, math.ceil(self.height * len(keep) / n))
        tops = range(0, self.height, max(1, step))
        prompts, done = [], 0
        for i, kept in enumerate(keep.tolist()):
            which = [output for output, is_kept in enumerate(kept) if is_kept]
            if which:
                prompts.append((i, which, logits[done : done + len(which)]))
                done += len(which)
        # All prompts of a window, then the next: what they share there stays in the cache.
        wanted = [(*prompt, top) for top in tops for prompt in prompts]

        @without_gradients
        def work(begin: int, step: int) -> None:
            for i, which, pictures, top in wanted[begin::step]:
                places = slice(top * self.width, min(top + tops.step, self.height) * self.width)
                self._write_window(first_pixels(slice(i, i + 1), places), places, rows[i], which, pictures)

        if n > 1 and len(wanted) > 1 and self.loops is not None:  # other threads know nothing of autocast
            for share in [single_threads(n).submit(work, thread, n) for thread in range(n)]:
                share.result()
        else:
            work(0, 1)

    def _write_window(
        self, x: torch.Tensor, places: slice, rows: torch.Tensor, which: list[int], pictures: torch.Tensor
    ) -> None:
        """The kept outputs' logits of some rows of image tokens. x: 1 × n × 4·C'. pictures: those outputs' logits."""
        loops = self.loops
        if loops is not None:
            x = x.view(-1, len(self.norm.weight))
            loops.normalise_and_activate(x.numpy(), self._norm_weight, self._norm_bias, np.float32(self.norm.eps))
            x = self.buffers.product("stride 4", x, self.weight2)
            added = self.added2[4 * places.start : 4 * places.stop].numpy()
            loops.activate_and_multiply(
                x.numpy(), added, rows[which].numpy(), pictures.numpy(), self.width, places.start
            )
            return
        top, bottom = places.start // self.width, places.stop // self.width
        x = self._last_pixels(x, places)[0]
        # All outputs, then the kept ones: so their last digits are the same whatever else is kept.
        found = (rows.to(x.dtype) @ x.T)[which].float()
        found = found.view(len(which), bottom - top, self.width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        pictures[:, 4 * top : 4 * bottom] = found.reshape(len(which), 4 * (bottom - top), -1)

    def _last_pixels(self, x: torch.Tensor, places: slice) -> torch.Tensor:
        """b × 16·n × C'': the pixels of n image tokens after both convolutions, from those after the first product."""
        b, n, _ = x.shape
        x = x.view(b, 4 * n, -1)
        x = F.layer_norm(x, x.shape[-1:], self.norm.weight, self.norm.bias, self.norm.eps).to(self.dtype)
        x = self.buffers.product("stride 4", _activated(self.act1, x), self.weight2)
        x += self.added2 if places == slice(None) else self.added2[4 * places.start : 4 * places.stop]
        return _activated(self.act2, x).view(b, 16 * n, -1)


def _activated(activation: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`activation(x)`, in place where torch can."""
    if isinstance(activation, torch.nn.GELU):
        try:
            return torch.ops.aten.gelu_(x, approximate=activation.approximate)
        except RuntimeError as error:
            if "could not create a primitive" not in str(error):
                raise
            # oneDNN, which has no room for its code where memory is short; PyTorch's own needs none.
            with torch.backends.mkldnn.flags(enabled=False):
                return torch.ops.aten.gelu_(x, approximate=activation.approximate)
    return activation(x)


def _as_matrix(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A ConvTranspose2d of kernel 2 and stride 2 as C × 4·C' weights and 4·C' biases, pixel by pixel."""
    channels, out = layer.weight.shape[:2]
    return layer.weight.permute(0, 2, 3, 1).reshape(channels, 4 * out), layer.bias.repeat(4)
