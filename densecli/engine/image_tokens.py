"""What the decoder asks of the image tokens of a tile of prompts, however they are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch


class FirstConvolution(NamedTuple):
    """The upscaling's first transposed convolution as one product of matrices: a token's four pixels.

    weight: C × 4·C'. added: N × 4·C', bias and high-resolution features.
    """

    weight: torch.Tensor
    added: torch.Tensor


FirstPixels = Callable[[slice, slice], torch.Tensor]
"""b × n × 4·C' pixels of some prompts and some places, in memory that the thread's next call may take."""


class PixelFactors(NamedTuple):
    """The first convolution's pixels as factors, of B prompts: s2 ⊙ (s1 ⊙ shared + a0ᵀ v0 + a1ᵀ v1) + added.

    a0, a1: B × K × N. v0, v1: B × K × 4·C'. s1, s2: B × N. shared, added: N × 4·C'.
    """

    a0: torch.Tensor
    v0: torch.Tensor
    a1: torch.Tensor
    v1: torch.Tensor
    s1: torch.Tensor
    s2: torch.Tensor
    shared: torch.Tensor
    added: torch.Tensor


class ImageTokens(Protocol):
    """Image tokens of B prompts, after the transformer's layers."""

    def __getitem__(self, some: torch.Tensor) -> ImageTokens:
        """Those of some of the prompts (B bool)."""

    def attended(self, tokens: torch.Tensor, pe: torch.Tensor) -> torch.Tensor:
        """Final tokens (B × t × C): the transformer's last attention to the image, for those that are asked for.

        No token looks at another one from there on, so that predicted IoU needs its own token alone, and masks those
        of their outputs.
        """

    def first_pixels(self) -> FirstPixels:
        """The first convolution of the upscaling."""

    def pixels(self) -> PixelFactors | None:
        """The same as factors, where image tokens are kept so."""
