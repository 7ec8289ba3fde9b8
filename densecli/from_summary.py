"""A Segmentation again, from its summary and its image: other kinds of outputs need no model a second time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from densecli.masks import SUMMARY_SCHEMA, Mask, Runs, Segmentation

NOTICE = "masks as they are in its summary; no model ran"


def segmentation_from(document: Mapping[str, Any], pixels: np.ndarray) -> Segmentation:
    """What `Segmentation.summary` gave `document` of, but for times (none), `points` (0), notices and advice.

    pixels: H×W×3 uint8 RGB, the same image. Raises ValueError, KeyError or TypeError where the summary is damaged or of
    another image's size.
    """
    size = (document["image"]["height"], document["image"]["width"])
    if document["schema"] != SUMMARY_SCHEMA or size != pixels.shape[:2]:
        raise ValueError("another schema, or another image")
    result = Segmentation(
        pixels=pixels,
        masks=[_mask(entry, size) for entry in document["masks"]],
        image=dict(document["image"]),
        model=dict(document["model"]),
        preset=dict(document["preset"]),
        funnel=dict(document["funnel"]),
        points=0,
        seconds={},
        peak_memory_mb=document["peak_memory_mb"],
        warnings=list(document["warnings"]),
        notices=[NOTICE],
        fill=document.get("fill"),
    )
    result.written_in(0.0)
    return result


def _mask(entry: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    rle = entry["segmentation"]
    if tuple(rle["size"]) != size:
        raise ValueError("a mask of another size")
    x, y, window = Runs.from_rle(rle).trimmed()
    height, width = window.size
    if (window.area, [x, y, width, height]) != (entry["area"], list(entry["bbox"])):
        raise ValueError("a mask of another area or box")
    return Mask(
        id=entry["id"],
        area=entry["area"],
        bbox=(x, y, width, height),
        predicted_iou=entry["predicted_iou"],
        stability_score=entry["stability_score"],
        point_coords=tuple((px, py) for px, py in entry["point_coords"]),
        crop_box=tuple(entry["crop_box"]),
        segmentation={"size": list(size), "counts": rle["counts"]},
        window_counts=window.rle()["counts"].encode("ascii"),
        parent=entry["parent"],
        prompt_box=None if entry.get("prompt_box") is None else tuple(entry["prompt_box"]),
    )
