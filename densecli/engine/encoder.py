"""Image to features: resize, normalise, run the image encoder, once per crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

# ImageNet statistics, as in sam2.utils.transforms.SAM2Transforms.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_STRIP_PIXELS = 4_000_000  # pixels that are float32 at one time while resizing: 48 MB
# Beyond so many times the model's input a height is very tall: its rows, resized, are 100 MB for an official one.
_TALL = 8


@dataclass(frozen=True)
class Features:
    """What the decoder needs of one crop.

    embedding: 1 × C × h × w, the image embedding (no_mem_embed added, as in SAM2ImagePredictor.set_image).
    high_res: feature maps of stride 4 and 8 after conv_s0 and conv_s1, or empty where the model uses none.
    """

    embedding: torch.Tensor
    high_res: tuple[torch.Tensor, ...]


def model_input(pixels: np.ndarray, size: int, device: torch.device) -> torch.Tensor:
    """Resize H×W×3 uint8 RGB to the model's 1×3×size×size float32, normalised.

    The same anti-aliased bilinear filter as the reference (torchvision Resize on a float tensor), first along
    rows, then along columns; the first pass goes in strips so that no float copy of the whole image is made. A strip
    goes to a GPU as uint8 by way of pinned memory, while the one before it is still being resized. A very tall picture
    goes lying on its side, which gives the same but for rounding: rows of its height would be many times the picture.
    """
    if device.type == "mps":  # where PyTorch before 2.7 has no such resizing
        return model_input(pixels, size, torch.device("cpu")).to(device)
    lying = pixels.shape[0] > max(pixels.shape[1], _TALL * size)
    if lying:  # and not the passes in the other order: PyTorch (2.14) resizes a single column wrongly
        pixels = pixels.swapaxes(0, 1)
    height, width = pixels.shape[:2]
    narrow = torch.empty(1, 3, height, size, device=device)
    # Of a strip of a narrow picture, what it becomes is the larger.
    rows_per_strip = max(1, _STRIP_PIXELS // max(width, size))
    for top in range(0, height, rows_per_strip):
        strip = _uploaded(pixels[top : top + rows_per_strip], device)
        strip = strip.permute(2, 0, 1)[None].to(torch.float32).div_(255)
        narrow[:, :, top : top + rows_per_strip] = _resized(strip, strip.shape[2], size)
    resized = _resized(narrow, size, size)
    if lying:
        resized = resized.transpose(2, 3).contiguous()
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        resized[:, channel].sub_(mean).div_(std)
    return resized


def _resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=True)


def _uploaded(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy of uint8 pixels on the device: on CUDA under way when this returns, elsewhere there."""
    host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    host.numpy()[...] = pixels
    # The allocator of pinned memory gives it to nobody else before the copy is done.
    return host.to(device, non_blocking=device.type == "cuda")


def encode(model: SAM2Base, pixels: np.ndarray, device: torch.device, dtype: torch.dtype) -> Features:
    """Features of one crop, H×W×3 uint8 RGB. Feature sizes come from the model, whatever its input size is."""
    image = model_input(pixels, model.image_size, device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        backbone = model.forward_image(image)
    return features_of(model, backbone["backbone_fpn"][-model.num_feature_levels :])


def cast_products(encoder: torch.nn.Module, dtype: torch.dtype) -> None:
    """Weights of an image encoder's linear layers and convolutions in `dtype`, in place.

    To these autocast would cast them for every image: the same numbers, in half the memory. Norms, and whatever is not
    multiplied, stay float32, so the encoder must run under autocast from then on.
    """
    for module in encoder.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.to(dtype)


def features_of(model: SAM2Base, maps: Sequence[torch.Tensor]) -> Features:
    """Features of the image encoder's maps, the finest first."""
    embedding = maps[-1]
    if model.directly_add_no_mem_embed:
        embedding = embedding + model.no_mem_embed.transpose(1, 2)[..., None]
    return Features(embedding=embedding, high_res=tuple(maps[:-1]))
