"""An image trunk to train from scratch (`training/`): a small convolutional network with sam2's trunk interface.

Going down it is an EfficientNet-Lite (inverted residuals, Tan & Le 2019; no squeeze-and-excite, ReLU6). Going up,
features of each level are added to the next finer one and refined, down to stride 4, so that the high-resolution
features, which draw the edges of masks, know what they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

# As in the published EfficientNet-Lite weights.
_BN_EPS = 1e-3
_BN_MOMENTUM = 0.02
_LITE0 = (
    # expansion, channels, blocks, stride of the first, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution that keeps the size (divided by the stride), and its norm."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=_BN_EPS, momentum=_BN_MOMENTUM),
    ]


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; with a short cut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        width = inputs * expansion
        widen = [*_conv(inputs, width), nn.ReLU6(inplace=True)] if expansion > 1 else []
        filters = [*_conv(width, width, kernel, stride, groups=width), nn.ReLU6(inplace=True)]
        self.layers = nn.Sequential(*widen, *filters, *_conv(width, outputs))
        self.short_cut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.short_cut else self.layers(x)


class Residual(nn.Module):
    """Two 3 × 3 convolutions with a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_conv(channels, channels, 3), nn.ReLU(inplace=True), *_conv(channels, channels, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.layers(x))


class ConvolutionalTrunk(nn.Module):
    """B × 3 × S × S (S a multiple of 32) to feature maps of stride 4, 8 and 16, finest first.

    stem: channels at stride 2. stages: rows of expansion, channels, blocks, stride of the first block, kernel.
    top_down: channels of the features at stride 4, 8, 16 and 32 on the way up; the first three come out.
    """

    def __init__(
        self,
        stem: int = 32,
        stages: Sequence[Sequence[int]] = _LITE0,
        top_down: Sequence[int] = (64, 96, 160, 192),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, stem, 3, 2), nn.ReLU6(inplace=True))
        self.blocks = nn.ModuleList()
        self._ends: dict[int, int] = {}  # stride → index of the last block there
        ends_channels: dict[int, int] = {}
        channels, stride = stem, 2
        for expansion, outputs, count, first_stride, kernel in stages:
            for i in range(count):
                step = first_stride if i == 0 else 1
                stride *= step
                self.blocks.append(InvertedResidual(channels, outputs, expansion, step, kernel))
                channels = outputs
                self._ends[stride] = len(self.blocks) - 1
                ends_channels[stride] = outputs
        if stride != 32:
            raise ValueError(f"the stages of the trunk end at stride {stride}, not at 32")
        levels = (4, 8, 16, 32)
        self.lateral = nn.ModuleList(
            nn.Sequential(*_conv(ends_channels[s], w)) for s, w in zip(levels, top_down, strict=True)
        )
        self.down = nn.ModuleList(
            nn.Sequential(*_conv(coarse, fine)) for fine, coarse in zip(top_down[:-1], top_down[1:], strict=True)
        )
        self.refine = nn.ModuleList(Residual(w) for w in top_down)
        self.channel_list = list(top_down[2::-1])
        """Channels of what `forward` returns, coarsest first, as sam2's neck wants them."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        kept = []
        ends = {index for stride, index in self._ends.items() if stride >= 4}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in ends:
                kept.append(x)
        outputs: list[torch.Tensor] = []
        above = self.refine[3](F.relu(self.lateral[3](kept[3])))
        for level in (2, 1, 0):
            coarse = F.interpolate(self.down[level](above), scale_factor=2.0, mode="nearest")
            above = self.refine[level](F.relu(self.lateral[level](kept[level]) + coarse))
            outputs.insert(0, above)
        return outputs
