"""Where to ask next: points over what no mask covers, on a denser grid, away from masks and from old points."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from densecli.engine.parts import Placed

# Distances are measured on a map of at most so many pixels a side: finer than any model's own grid (256 × 256).
_MAP_SIDE = 1024
# A point keeps this far from masks and from other points, in cells of the new grid, so that a seam between two masks
# is not asked about. Own choice.
_KEEPS_AWAY = 0.25


def covered(masks: Iterable[Placed], size: tuple[int, int]) -> np.ndarray:
    """Height × width uint8 (0 or 1): the pixels that lie in a mask, in an image of this size."""
    canvas = np.zeros(size, dtype=np.uint8)
    for mask in masks:
        paint(canvas, mask)
    return canvas


def paint(canvas: np.ndarray, mask: Placed) -> None:
    """Add a mask's pixels to what `covered` gave."""
    window_of(canvas, mask)[mask.runs.decode()] = 1


def window_of(canvas: np.ndarray, mask: Placed) -> np.ndarray:
    """The part of the canvas under a mask's box."""
    h, w = mask.runs.size
    return canvas[mask.y : mask.y + h, mask.x : mask.x + w]


def points(canvas: np.ndarray, asked: np.ndarray, side: int) -> np.ndarray:
    """Up to side² points, n × 2 float64 (x, y) in pixels, at most one in each cell of a grid of side × side cells.

    canvas: as `covered` gives it. asked: m × 2, points that were asked already. In each cell the pixel that is
    farthest from masks and asked points is taken; where half a cell is free around several, that nearest to the cell's
    middle. So a small gap is asked at its heart, and a wide one on a regular grid.
    """
    height, width = canvas.shape
    h, w = min(height, _MAP_SIDE), min(width, _MAP_SIDE)
    scale = np.array([w / width, h / height])
    # A pixel of the map is free if no pixel of the image under it is covered.
    free = cv2.resize(canvas * 255, (w, h), interpolation=cv2.INTER_AREA) == 0
    places = np.minimum((asked * scale).astype(np.int64), [w - 1, h - 1])
    free[places[:, 1], places[:, 0]] = False
    if not free.any():
        return np.zeros((0, 2))
    cell_width, cell_height = w / side, h / side
    half = min(cell_width, cell_height) / 2
    distance = cv2.distanceTransform(free.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    y, x = np.nonzero(distance >= max(1.0, 2 * half * _KEEPS_AWAY))
    across, down = (x + 0.5) / cell_width, (y + 0.5) / cell_height
    column, row = across.astype(np.int64), down.astype(np.int64)
    off = np.hypot(across - column - 0.5, down - row - 0.5)  # at most 0.71 cells from the middle
    score = np.minimum(distance[y, x], half) - 0.01 * half * off
    # The last one that is written to a cell's place is the best one.
    order = np.argsort(score, kind="stable")
    best = np.full(side * side, -1)
    best[(row * side + column)[order]] = order
    best = best[best >= 0]
    return np.stack([x[best] + 0.5, y[best] + 0.5], axis=1) / scale
