"""Points to ask about, and every mask that is a right answer there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.augment import Views
from training.scenes.labels import LEVELS, MAX_ATOMS, OBJECT

TRUTHS = 3  # as many as the decoder has outputs for one point
LOGIT_STRIDE = 4
_MIN_AREA, _MAX_SHARE = 6, 0.95  # in cells of the logits; of the view
_SAME = 0.9  # IoU above which two truths are one
# Points fall anywhere, as those of a grid do; but this share looks for small masks.
_SMALL_SHARE = 0.25


@dataclass(frozen=True)
class Prompts:
    """points: B×P×2 float32 x, y in pixels of the view; the prompt encoder adds the half to a pixel's centre.

    truths: Q×3×h×w float32, share of each cell of the logits that the mask covers, Q = B·P. valid: Q×3 bool.
    photo: Q bool.
    """

    points: torch.Tensor
    truths: torch.Tensor
    valid: torch.Tensor
    photo: torch.Tensor


def prompts_for(views: Views, count: int, generator: torch.Generator) -> Prompts:
    """`count` points an image, each on a mask where there is one, and their truths from fine to coarse."""
    side = views.atoms.shape[-1]
    flat = views.atoms.flatten(1)
    area = torch.zeros(views.tables.shape[:2], device=flat.device)
    area.scatter_add_(1, flat, torch.ones_like(flat, dtype=area.dtype))
    on_mask = _asked_for(views.tables, area, side).gather(1, flat).float()
    small = on_mask * area.clamp(min=1).rsqrt().gather(1, flat)
    even = on_mask / on_mask.sum(1, keepdim=True).clamp(min=1)
    small = small / small.sum(1, keepdim=True).clamp(min=1e-9)
    weights = (1 - _SMALL_SHARE) * even + _SMALL_SHARE * small + 1e-12
    cells = torch.multinomial(weights, count, replacement=True, generator=generator)
    points = torch.stack([cells % side, cells // side], -1).float()
    truths, valid = _truths_at(views, flat.gather(1, cells))
    truths, valid = _three(truths, valid, generator)
    return Prompts(points, truths, valid, views.photo.repeat_interleave(count))


def _asked_for(tables: torch.Tensor, area: torch.Tensor, side: int) -> torch.Tensor:
    """B×A bool: atoms that lie in a mask that is neither too small nor nearly the whole view. area: of each atom."""
    found = torch.zeros_like(area, dtype=torch.bool)
    for level in range(len(LEVELS)):
        ids = tables[..., level]
        total = torch.zeros(len(ids), 2 * MAX_ATOMS + 1, device=ids.device).scatter_add_(1, ids, area)
        share = total.gather(1, ids)  # of the atom's mask
        smallest = _MIN_AREA * LOGIT_STRIDE**2
        found |= (ids > 0) & (share >= smallest) & (share <= _MAX_SHARE * side * side)
    return found


def _truths_at(views: Views, atoms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All levels' masks at the given atoms (B×P): Q×4×h×w coverage, Q×4 whether there is such a mask."""
    flat = views.atoms.flatten(1)
    counted = torch.float16 if flat.device.type == "cuda" else torch.float32  # sixteenths are exact in either
    masks, there = [], []
    for level in range(len(LEVELS)):
        names = views.tables[..., level]
        ids = names.gather(1, atoms)  # B×P
        everywhere = names.gather(1, flat).view(views.atoms.shape)  # B×R×R
        same = everywhere[:, None] == ids[..., None, None]
        masks.append(F.avg_pool2d(same.to(counted), LOGIT_STRIDE).float().flatten(0, 1))
        there.append(ids.flatten() > 0)
    truths, valid = torch.stack(masks, 1), torch.stack(there, 1)
    share = truths.flatten(2).sum(-1)
    valid &= (share >= _MIN_AREA) & (share <= _MAX_SHARE * truths.shape[-1] * truths.shape[-2])
    return truths, valid


def _three(truths: torch.Tensor, valid: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """At most three different ones, in the order of their levels; the object stays where there are four."""
    hard = (truths > 0.5).flatten(2).float()
    inter = hard @ hard.transpose(1, 2)
    size = torch.diagonal(inter, dim1=1, dim2=2)
    iou = inter / (size[:, :, None] + size[:, None] - inter).clamp(min=1)
    valid = valid.clone()
    for finer in range(len(LEVELS)):
        # A mask that a coarser level has as well is the coarser one.
        twin = (iou[:, finer, finer + 1 :] > _SAME) & valid[:, finer + 1 :]
        valid[:, finer] &= ~twin.any(1)
    rank = torch.rand(valid.shape, generator=generator, device=valid.device)
    rank[:, OBJECT] += 1
    rank = rank.masked_fill(~valid, -1.0)
    order = rank.topk(TRUTHS, 1).indices.sort(1).values
    picked = truths.gather(1, order[:, :, None, None].expand(-1, -1, *truths.shape[2:]))
    return picked, valid.gather(1, order)
