"""SAM's losses: the outputs of a point against all its truths, predicted IoU, and similarity of features."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

_PERMUTATIONS = list(itertools.permutations(range(3)))  # output of truth 0, 1, 2
_UNASSIGNED = 0.1  # weight of an output that no truth was given to: it follows the nearest one, weakly
_SINGLE = 0.3  # weight of the single-mask output
# On photos a mask that nobody drew may be right all the same: how much such an output's predicted IoU counts, and
# up to which IoU with the drawn ones it is taken for one of these.
_UNDRAWN, _KNOWN = 0.15, 0.7


@dataclass(frozen=True)
class Losses:
    """Scalars, with gradient: mask, iou. Without: best, mean IoU of the best of the three outputs with any truth.

    error: mean |predicted − measured IoU|.
    """

    mask: torch.Tensor
    iou: torch.Tensor
    best: torch.Tensor
    error: torch.Tensor


def pixel_loss(
    logits: torch.Tensor, truths: torch.Tensor, *, focal: float = 20.0, gamma: float = 2.0, balance: float = 0.0
) -> torch.Tensor:
    """Focal + dice loss over the last axis, 20 to 1 as SAM (Kirillov et al. 2023); truths may be soft.

    gamma: of the focal loss (Lin et al. 2017); 0 is plain cross-entropy, for crisper logits. balance: share of a loss
    in which inside and outside weigh the same, so that "nothing anywhere" is no way out before prompts are understood.
    """
    p = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truths, reduction="none")
    dice = 1 - (2 * (p * truths).sum(-1) + 1) / (p.sum(-1) + truths.sum(-1) + 1)
    weighted = entropy * (p.detach() - truths).abs() ** gamma if gamma else entropy
    loss = focal * weighted.mean(-1) + dice
    if balance:
        inside = (entropy * truths).sum(-1) / truths.sum(-1).clamp(min=1)
        outside = (entropy * (1 - truths)).sum(-1) / (1 - truths).sum(-1).clamp(min=1)
        loss = (1 - balance) * loss + balance * (2 * (inside + outside) + 0.3 * dice)
    return loss


def overlaps(logits: torch.Tensor, truths: torch.Tensor) -> torch.Tensor:
    """IoU of thresholded masks: Q×K×N logits and Q×G×N truths to Q×K×G."""
    a, b = (logits > 0).float(), (truths > 0.5).float()
    inter = a @ b.transpose(1, 2)
    return inter / (a.sum(-1)[:, :, None] + b.sum(-1)[:, None] - inter).clamp(min=1)


def point_losses(
    logits: torch.Tensor,
    predicted: torch.Tensor,
    truths: torch.Tensor,
    valid: torch.Tensor,
    photo: torch.Tensor,
    *,
    gamma: float = 2.0,
    balance: float = 0.0,
) -> Losses:
    """logits Q×4×h×w and predicted IoU Q×4 of the single-mask output and the three; truths Q×3×h×w; valid Q×3.

    Each valid truth gets an output of its own among the three, in the cheapest way. Predicted IoU is held against the
    measured IoU of the output's own mask with the truth it fits best, whichever that is.
    """
    x, t = logits.float().flatten(2), truths.flatten(2)
    predicted = predicted.float()
    with torch.no_grad():
        target, weight = _assigned(x, t, valid)
        measured = overlaps(x, t).masked_fill(~valid[:, None], 0).max(-1).values
    chosen = torch.gather(t, 1, target[:, :, None].expand(-1, -1, t.shape[-1]))
    focal = 20.0 if gamma else 5.0
    mask = (pixel_loss(x, chosen, focal=focal, gamma=gamma, balance=balance) * weight).sum() / weight.sum().clamp(
        min=1e-6
    )
    doubtful = photo[:, None] & (weight < 0.2) & (measured < _KNOWN)
    trust = torch.where(doubtful, _UNDRAWN, 1.0) * valid.any(1, keepdim=True)
    difference = predicted - measured
    iou = (trust * difference**2).mean()
    return Losses(mask, iou, measured[:, 1:].max(1).values.mean(), difference.detach().abs().mean())


def _assigned(x: torch.Tensor, t: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth (Q×4 int64) and weight (Q×4) of each output."""
    p = torch.sigmoid(x)
    entropy = (F.softplus(x).sum(-1)[:, :, None] - x @ t.transpose(1, 2)) / x.shape[-1]
    dice = 1 - (2 * (p @ t.transpose(1, 2)) + 1) / (p.sum(-1)[:, :, None] + t.sum(-1)[:, None] + 1)
    cost = 3 * entropy + dice  # Q×4×3
    matched = (cost[:, 1:] * valid[:, None]).transpose(1, 2)  # Q×truth×output; truths that are none cost nothing
    totals = torch.stack([matched[:, 0, a] + matched[:, 1, b] + matched[:, 2, c] for a, b, c in _PERMUTATIONS], 1)
    output_of = _permutations(x.device)[totals.argmin(1)]  # Q×3
    nearest = cost.masked_fill(~valid[:, None], 1e6).argmin(-1)  # Q×4
    weight = torch.full_like(nearest, _UNASSIGNED, dtype=x.dtype)
    weight[:, 0] = _SINGLE
    share = valid.sum(1).clamp(min=1).to(x.dtype).rsqrt()
    for g in range(valid.shape[1]):
        place = output_of[:, g, None] + 1
        given = valid[:, g, None]
        nearest.scatter_(1, place, torch.where(given, g, nearest.gather(1, place)))
        weight.scatter_(1, place, torch.where(given, share[:, None], weight.gather(1, place)))
    return nearest, weight * valid.any(1, keepdim=True)  # a point without a truth teaches nothing


@cache
def _permutations(device: torch.device) -> torch.Tensor:
    """Made once, as otherwise the host would wait for the GPU at every step."""
    return torch.tensor(_PERMUTATIONS, device=device)


def similarity_loss(
    features: list[torch.Tensor],
    points: torch.Tensor,
    truths: torch.Tensor,
    valid: torch.Tensor,
    scale: torch.Tensor,
    side: int,
) -> torch.Tensor:
    """At every level of features (B×C×h×w), a pixel resembles the point's pixel if both are in the finest truth.

    Trains the encoder without the detour through the decoder. points: B×P×2 pixels of a view of `side` pixels. scale:
    a factor and an offset a level, learned along and thrown away.
    """
    finest = valid.float().argmax(1)
    truth = truths[torch.arange(len(truths), device=truths.device), finest][:, None]
    grid = ((points + 0.5) / side * 2 - 1)[:, :, None]
    total = truth.new_zeros(())
    for level, feature in enumerate(features):
        centred = feature.float() - feature.float().mean((2, 3), keepdim=True)
        centred = F.normalize(centred, dim=1, eps=1e-3)
        at = F.normalize(F.grid_sample(centred, grid, align_corners=False)[..., 0], dim=1, eps=1e-3)
        alike = torch.einsum("bcp,bchw->bphw", at, centred).flatten(0, 1) * scale[level, 0] + scale[level, 1]
        t = F.adaptive_avg_pool2d(truth, (alike.shape[-2], alike.shape[-1]))[:, 0]
        entropy = F.binary_cross_entropy_with_logits(alike, t, reduction="none").flatten(1)
        t = t.flatten(1)
        inside = (entropy * t).sum(1) / t.sum(1).clamp(min=1)
        outside = (entropy * (1 - t)).sum(1) / (1 - t).sum(1).clamp(min=1)
        total = total + (inside + outside).mean()
    return total / len(features)
