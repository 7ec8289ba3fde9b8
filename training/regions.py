"""Regions of a photo at two scales, from a graph segmentation: extra truths below the objects that people marked."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.segmentation import felzenszwalb

# Felzenszwalb and Huttenlocher 2004; scales for photos of some 640 × 480 pixels.
_FINE, _COARSE = 120, 600
_SIGMA = 0.8
_MIN_SHARE = 0.0008  # of the photo; smaller regions are noise more often than not
# A region counts where the photo changes clearly along its border, and more than inside; in CIELAB units a pixel. In
# leaves and grass small regions are chance, so details need more.
_MIN_EDGE, _PART_CONTRAST, _DETAIL_CONTRAST = 3.0, 1.6, 2.2
_MAX_BORDER = 0.5  # of its pixels, else it is a sliver along an edge
_MAX_SHARE_OF_OBJECT = 0.8


def parts_of(pixels: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Details and parts, H×W int32 each, 0 for none; details lie in parts, parts in objects.

    pixels: H×W×3 uint8 RGB. objects: H×W ids, 0 where nobody marked anything: regions are found there too.
    """
    gradient = _gradient(pixels)
    smallest = max(40, int(_MIN_SHARE * objects.size))
    fine = felzenszwalb(pixels, scale=_FINE, sigma=_SIGMA, min_size=smallest)
    coarse = felzenszwalb(pixels, scale=_COARSE, sigma=_SIGMA, min_size=2 * smallest)
    coarse = _holding(fine, coarse)
    parts = _within(coarse, objects)
    details = _within(fine, parts)
    parts = _credible(parts, objects, gradient, smallest, _PART_CONTRAST)
    holders = np.where(parts > 0, parts + objects.max() + 1, objects)
    details = _credible(details, holders, gradient, smallest, _DETAIL_CONTRAST)
    return details, parts


def _holding(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The coarse region that holds most of each fine region, so that the two nest."""
    count = int(coarse.max()) + 1
    pairs, votes = np.unique(fine.astype(np.int64) * count + coarse, return_counts=True)
    order = np.argsort(votes, kind="stable")  # the most voted is written last
    lookup = np.zeros(int(fine.max()) + 1, np.int64)
    lookup[pairs[order] // count] = pairs[order] % count
    return lookup[fine]


def _within(regions: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Regions cut along the borders of `outer`, numbered from 1."""
    code = regions.astype(np.int64) * (int(outer.max()) + 1) + outer
    _, place = np.unique(code, return_inverse=True)
    return place.reshape(regions.shape) + 1


def _gradient(pixels: np.ndarray) -> np.ndarray:
    lab = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(np.float32), (0, 0), 1.0)
    squares = [cv2.Sobel(lab, cv2.CV_32F, dx, dy, scale=0.25) ** 2 for dx, dy in ((1, 0), (0, 1))]
    return np.sqrt((squares[0] + squares[1]).sum(2))


def _credible(
    regions: np.ndarray, outer: np.ndarray, gradient: np.ndarray, smallest: int, contrast: float
) -> np.ndarray:
    """Regions with a real border that are clearly less than what holds them; the others become 0."""
    count = int(regions.max()) + 1
    area = np.bincount(regions.ravel(), minlength=count)
    border = np.zeros(regions.shape, bool)
    for axis in (0, 1):
        differs = np.diff(regions, axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        border[tuple(before)] |= differs
        border[tuple(after)] |= differs
    edge = _mean_by(regions[border], gradient[border], count)
    inner = cv2.dilate(border.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    inside = _mean_by(regions[inner], gradient[inner], count)
    # What holds a region: the outer id of any of its pixels, as it lies in one.
    holder = np.zeros(count, np.int64)
    holder[regions.ravel()] = outer.ravel()
    room = np.bincount(outer.ravel())[holder]
    good = (area >= smallest) & (edge > _MIN_EDGE) & (edge > contrast * inside)
    good &= np.bincount(regions[border], minlength=count) <= _MAX_BORDER * area
    good &= (holder == 0) | (area < _MAX_SHARE_OF_OBJECT * room)
    good[0] = False
    return np.where(good, np.cumsum(good), 0)[regions].astype(np.int32)


def _mean_by(ids: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(ids, values, minlength=count) / np.maximum(np.bincount(ids, minlength=count), 1)
