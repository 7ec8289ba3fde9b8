"""The averaged weights as float16 safetensors beside the config that densecli builds the network from."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training.augment import plain
from training.loss import overlaps
from training.network import build, decode, encode, set_resolution
from training.prompts import prompts_for
from training.store import SceneStore

_FACTOR = "logit_factor"  # in the file's metadata
MAX_BYTES = 24_000_000
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
# So many of the good masks should pass SAM's usual stability threshold; how many bad ones do as well is shown.
_STABLE, _OFFSET, _GOOD, _BAD, _WANTED = 0.90, 1.0, 0.8, 0.5, 0.9


def sharpened(weights: dict[str, torch.Tensor], factor: float) -> dict[str, torch.Tensor]:
    """Weights whose mask logits are `factor` times as large: the same masks, crisper (thresholds of masks are 0).

    A mask prompt comes back in that scale, so the first layer that sees it divides.
    """
    out = dict(weights)
    for name, value in weights.items():
        if "output_hypernetworks_mlps" in name and ".layers.2." in name:
            out[name] = value * factor
        elif name == "sam_prompt_encoder.mask_downscaling.0.weight":
            out[name] = value / factor
    return out


def export(weights: dict[str, torch.Tensor], config: Path, folder: Path, factor: float = 1.0) -> Path:
    """Write starter.safetensors, sharpened by `factor`, and starter.yaml.

    Raises ValueError where the file is larger than the repository takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "starter.safetensors"
    crisp = sharpened(weights, factor)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in crisp.items()}
    save_file(half, path, {_FACTOR: str(factor)})
    path.chmod(0o644)
    shutil.copyfile(config, folder / "starter.yaml")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}; make the network smaller")
    return path


def to_go_on_from(path: Path) -> dict[str, torch.Tensor]:
    """Float32 weights of an exported file as they were trained: losses want logits that are not sharpened."""
    with safe_open(path, "pt") as file:
        factor = float((file.metadata() or {}).get(_FACTOR, 1.0))
    weights = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    return sharpened(weights, 1 / factor)


@torch.no_grad()
def choose_factor(
    weights: dict[str, torch.Tensor],
    config: Path,
    held_out: SceneStore,
    device: torch.device,
    scenes: int = 32,
    points: int = 16,
) -> tuple[float, list[dict[str, float]]]:
    """The smallest of FACTORS with which 90 % of good masks (IoU > 0.8) are stable, and a row for each factor.

    Measured on scenes that were never trained on, at the size the network is used at, with the stability score of
    Meta's generator (offset 1, threshold 0.9) on the low-resolution logits.
    """
    network = build(config).to(device).eval()
    network.load_state_dict(weights)
    set_resolution(network, network.image_size)
    generator = torch.Generator(device).manual_seed(0)
    batch = held_out.first(scenes)
    logits, measured = [], []
    for i in range(len(batch.photo)):
        one = type(batch)(*(getattr(batch, f)[i : i + 1] for f in ("pixels", "atoms", "tables", "photo")))
        views = plain(one, network.image_size)
        prompts = prompts_for(views, points, generator)
        x, _ = decode(network, encode(network, views.pixels), prompts.points)
        x = x[:, 1:].flatten(2)
        iou = overlaps(x, prompts.truths.flatten(2)).masked_fill(~prompts.valid[:, None], 0).max(-1).values
        logits.append(x.flatten(0, 1).cpu())
        measured.append(iou.flatten().cpu())
    x, iou = torch.cat(logits), torch.cat(measured)
    rows = []
    for factor in FACTORS:
        inner, outer = ((x * factor > at).sum(1).float() for at in (_OFFSET, -_OFFSET))
        stable = inner / outer.clamp(min=1) >= _STABLE
        good, bad = (stable[iou > _GOOD].float().mean(), stable[iou < _BAD].float().mean())
        rows.append({"factor": factor, "good": float(good.nan_to_num()), "bad": float(bad.nan_to_num())})
    if not (iou > _GOOD).any():
        return 1.0, rows  # nothing to go by
    return next((row["factor"] for row in rows if row["good"] >= _WANTED), FACTORS[-1]), rows
