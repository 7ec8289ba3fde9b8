"""Augmentation on the training device: crops, flips, turns, copy and paste, colour, darkness, blur, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

from densecli.engine.encoder import MEAN, STD
from training.scenes.labels import OBJECT
from training.store import Batch

_PASTE_SHARE = 0.35
_PASTED_AREA = (0.004, 0.3)  # of the view


@dataclass(frozen=True)
class Views:
    """What the network sees and what is true there.

    pixels: B×3×R×R float32, normalised as in the engine. atoms: B×R×R int64, rows of `tables`, B×A×4 int64.
    photo: B bool.
    """

    pixels: torch.Tensor
    atoms: torch.Tensor
    tables: torch.Tensor
    photo: torch.Tensor


def plain(batch: Batch, resolution: int) -> Views:
    """Views without any augmentation, for measuring."""
    batch_size = len(batch.photo)
    whole = torch.eye(2, 3, device=batch.pixels.device).expand(batch_size, -1, -1)
    pixels, atoms = _cropped(batch, whole, resolution)
    return Views(_normalised(pixels), atoms, batch.tables.long(), batch.photo)


def augmented(batch: Batch, resolution: int, generator: torch.Generator) -> Views:
    """Random views of a batch, `resolution` pixels a side, at most that of the scenes."""
    pixels, atoms = _cropped(batch, _frames(batch, resolution, generator), resolution)
    tables = batch.tables.long()
    pixels, atoms, tables, photo = _pasted(pixels, atoms, tables, batch.photo, generator)
    return Views(_normalised(_relit(pixels, generator)), atoms, tables, photo)


def _uniform(like: torch.Tensor, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """One number an image."""
    return torch.rand(len(like), generator=generator, device=like.device) * (high - low) + low


def _frames(batch: Batch, resolution: int, g: torch.Generator) -> torch.Tensor:
    """B×2×3 affine maps from the view to the scene, both from -1 to 1."""
    like = batch.photo
    side = batch.pixels.shape[1]
    # No smaller than what is still sharp at this resolution, give or take.
    smallest = min(0.6, max(0.3, 0.9 * resolution / side))
    share = torch.where(_uniform(like, g) < 0.3, torch.ones_like(_uniform(like, g)), _uniform(like, g, smallest, 1.0))
    stretch = torch.exp(torch.randn(len(like), generator=g, device=like.device) * 0.12)
    sx, sy = (share * stretch).clamp(max=1.0), (share / stretch).clamp(max=1.0)
    cx, cy = (1 - sx) * _uniform(like, g, -1, 1), (1 - sy) * _uniform(like, g, -1, 1)
    turn = torch.where(_uniform(like, g) < 0.3, _uniform(like, g, -0.25, 0.25), torch.zeros_like(sx))
    # Drawn scenes have no up and down that matters.
    quarter = torch.where(batch.photo, torch.zeros_like(sx), torch.floor(_uniform(like, g, 0, 4)) * (math.pi / 2))
    quarter = torch.where(_uniform(like, g) < 0.5, quarter, torch.zeros_like(quarter))
    cos, sin = torch.cos(turn + quarter), torch.sin(turn + quarter)
    flip = torch.where(_uniform(like, g) < 0.5, -1.0, 1.0)
    rows = [torch.stack([sx * cos * flip, -sx * sin, cx], 1), torch.stack([sy * sin * flip, sy * cos, cy], 1)]
    return torch.stack(rows, 1)


def _cropped(batch: Batch, frames: torch.Tensor, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels B×3×R×R in 0..1, filtered before they are thinned out, and atoms B×R×R. Beyond the border is a mirror."""
    side = batch.pixels.shape[1]
    if resolution > side:
        raise ValueError(f"views of {resolution} pixels cannot be cut from scenes of {side}")
    shape = [len(frames), 1, side, side]
    source = batch.pixels.permute(0, 3, 1, 2).float() / 255
    fine = F.grid_sample(
        source, F.affine_grid(frames, shape, align_corners=False), padding_mode="reflection", align_corners=False
    )
    pixels = F.interpolate(fine, (resolution, resolution), mode="area") if side > resolution else fine
    grid = F.affine_grid(frames, [len(frames), 1, resolution, resolution], align_corners=False)
    atoms = F.grid_sample(
        batch.atoms[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return pixels, atoms[:, 0].round().long()


def _pasted(
    pixels: torch.Tensor, atoms: torch.Tensor, tables: torch.Tensor, photo: torch.Tensor, g: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """An object of the previous image of the batch in front of some of the images.

    Its finer masks come along; what held it at home does not.
    """
    count, side = len(pixels), pixels.shape[-1]
    if count < 2:
        return pixels, atoms, tables, photo
    from_atoms, from_tables, from_pixels = atoms.roll(1, 0), tables.roll(1, 0), pixels.roll(1, 0)
    objects = torch.gather(from_tables[..., OBJECT], 1, from_atoms.flatten(1)).view_as(atoms)
    place = (_uniform(photo, g) * side * side).long().clamp(max=side * side - 1)
    chosen = objects.flatten(1).gather(1, place[:, None])
    mask = (objects == chosen[..., None]) & (chosen[..., None] > 0)
    area = mask.float().mean((1, 2))
    wanted = (_uniform(photo, g) < _PASTE_SHARE) & (area > _PASTED_AREA[0]) & (area < _PASTED_AREA[1])
    mask = mask & wanted[:, None, None]
    soft = F.avg_pool2d(mask[:, None].float(), 3, 1, 1)
    pixels = pixels + soft * (from_pixels - pixels)
    atoms = torch.where(mask, from_atoms + tables.shape[1], atoms)
    guests = from_tables.clone()
    guests[..., OBJECT + 1 :] = 0
    offset = tables.flatten(1).max(1).values.view(-1, 1, 1)
    guests = torch.where(guests > 0, guests + offset, guests)
    return pixels, atoms, torch.cat([tables, guests], 1), photo | (wanted & photo.roll(1, 0))


def _relit(pixels: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Colour, darkness, haze, blur and noise, each on some of the images; pixels in 0..1."""

    def maybe(share: float, low: float, high: float, otherwise: float) -> torch.Tensor:
        value = torch.where(_uniform(pixels, g) < share, _uniform(pixels, g, low, high), otherwise)
        return value.view(-1, 1, 1, 1)

    gain = 1 + 0.12 * torch.randn(len(pixels), 3, 1, 1, generator=g, device=pixels.device) * maybe(0.6, 0, 1, 0)
    pixels = pixels * gain
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * maybe(0.5, 0.0, 1.5, 1.0)
    pixels = (pixels - 0.5) * maybe(0.7, 0.5, 1.4, 1.0) + 0.5 + maybe(0.7, -0.12, 0.12, 0.0)
    pixels = pixels.clamp(0, 1) ** maybe(0.4, 0.6, 2.2, 1.0)
    pixels = pixels * maybe(0.12, 0.15, 0.6, 1.0)
    pixels = _blurred(pixels, maybe(0.25, 0.4, 1.6, 0.01).flatten())
    strength = maybe(0.35, 0.004, 0.06, 0.0)
    noise = torch.randn(pixels.shape, generator=g, device=pixels.device)
    return (pixels + strength * noise).clamp(0, 1)


def _blurred(pixels: torch.Tensor, sigma: torch.Tensor, reach: int = 3) -> torch.Tensor:
    """Gaussian blur with one sigma an image, along rows, then columns."""
    x = torch.arange(-reach, reach + 1, device=pixels.device)
    kernel = torch.softmax(-(x[None] ** 2) / (2 * sigma[:, None] ** 2), 1)
    kernel = kernel.repeat_interleave(pixels.shape[1], 0)
    flat = pixels.flatten(0, 1)[None]
    flat = F.pad(flat, (reach, reach, reach, reach), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return flat.view_as(pixels)


def _normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = _constant(MEAN, pixels.device), _constant(STD, pixels.device)
    return (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Made once: a tensor that is made from numbers would let the host wait for the GPU at every step."""
    return torch.tensor(values, device=device)
