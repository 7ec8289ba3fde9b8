"""The network in training: built from its config, run at any resolution, its decoder laid out for speed (autograd)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from training.two_way import layer_norm, transformed

if TYPE_CHECKING:
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam2_base import SAM2Base

CONFIG = Path(__file__).with_name("from_scratch.yaml")
STRIDE = 32


def build(config: Path = CONFIG) -> SAM2Base:
    """A SAM2Base with random weights. The same as densecli.model builds, without what only a command needs."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    network = instantiate(OmegaConf.load(config).model, _recursive_=True)
    # Of use to memory attention only, and slow.
    network.image_encoder.neck.position_encoding.forward = _no_position_encoding
    return network


def fold_norms(part: nn.Module) -> None:
    """Let the norms behind convolutions, in a part of the trunk, work as a factor of the weights and a bias.

    What they hold then stays as it is: a norm whose statistics are given is a fixed line, and passing over all pixels
    to apply it, and again to learn it, took a tenth of a step on a GPU.
    """
    for sequence in [m for m in part.modules() if isinstance(m, nn.Sequential)]:
        steps: list[Any] = []
        for module in sequence:
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None and module.running_mean is not None
                with torch.no_grad():
                    factor = module.weight * (module.running_var + module.eps).rsqrt()
                    shift = module.bias - module.running_mean * factor
                steps[-1] = _Folded(steps[-1], factor.view(-1, 1, 1, 1), shift)
                module.requires_grad_(False)
            else:
                steps.append(module)
        sequence.forward = partial(_in_turn, steps)  # type: ignore[method-assign]  # its modules keep their names


class _Folded:
    """A convolution with the norm behind it; factor: C×1×1×1, shift: C."""

    def __init__(self, convolution: nn.Conv2d, factor: torch.Tensor, shift: torch.Tensor) -> None:
        self.convolution, self.factor, self.shift = convolution, factor, shift

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        c = self.convolution
        return F.conv2d(x, c.weight * self.factor, self.shift, c.stride, c.padding, c.dilation, c.groups)


def _in_turn(steps: Sequence[Any], x: torch.Tensor) -> torch.Tensor:
    for step in steps:
        x = step(x)
    return x


def _no_position_encoding(x: torch.Tensor) -> torch.Tensor:
    return x.new_zeros(1)


def parameters_in_millions(network: SAM2Base) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def set_resolution(network: SAM2Base, side: int) -> None:
    """Make the prompt encoder take points in pixels of a view of this side, a multiple of 32."""
    if side % STRIDE:
        raise ValueError(f"a view of {side} pixels: the side must be a multiple of {STRIDE}")
    prompts = network.sam_prompt_encoder
    prompts.image_embedding_size = (side // 16, side // 16)
    prompts.input_image_size = (side, side)
    prompts.mask_input_size = (side // 4, side // 4)


def encode(network: SAM2Base, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps of stride 4, 8 and 16, as `densecli.engine.encoder.encode` makes them."""
    fine, middle, coarse = network.forward_image(pixels)["backbone_fpn"]
    return [fine, middle, coarse + network.no_mem_embed.view(1, -1, 1, 1)]


def decode(
    network: SAM2Base,
    features: list[torch.Tensor],
    points: torch.Tensor,
    labels: torch.Tensor | None = None,
    masks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits Q×4×h×w and predicted IoU Q×4 of B×P×2 points (one positive click each), Q = B·P.

    points may be B×P×N×2 with labels B×P×N: 1 inside, 0 outside, 2 and 3 the corners of a box. masks: Q×1×h×w logits
    of an earlier answer to each.
    """
    if labels is None:
        points = points[:, :, None]
        labels = torch.ones(points.shape[:3], dtype=torch.int32, device=points.device)
    batch, count = points.shape[:2]
    encoder, decoder = network.sam_prompt_encoder, network.sam_mask_decoder
    sparse, dense = encoder(points=(points.flatten(0, 1), labels.flatten(0, 1)), boxes=None, masks=masks)
    fine, middle, coarse = features
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([tokens.expand(batch * count, -1, -1), sparse], 1)
    if masks is None:
        shared = (coarse + dense[:1]).flatten(2).transpose(1, 2)
        position = encoder.get_dense_pe()[0].flatten(1).t()
        answers, cells = transformed(decoder.transformer, shared, position, tokens)
    else:
        position = encoder.get_dense_pe().expand(batch * count, -1, -1, -1)
        answers, cells = decoder.transformer(coarse.repeat_interleave(count, 0) + dense, position, tokens)
    masks_of = [mlp(answers[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    pixels = _upscaled(decoder, cells.unflatten(0, (batch, count)), fine, middle)
    logits = pixels.flatten(2, 3) @ torch.stack(masks_of, 2).unflatten(0, (batch, count))
    logits = _as_pictures(logits.unflatten(2, (-1, 16)), coarse.shape[-1])
    return logits.flatten(0, 1), decoder.iou_prediction_head(answers[:, 0])


def _upscaled(decoder: MaskDecoder, cells: torch.Tensor, fine: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """The official `output_upscaling` of B×P×N×C cells, each cell's 4 × 4 pixels staying with it: B×P×N×16×C'.

    Both transposed convolutions have a stride as wide as their kernel, so they are products of matrices. Channels last
    and no pixel moved: a CPU spends a fifth less on a step.
    """
    first, norm, _, second, _ = decoder.output_upscaling
    side = fine.shape[-1] // 4
    x = cells @ first.weight.permute(0, 2, 3, 1).flatten(1)
    x = x.unflatten(-1, (4, -1)) + (_by_cell(middle, side, 2) + first.bias).to(x.dtype)[:, None]
    x = F.gelu(layer_norm(x, norm.weight, norm.bias, norm.eps))
    x = x @ second.weight.permute(0, 2, 3, 1).flatten(1)
    x = x.unflatten(-1, (4, -1)).flatten(-3, -2)
    return F.gelu(x + (_by_cell(fine, side, 4) + second.bias).to(x.dtype)[:, None])


def _by_cell(feature: torch.Tensor, side: int, pixels: int) -> torch.Tensor:
    """B×C×H×W to B×N×pixels²×C: N cells of `pixels` × `pixels`, in which quarters hold quarters."""
    halvings = pixels.bit_length() - 1
    split = [side] + [2] * halvings
    x = feature.unflatten(2, split).unflatten(-1, split)
    rows, columns = range(2, 3 + halvings), range(3 + halvings, 4 + 2 * halvings)
    x = x.permute(0, *(axis for pair in zip(rows, columns, strict=True) for axis in pair), 1)
    return x.flatten(3, -2).flatten(1, 2)


def _as_pictures(x: torch.Tensor, side: int) -> torch.Tensor:
    """B×P×N×16×K to B×P×K×4·side×4·side, the way back from `_by_cell`."""
    x = x.unflatten(3, (2, 2, 2, 2)).unflatten(2, (side, side))  # row, column, then halves and quarters of both
    x = x.permute(0, 1, 8, 2, 4, 6, 3, 5, 7)
    return x.flatten(6, 8).flatten(3, 5)
