"""What took a candidate, in words, and the value that would have let it pass that filter."""

from __future__ import annotations

import math
from typing import Any

from densecli.engine.reasons import Loss, Reasons
from densecli.presets import ResolvedPreset


def in_words(loss: Loss, found: Reasons) -> str:
    """One line such as `predicted IoU 0.83 < 0.85`."""
    overlap = f"box IoU {_compared(loss.value, loss.limit)} with {_other(loss, found)}"
    match loss.filter:
        case "predicted_iou":
            return f"predicted IoU {_compared(loss.value, loss.limit)}"
        case "stability":
            return "has no pixel" if math.isnan(loss.value) else f"stability {_compared(loss.value, loss.limit)}"
        case "crop_edge":
            return "cut off by the edge of its crop"
        case "nms":
            return f"{overlap}, which scores higher"
        case "crop_nms":
            return f"{overlap}, found in a crop as small or smaller"
        case "nms_after_cleanup":
            return f"after clean-up, {overlap}, which clean-up left alone or which scores higher"
        case "empty":
            return "has no pixel"
        case "area" if loss.value < loss.limit:
            return f"area {_whole(loss.value)} px < {_whole(loss.limit)} px"
        case "area":
            return f"area {_whole(loss.value)} px, but in pieces of less than {_whole(loss.limit)} px"
        case "too_large":
            return f"area {_whole(loss.value)} px > {_whole(loss.limit)} px"
        case "parts" if loss.value:
            return f"one of {_whole(loss.value)} similar parts of {_other(loss, found)}, or inside of one"
        case "parts":
            return f"part of {_other(loss, found)}"


def let_in(loss: Loss, wish: ResolvedPreset, image_pixels: int) -> dict[str, Any] | None:
    """The key and the value that this filter would have let the candidate pass with; None where there is none."""
    match loss.filter:
        case "predicted_iou":
            # The filter wants more than the threshold, not as much.
            value = _down(loss.value)
            return {"key": "pred_iou_thresh", "value": value if value < loss.value else round(value - 0.01, 2)}
        case "stability":
            return None if math.isnan(loss.value) else {"key": "stability_score_thresh", "value": _down(loss.value)}
        # Without any NMS, all would pass.
        case "nms" | "nms_after_cleanup" | "crop_nms" if (value := _up(loss.value)) < 1:
            return {"key": "crop_nms_thresh" if loss.filter == "crop_nms" else "box_nms_thresh", "value": value}
        case "area" if loss.value < loss.limit:
            return {"key": "min_mask_region_area", "value": int(loss.value)}
        case "too_large":
            share = _up(loss.value / image_pixels)
            return {"key": "max_mask_area_fraction", "value": share if share < 1 else None}
        case "parts" if wish.cleanup.parts == "drop":
            return {"key": "parts_min_siblings", "value": int(loss.value) + 1}
        case "parts":
            return {"key": "parts", "value": "keep"}
        case _:
            return None


def _other(loss: Loss, found: Reasons) -> str:
    if loss.by is None:
        return "a mask that the model was asked for"
    mask_id = found.masks.get(loss.by)
    return "a candidate that was itself dropped" if mask_id is None else f"mask {mask_id}"


def _compared(value: float, limit: float) -> str:
    """Both figures with as many digits as it takes to tell them apart."""
    sign = "<" if value < limit else ">" if value > limit else "="
    for digits in range(2, 8):
        a, b = f"{value:.{digits}f}", f"{limit:.{digits}f}"
        if a != b:
            return f"{a} {sign} {b}"
    return f"{value:.2f} is not above {limit:.2f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _down(value: float) -> float:
    return math.floor(value * 100) / 100


def _up(value: float) -> float:
    return min(1.0, math.ceil(value * 100) / 100)
