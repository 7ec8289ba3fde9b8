"""Boundary F-score: how much of the drawn edges is true, and how much of the true ones is drawn."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

TOLERANCE = 0.0075
"""Of the diagonal, as BSDS500's benchmark (Martin, Fowlkes and Malik 2004); here without matching one to one."""


def boundary(masks: Iterable[tuple[int, int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """H×W bool: inner boundary pixels of masks given as x, y, h×w bool; the frame of the picture is no boundary."""
    height, width = size
    edges = np.zeros(size, np.uint8)
    for x, y, window in masks:
        padded = np.pad(window.astype(np.uint8), 1)
        # What lies beyond the picture counts as the mask going on.
        if y == 0:
            padded[0] = padded[1]
        if x == 0:
            padded[:, 0] = padded[:, 1]
        if y + window.shape[0] == height:
            padded[-1] = padded[-2]
        if x + window.shape[1] == width:
            padded[:, -1] = padded[:, -2]
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), borderValue=1)
        rim = (padded - eroded)[1:-1, 1:-1]
        edges[y : y + window.shape[0], x : x + window.shape[1]] |= rim.astype(np.uint8)
    return edges.astype(bool)


def f_score(drawn: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """F, precision and recall of H×W bool boundaries, within TOLERANCE of each other."""
    reach = TOLERANCE * float(np.hypot(*true.shape))
    precision = _share_near(drawn, true, reach)
    recall = _share_near(true, drawn, reach)
    total = precision + recall
    return (2 * precision * recall / total if total else 0.0), precision, recall


def _share_near(points: np.ndarray, others: np.ndarray, reach: float) -> float:
    if not points.any() or not others.any():
        return 0.0
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[points] <= reach).mean())
