"""Boxes, several clicks and masks as prompts for one mask: what asking again and `use_m2m` rely on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from training.loss import overlaps, pixel_loss
from training.prompts import LOGIT_STRIDE, Prompts

KINDS = ("box", "clicks", "mask")
_JITTER = 0.05  # of a box's width and height, by which its sides are off
_MORE_CLICKS = 4  # at most, beside the first one


@dataclass(frozen=True)
class OneMask:
    """points: B×P×N×2 pixels of the view, labels: B×P×N int32, as `network.decode` takes them.

    masks: Q×1×h×w logits, or None. truth: Q×h×w. valid: Q bool.
    """

    points: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None
    truth: torch.Tensor
    valid: torch.Tensor


def for_one_mask(
    kind: str,
    prompts: Prompts,
    rng: np.random.Generator,
    generator: torch.Generator,
    answers: torch.Tensor | None = None,
) -> OneMask:
    """A prompt of a kind (of KINDS) for one of each point's truths. answers: Q×K×h×w logits, for the kind "mask"."""
    every = torch.arange(len(prompts.truths), device=prompts.truths.device)
    chosen = torch.multinomial(prompts.valid.float() + 1e-6, 1, generator=generator)[:, 0]
    truth, valid = prompts.truths[every, chosen], prompts.valid.any(1)
    shape = prompts.points.shape[:2]
    masks = None
    points = prompts.points[:, :, None]
    label = torch.ones(*shape, 1, dtype=torch.int32, device=points.device)
    if kind == "box":
        points = _corners(truth, generator).view(*shape, 2, 2)
        label = torch.arange(2, 4, dtype=torch.int32, device=points.device).expand(*shape, 2)
    elif kind == "clicks":
        more = int(rng.integers(1, _MORE_CLICKS + 1))
        weights = (truth > 0.5).flatten(1).float() + 1e-9
        cells = torch.multinomial(weights, more, replacement=True, generator=generator)
        width = truth.shape[-1]
        places = torch.stack([cells % width, cells // width], -1) * LOGIT_STRIDE + (LOGIT_STRIDE - 1) / 2
        points = torch.cat([points, places.view(*shape, more, 2)], 2)
        label = label.expand(*shape, 1 + more)
    else:
        assert answers is not None
        fitting = overlaps(answers.float().flatten(2), truth.flatten(1)[:, None])[..., 0].argmax(1)
        masks = answers[every, fitting][:, None].float()
    return OneMask(points, label, masks, truth, valid)


def _corners(truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Q×2×2 x, y of the first and the last pixel of each mask, a little off."""
    inside = truth > 0.5
    ends = []
    for axis in (1, 2):
        there = inside.any(axis)  # columns first
        size = there.shape[1]
        first = there.float().argmax(1)
        last = size - 1 - there.flip(1).float().argmax(1)
        ends.append(torch.stack([first, last + 1], 1) * float(LOGIT_STRIDE))
    x, y = ends
    corners = torch.stack([x, y], -1)
    extent = (corners[:, 1] - corners[:, 0])[:, None]
    off = torch.rand(corners.shape, generator=generator, device=corners.device) * 2 - 1
    return corners + _JITTER * extent * off - 0.5


def one_mask_losses(
    logits: torch.Tensor, predicted: torch.Tensor, one: OneMask, gamma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the mask and of the predicted IoU of the single-mask output. logits: Q×4×h×w. predicted: Q×4."""
    x, t = logits[:, 0].float().flatten(1), one.truth.flatten(1)
    with torch.no_grad():
        measured = overlaps(x[:, None], t[:, None])[:, 0, 0]
    share = one.valid.float() / one.valid.sum().clamp(min=1)
    mask = (pixel_loss(x, t, focal=20.0 if gamma else 5.0, gamma=gamma) * share).sum()
    return mask, ((predicted[:, 0].float() - measured) ** 2 * share).sum()
