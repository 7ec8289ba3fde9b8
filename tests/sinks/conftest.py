"""A small segmentation made by hand, whose every pixel is known."""

from __future__ import annotations

import numpy as np
import pytest

from densecli.masks import Mask, Segmentation, encode_rle


def mask_of(pixels: np.ndarray, mask_id: int) -> Mask:
    """The Mask of H×W bool."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    x, y, w, h = int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    return Mask(
        id=mask_id,
        area=int(pixels.sum()),
        bbox=(x, y, w, h),
        predicted_iou=0.9,
        stability_score=0.95,
        point_coords=((x + 0.5, y + 0.5),),
        crop_box=(0, 0, pixels.shape[1], pixels.shape[0]),
        segmentation=encode_rle(pixels),
        window_counts=encode_rle(pixels[y : y + h, x : x + w])["counts"].encode(),
    )


def segmentation_of(image: np.ndarray, masks: list[np.ndarray]) -> Segmentation:
    """A segmentation of `image` with these masks, H×W bool by falling area."""
    height, width = image.shape[:2]
    return Segmentation(
        pixels=image,
        masks=[mask_of(mask, number) for number, mask in enumerate(masks, 1)],
        image={"path": "desk.png", "width": width, "height": height, "sha256": "0" * 64},
        model={"name": "starter", "sha256": "0" * 64, "device": "cpu", "precision": "fp32"},
        preset={"name": "dense", "parameters": {}},
        funnel={"candidates": 3, "masks": len(masks)},
        points=1,
        seconds={"load": 0.0},
        peak_memory_mb=1,
    )


@pytest.fixture
def masks() -> list[np.ndarray]:
    """Three masks of 12×20: a big one with a hole, a smaller one half over it, and one pixel in the last corner."""
    big, small, corner = (np.zeros((12, 20), dtype=bool) for _ in range(3))
    big[1:9, 2:14] = True
    big[3:5, 4:6] = False
    small[6:11, 10:17] = True
    corner[11, 19] = True
    return [big, small, corner]


@pytest.fixture
def image() -> np.ndarray:
    """12×20×3 uint8 RGB noise."""
    return np.random.default_rng(5).integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.fixture
def segmentation(image: np.ndarray, masks: list[np.ndarray]) -> Segmentation:
    return segmentation_of(image, masks)


@pytest.fixture
def empty(image: np.ndarray) -> Segmentation:
    return segmentation_of(image, [])
