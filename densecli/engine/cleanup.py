"""Holes, islands and areas in pixels of the original image, the same on every device.

Meta's `min_mask_region_area` goes to a CUDA-only step on the low-resolution logits; this is what its documentation
says instead: connected regions (8-connected, as in sam2.utils.amg.remove_small_regions) of the final masks.
"""

from __future__ import annotations

import cv2
import numpy as np

from densecli.engine.compiled import kernels
from densecli.masks import Runs


def remove_small_regions(
    x: int, y: int, runs: Runs, size: tuple[int, int], min_area: int, *, compiled: bool = True
) -> tuple[int, int, Runs, bool]:
    """Fill holes, then drop islands, smaller than `min_area` pixels.

    x, y, runs: a mask and its place in an image of `size` (height, width), whose whole background counts for what is a
    hole. Returns the new mask in the same form (its frame trimmed to its box) and whether anything changed. The cost of
    the compiled loops is that of the outline, of the pictures used without them that of the box.
    """
    min_area = min(min_area, size[0] * size[1] + 1)  # no region is larger; compiled loops take no number of any size
    if min_area <= 1 or not len(runs.column):
        return x, y, runs, False
    loops = kernels() if compiled else None
    if loops is None:
        return _with_pictures(x, y, runs, size, min_area)
    column, top, bottom = runs.column + x, runs.top + y, runs.bottom + y
    new = loops.remove_small_regions(column, top, bottom, column[0], column[-1], *size, min_area)
    changed = len(new[0]) != len(column) or any(
        not np.array_equal(a, b) for a, b in zip(new, (column, top, bottom), strict=True)
    )
    return (*Runs(size, *new).trimmed(), True) if changed else (x, y, runs, False)


def _with_pictures(x: int, y: int, runs: Runs, size: tuple[int, int], min_area: int) -> tuple[int, int, Runs, bool]:
    at_x, at_y, work = _with_margin(x, y, runs.decode(), size, min_area)
    small = _small_regions(~work, min_area, ignore=_outside(work.shape, at_x, at_y, size))
    filled = work | small if small is not None else work
    islands = _small_regions(filled, min_area)
    kept = filled & ~islands if islands is not None else filled
    if small is None and islands is None:
        return x, y, runs, False
    left, up, new = Runs.of(kept).trimmed()
    return at_x + left, at_y + up, new, True


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
