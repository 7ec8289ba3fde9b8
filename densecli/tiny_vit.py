"""The image encoder of the starter: TinyViT as MobileSAM has it, with the interfaces of sam2's trunks and necks.

TinyViT-5M (Wu et al. 2022, "TinyViT: Fast Pretraining Distillation for Small Vision Transformers") alternates windows
of attention with 3 × 3 convolutions. MobileSAM (Zhang et al. 2023, "Faster Segment Anything") made it an image encoder
for SAM: the last merging keeps its stride, so that the features come out at stride 16, and SAM's neck follows. Norms
over a batch are folded into the convolutions before them: the weights that ship never learn them anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def _filters(channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3 × 3 filter of each channel's own."""
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels)


class InvertedResidual(nn.Module):
    """Widen fourfold, filter each channel, narrow; B × C × H × W stays as it is."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        width = channels * expansion
        self.widen = nn.Conv2d(channels, width, 1)
        self.filter = _filters(width)
        self.narrow = nn.Conv2d(width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.gelu(self.filter(F.gelu(self.widen(x))))
        return F.gelu(x + self.narrow(inner))


class Merging(nn.Module):
    """B × C × H × W to B × C' × H/stride × W/stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(inputs, outputs, 1)
        self.filter = _filters(outputs, stride)
        self.mix = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(F.gelu(self.filter(F.gelu(self.widen(x)))))


class WindowAttention(nn.Module):
    """Attention among the pixels of each window, which lie side by side; a learned bias for every distance."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        # |dy| · window + |dx| of two pixels: row of the bias.
        self.biases = nn.Parameter(torch.zeros(heads, window * window))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        y, x = y.flatten(), x.flatten()
        apart = (y[:, None] - y).abs() * window + (x[:, None] - x).abs()
        self.apart: torch.Tensor
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """B × H × W × C, of any height and width: windows beyond the edge see zeros there."""
        batch, height, width, channels = x.shape
        side = self.window
        down, across = -height % side, -width % side
        if down or across:
            x = F.pad(x, (0, 0, 0, across, 0, down))
        rows, columns = (height + down) // side, (width + across) // side
        x = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        x = self._within(x.reshape(batch * rows * columns, side * side, channels))
        x = x.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(batch, height + down, width + across, channels)[:, :height, :width]

    def _within(self, x: torch.Tensor) -> torch.Tensor:
        windows, pixels, channels = x.shape
        # A head's query, key and value follow one another.
        qkv = self.qkv(self.norm(x)).view(windows, pixels, self.heads, 3, channels // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        bias = self.biases[:, self.apart].to(query.dtype)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(x.transpose(1, 2).reshape(windows, pixels, channels))


class Block(nn.Module):
    """Window attention, a filter of each channel, two layers for each pixel. B × C × H × W stays as it is."""

    def __init__(self, channels: int, heads: int, window: int, expansion: int = 4) -> None:
        super().__init__()
        self.attention = WindowAttention(channels, heads, window)
        self.filter = _filters(channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, channels * expansion)
        self.narrow = nn.Linear(channels * expansion, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        x = x + self.attention(x)
        x = self.filter(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.narrow(F.gelu(self.widen(self.norm(x))))
        return x.permute(0, 3, 1, 2)


class TinyViTTrunk(nn.Module):
    """B × 3 × S × S (S a multiple of 16) to a single map of features at stride 16, B × C × S/16 × S/16.

    channels, depths: of the four stages, the last two of which have stride 16. heads, windows: of the last three; the
    first has no attention.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (4, 5, 10),
        windows: Sequence[int] = (7, 14, 7),
    ) -> None:
        super().__init__()
        first = channels[0]
        self.stem = nn.Sequential(nn.Conv2d(3, first // 2, 3, 2, 1), nn.GELU(), nn.Conv2d(first // 2, first, 3, 2, 1))
        self.stages = nn.ModuleList([nn.Sequential(*(InvertedResidual(first) for _ in range(depths[0])))])
        for width, depth, head_count, window in zip(channels[1:], depths[1:], heads, windows, strict=True):
            self.stages.append(nn.Sequential(*(Block(width, head_count, window) for _ in range(depth))))
        self.merging = nn.ModuleList(
            Merging(before, after, stride)
            for before, after, stride in zip(channels[:-1], channels[1:], (2, 2, 1), strict=True)
        )
        self.channel_list = [channels[-1]]
        """Channels of what `forward` returns, as sam2's necks want them."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stages[0](self.stem(x))
        for merging, stage in zip(self.merging, self.stages[1:], strict=True):
            x = stage(merging(x))
        return [x]


class ChannelNorm(nn.Module):
    """Layer norm over the channels of B × C × H × W, in float32: the neck's squares go beyond what float16 can hold."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1).float(), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return x.permute(0, 3, 1, 2)


class SamNeck(nn.Module):
    """The neck of SAM's image encoder, with the interface of sam2's necks.

    d_model: channels of the map that comes out. backbone_channel_list: of the trunk's only one.
    """

    def __init__(self, d_model: int, backbone_channel_list: Sequence[int]) -> None:
        super().__init__()
        self.d_model = d_model
        self.backbone_channel_list = list(backbone_channel_list)
        (channels,) = backbone_channel_list
        self.layers = nn.Sequential(
            nn.Conv2d(channels, d_model, 1, bias=False),
            ChannelNorm(d_model),
            nn.Conv2d(d_model, d_model, 3, padding=1, bias=False),
            ChannelNorm(d_model),
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The map, and its position encoding, which is for memories of videos: zeros."""
        out = self.layers(maps[-1])
        return [out], [out.new_zeros(()).expand_as(out)]
