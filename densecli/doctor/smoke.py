"""The smoke run: the starter on a small drawn image, on one device, compared with the CPU. Runs in a child process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_SIDE = 384  # pixels, about as many as the starter sees
_OVERLAP = 0.9  # IoU from which two masks are the same object
_SHARE = 0.8  # of the CPU's masks that a device must find too
# Loose, so that there is something to compare.
_SMALL = (
    "points_per_side=6",
    "pred_iou_thresh=0.3",
    "stability_score_thresh=0.6",
    "box_nms_thresh=0.9",
    "min_mask_region_area=20",
)

SHAPES = (220, 40, 40), (40, 60, 200), (240, 220, 60)
"""RGB of the test image's disc, box and bar."""

_on_cpu: list[np.ndarray] = []


def run_on(device: str) -> dict[str, Any]:
    """Segment the image on `device`: masks found, seconds, precision.

    Raises RuntimeError where nothing is found, or where a device finds other masks than the CPU (which runs first).
    """
    begin = time.perf_counter()
    masks = _masks(device, "fp32")
    if not masks:
        raise RuntimeError("no mask found in the test image")
    if device == "cpu":
        _on_cpu[:] = masks
        return {"masks": len(masks), "seconds": round(time.perf_counter() - begin, 2), "precision": "fp32"}
    again = found_again(_on_cpu, masks)
    if again < _SHARE * len(_on_cpu):
        raise RuntimeError(f"wrong results: only {again} of the CPU's {len(_on_cpu)} masks were found on {device}")
    from densecli import model

    precision = model.resolve_precision("auto", model.resolve_device(device))
    if precision != "fp32" and not _masks(device, precision):
        raise RuntimeError(f"no mask found in the test image with --precision {precision}")
    seconds = round(time.perf_counter() - begin, 2)
    return {"masks": len(masks), "seconds": seconds, "precision": precision, "as_cpu": again, "of_cpu": len(_on_cpu)}


def found_again(expected: list[np.ndarray], masks: list[np.ndarray]) -> int:
    """How many of `expected` are among `masks` (both H×W bool), up to a few pixels."""
    return sum(any(_iou(mask, other) >= _OVERLAP for other in masks) for mask in expected)


def _masks(device: str, precision: str) -> list[np.ndarray]:
    from densecli.segmenter import Segmenter

    segmenter = Segmenter("default", "starter", device, precision=precision, overrides=_SMALL)
    return [mask.decode() for mask in segmenter(_image()).masks]


def _image() -> np.ndarray:
    """_SIDE×_SIDE×3 uint8 RGB: a disc, a box and a bar on a soft ground."""
    import numpy as np

    y, x = np.mgrid[:_SIDE, :_SIDE]
    image = np.stack([90 + x // 12, 100 + y // 12, np.full_like(x, 120)], -1).astype(np.uint8)
    places = (x - 114) ** 2 + (y - 132) ** 2 < 72**2, np.s_[210:330, 198:336], np.s_[48:84, 222:354]
    for place, colour in zip(places, SHAPES, strict=True):
        image[place] = colour
    return image


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0
