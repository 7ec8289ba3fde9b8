"""Turns a disappointing result into the one thing to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densecli.engine.selection import Funnel
    from densecli.masks import Mask

# A part counts as small below this share of its whole's area: keys of a keyboard, windows of a house.
_SMALL_PART = 0.1


def advice(funnel: Funnel, masks: Sequence[Mask], parameters: Mapping[str, Any]) -> str | None:
    """What to try, in one line, or None where the result looks as it should."""
    return why_empty(funnel, parameters) if not masks else many_parts(masks)


def why_empty(funnel: Funnel, parameters: Mapping[str, Any]) -> str:
    """Which filter took the last candidates, and the value that would have let the best one through."""
    if funnel.after_pred_iou == 0:
        return (
            f"no mask is left: all {funnel.candidates:,} candidates fell to pred_iou_thresh "
            f"{parameters['pred_iou_thresh']:g}, the best predicted IoU was {funnel.best_predicted_iou:.3f}; "
            f"try --set pred_iou_thresh={_below(funnel.best_predicted_iou)}"
        )
    if funnel.after_stability == 0:
        return (
            f"no mask is left: the last {funnel.after_pred_iou:,} candidates fell to stability_score_thresh "
            f"{parameters['stability_score_thresh']:g}, the best stability was {funnel.best_stability:.3f}; "
            f"try --set stability_score_thresh={_below(funnel.best_stability)}"
        )
    if funnel.after_crop_edge == 0:
        # Nothing of the whole image, which no crop's edge cuts off, came this far: fewer crops would not help.
        return (
            f"no mask is left: the last {funnel.after_stability:,} candidates were cut off by the edge of a crop; "
            f"try --set pred_iou_thresh={parameters['pred_iou_thresh'] / 2:.2f} "
            f"--set stability_score_thresh={parameters['stability_score_thresh'] / 2:.2f}"
        )
    if funnel.largest_area == 0:
        return (
            f"no mask is left: the last {funnel.after_nms:,} have no pixel above mask_threshold "
            f"{parameters['mask_threshold']:g}; try --set mask_threshold=0"
        )
    area = parameters["min_mask_region_area"]
    if funnel.largest_area < area or parameters["max_mask_area_fraction"] is None:
        return (
            f"no mask is left: the last {funnel.after_nms:,} fell to min_mask_region_area {area}, "
            f"the largest had {funnel.largest_area:,} px; "
            f"try --set min_mask_region_area={max(0, funnel.largest_area // 2)}"
        )
    return (
        f"no mask is left: the last {funnel.after_nms:,} fell to max_mask_area_fraction "
        f"{parameters['max_mask_area_fraction']:g} (or min_mask_region_area {area}); "
        "try --set max_mask_area_fraction=null"
    )


def many_parts(masks: Sequence[Mask]) -> str | None:
    """Points to `keyboard-fix` when more than half of the masks are small parts of one bigger mask."""
    area = {mask.id: mask.area for mask in masks}
    small = [m for m in masks if m.parent is not None and m.area < _SMALL_PART * area[m.parent]]
    if not small:
        return None
    whole, count = Counter(m.parent for m in small).most_common(1)[0]
    if 2 * count <= len(masks):
        return None
    return f"{count} of {len(masks)} masks are small parts of mask {whole}; --preset keyboard-fix drops such parts"


def _below(score: float) -> str:
    """A threshold with two digits that the score passes."""
    return f"{max(0.0, int(score * 100 - 1) / 100):.2f}"
