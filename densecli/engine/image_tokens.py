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
