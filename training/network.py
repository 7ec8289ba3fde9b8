"""The network in training: built from its config, run at any resolution, with the official decoder (autograd)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

CONFIG = Path(__file__).with_name("starter.yaml")
STRIDE = 32


def build(config: Path = CONFIG) -> nn.Module:
    """A SAM2Base with random weights. The same as densecli.model builds, without what only a command needs."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    network = instantiate(OmegaConf.load(config).model, _recursive_=True)
    # Of use to memory attention only, and slow.
    network.image_encoder.neck.position_encoding.forward = _no_position_encoding
    return network


def _no_position_encoding(x: torch.Tensor) -> torch.Tensor:
    return x.new_zeros(1)


def parameters_in_millions(network: nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def set_resolution(network: nn.Module, side: int) -> None:
    """Make the prompt encoder take points in pixels of a view of this side, a multiple of 32."""
    if side % STRIDE:
        raise ValueError(f"a view of {side} pixels: the side must be a multiple of {STRIDE}")
    prompts = network.sam_prompt_encoder
    prompts.image_embedding_size = (side // 16, side // 16)
    prompts.input_image_size = (side, side)
    prompts.mask_input_size = (side // 4, side // 4)


def encode(network: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps of stride 4, 8 and 16, as `densecli.engine.encoder.encode` makes them."""
    fine, middle, coarse = network.forward_image(pixels)["backbone_fpn"]
    return [fine, middle, coarse + network.no_mem_embed.view(1, -1, 1, 1)]


def decode(
    network: nn.Module,
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
    count = points.shape[1]
    encoder = network.sam_prompt_encoder
    sparse, dense = encoder(points=(points.flatten(0, 1), labels.flatten(0, 1)), boxes=None, masks=masks)
    fine, middle, coarse = (f.repeat_interleave(count, 0) for f in features)
    logits, predicted, _, _ = network.sam_mask_decoder.predict_masks(
        image_embeddings=coarse,
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine, middle],
    )
    return logits, predicted
