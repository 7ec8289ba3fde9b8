"""The starter's trunk: sam2's trunk interface, at any size a multiple of 32."""

from __future__ import annotations

import pytest
import torch

from densecli.convolutional_trunk import ConvolutionalTrunk

STAGES = ((1, 8, 1, 1, 3), (2, 16, 2, 2, 3), (2, 24, 1, 2, 5), (2, 32, 1, 2, 3), (2, 32, 1, 1, 3), (2, 48, 1, 2, 3))


def test_maps_of_stride_4_8_and_16() -> None:
    trunk = ConvolutionalTrunk(stem=8, stages=STAGES, top_down=(16, 24, 32, 48)).eval()
    assert trunk.channel_list == [32, 24, 16], "coarsest first, as the neck wants them"
    with torch.no_grad():
        for height, width in ((64, 64), (96, 32)):
            maps = trunk(torch.randn(2, 3, height, width))
            assert [tuple(m.shape) for m in maps] == [
                (2, c, height // s, width // s) for c, s in ((16, 4), (24, 8), (32, 16))
            ]


def test_fine_maps_know_what_is_far_away() -> None:
    """Top-down features: a change in one corner reaches the finest map beyond what its own convolutions see."""
    torch.manual_seed(0)
    trunk = ConvolutionalTrunk(stem=8, stages=STAGES, top_down=(16, 24, 32, 48)).eval()
    image = torch.randn(1, 3, 256, 256)
    changed = image.clone()
    changed[..., :32, :32] += 1
    with torch.no_grad():
        difference = (trunk(image)[0] - trunk(changed)[0]).abs().amax((0, 1))
    assert difference[24:, 24:].max() > 0


def test_stages_must_end_at_stride_32() -> None:
    with pytest.raises(ValueError, match="stride 8"):
        ConvolutionalTrunk(stages=STAGES[:3])
