"""How masks compare with the exact truth of a generated scene: IoU and boundary F-score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco
from scenes import SceneObject

from densecli.masks import Mask, encode_rle

TOLERANCE = 2.0
"""Pixels that a boundary may be off and still count."""


def ious(masks: Sequence[Mask], objects: Sequence[SceneObject]) -> np.ndarray:
    """len(masks) × len(objects) float64: IoU of each mask with each object."""
    if not masks or not objects:
        return np.zeros((len(masks), len(objects)))
    truths = [encode_rle(o.window, o.x, o.y, o.size) for o in objects]
    return coco.iou([m.segmentation for m in masks], truths, [0] * len(objects))


def boundary_f(mask: Mask, thing: SceneObject) -> float:
    """F-score of a mask's boundary, within 2 px (`f_of_windows`)."""
    x, y, window = mask.decode_window()
    h, w = window.shape
    height, width = thing.size
    th, tw = thing.window.shape
    x0, y0 = max(0, min(x, thing.x) - 1), max(0, min(y, thing.y) - 1)
    x1, y1 = min(width, max(x + w, thing.x + tw) + 1), min(height, max(y + h, thing.y + th) + 1)
    found, truth = (np.zeros((y1 - y0, x1 - x0), dtype=bool) for _ in range(2))
    found[y - y0 : y - y0 + h, x - x0 : x - x0 + w] = window
    truth[thing.y - y0 : thing.y - y0 + th, thing.x - x0 : thing.x - x0 + tw] = thing.window
    return f_of_windows(found, truth)


def f_of_windows(found: np.ndarray, truth: np.ndarray) -> float:
    """Harmonic mean of the shares of each boundary that lie within 2 px of the other one; both h×w bool.

    As in F. Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
    with a tolerance in pixels. Boundary: mask pixels with a neighbour (of 8, in the picture) that is none.
    """
    edges = [_boundary(found), _boundary(truth)]
    if not all(e.any() for e in edges):
        return float(edges[0].any() == edges[1].any())
    far = [cv2.distanceTransform((~e).view(np.uint8), cv2.DIST_L2, 5) for e in edges]
    precision, recall = (far[1][edges[0]] <= TOLERANCE).mean(), (far[0][edges[1]] <= TOLERANCE).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def _boundary(mask: np.ndarray) -> np.ndarray:
    return mask & ~cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)
