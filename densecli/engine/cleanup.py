"""Holes, islands and areas in pixels of the original image, the same on every device.

Meta's `min_mask_region_area` goes to a CUDA-only step on the low-resolution logits; this is what its documentation
says instead: connected regions (8-connected, as in sam2.utils.amg.remove_small_regions) of the final masks.
"""

from __future__ import annotations

import cv2
import numpy as np


def remove_small_regions(
    x: int, y: int, mask: np.ndarray, size: tuple[int, int], min_area: int
) -> tuple[int, int, np.ndarray, bool]:
    """Fill holes, then drop islands, smaller than `min_area` pixels.

    x, y, mask: position and h×w bool window that holds the whole mask. size: (height, width) of the image; the
    background outside of the window counts for what is a hole. Returns the new x, y, window (trimmed to the mask's
    box; without elements where nothing is left) and whether anything changed.
    """
    if min_area <= 1 or not mask.size:
        return x, y, mask, False
    x, y, work = _with_margin(x, y, mask, size, min_area)
    background = ~work
    small = _small_regions(background, min_area, ignore=_outside(work.shape, x, y, size))
    filled = work | small if small is not None else work
    islands = _small_regions(filled, min_area)
    kept = filled & ~islands if islands is not None else filled
    if small is None and islands is None:
        return x, y, work, False
    return (*_trim(x, y, kept), True)


def _with_margin(x: int, y: int, mask: np.ndarray, size: tuple[int, int], min_area: int) -> tuple[int, int, np.ndarray]:
    """The window with one more pixel on every side where the image has one: it joins all outside background.

    Where the image goes on for less than `min_area` pixels beyond the window, the whole image is used: that
    strip itself could be a small region.
    """
    height, width = size
    h, w = mask.shape
    beyond = [x * height, (width - x - w) * height, y * width, (height - y - h) * width]
    if any(0 < b < min_area for b in beyond):
        whole = np.zeros(size, dtype=bool)
        whole[y : y + h, x : x + w] = mask
        return 0, 0, whole
    left, top = min(x, 1), min(y, 1)
    right, bottom = min(width - x - w, 1), min(height - y - h, 1)
    return x - left, y - top, np.pad(mask, ((top, bottom), (left, right)))


def _outside(shape: tuple[int, ...], x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    """h×w bool: pixels of the margin, whose region goes on beyond the window and so is not small."""
    outside = np.zeros(shape, dtype=bool)
    h, w = shape
    outside[0, :] |= y > 0
    outside[-1, :] |= y + h < size[0]
    outside[:, 0] |= x > 0
    outside[:, -1] |= x + w < size[1]
    return outside


def _small_regions(mask: np.ndarray, min_area: int, ignore: np.ndarray | None = None) -> np.ndarray | None:
    """h×w bool of the 8-connected regions of `mask` below `min_area` pixels (none of `ignore`), or None."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < min_area
    small[0] = False
    if ignore is not None:
        small[np.unique(labels[ignore])] = False
    return small[labels] if small.any() else None


def _trim(x: int, y: int, mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, np.zeros((0, 0), dtype=bool)
    top, left = int(rows[0]), int(columns[0])
    return x + left, y + top, mask[top : rows[-1] + 1, left : columns[-1] + 1]
