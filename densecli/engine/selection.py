"""From scored candidates to final masks: filters, NMS, clean-up, parts, in this order, with or without a network.

A fresh run and one over kept proposals go through the same two functions: `chosen` says which candidates of a crop
win, `finished` makes masks of the winners of all crops. Between the two, the one decodes and the other unpacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from densecli.engine import cleanup, parts
from densecli.engine.candidates import Candidates, likely, stable, suppress, touches_crop_edge
from densecli.engine.grid import Crop
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.masks import Mask, Runs


@dataclass
class Funnel:
    """How many candidates each filter left, and the best values that a filter saw (to explain an empty result)."""

    points: int = 0
    candidates: int = 0
    after_pred_iou: int = 0
    after_stability: int = 0
    after_crop_edge: int = 0
    after_nms: int = 0
    after_area: int = 0
    after_parts: int = 0
    best_predicted_iou: float = 0.0
    best_stability: float = 0.0
    largest_area: int = 0


class Winner:
    """A mask that survived NMS: position and runs of its window in the image, and its scores."""

    def __init__(
        self,
        x: int,
        y: int,
        runs: Runs,
        predicted_iou: float,
        stability: float,
        point: tuple[float, float],
        crop_box: tuple[int, int, int, int],
    ) -> None:
        self.predicted_iou, self.stability, self.point, self.crop_box = predicted_iou, stability, point, crop_box
        self.place(x, y, runs)

    def place(self, x: int, y: int, runs: Runs) -> None:
        """Set the mask: runs in the frame of its box, at x, y of the image."""
        h, w = runs.size
        self.x, self.y, self.runs, self.area = x, y, runs, runs.area
        # xyxy, both ends inclusive, as in sam2's batched_mask_to_box, on which NMS works; zeros for an empty mask.
        self.box = (x, y, x + max(w, 1) - 1, y + max(h, 1) - 1)


def chosen(
    scored: Candidates, crop: Crop, size: tuple[int, int], parameters: GeneratorParameters, funnel: Funnel
) -> torch.Tensor:
    """Indices (int64, by falling predicted IoU) of the candidates of one crop that pass every filter and its NMS.

    size: height and width of the image. The funnel goes on counting.
    """
    left = likely(scored.predicted_iou, parameters.pred_iou_thresh).nonzero()[:, 0]
    stability = scored.stability[left]
    funnel.after_pred_iou += len(left)
    if len(left):
        funnel.best_stability = max(funnel.best_stability, float(torch.nan_to_num(stability).max()))
    left = left[stable(stability, parameters)]
    funnel.after_stability += len(left)
    left = left[~touches_crop_edge(scored.boxes[left], crop, *size)]
    funnel.after_crop_edge += len(left)
    return left[suppress(scored.boxes[left], scored.predicted_iou[left], parameters.box_nms_thresh)]


def winners_of(
    won: Candidates, masks: Sequence[tuple[int, int, Runs]], points: torch.Tensor, crop: Crop
) -> list[Winner]:
    """Winners of one crop. masks: x and y, and runs; points: N × 2 float32; both in pixels of the crop."""
    x0, y0, _, _ = crop.box
    at = (points.cpu().double() + torch.tensor([x0, y0])).tolist()
    scores = zip(won.predicted_iou.tolist(), won.stability.tolist(), strict=True)
    return [
        Winner(x + x0, y + y0, runs, predicted_iou, stability, (px, py), (x0, y0, crop.width, crop.height))
        for (x, y, runs), (predicted_iou, stability), (px, py) in zip(masks, scores, at, strict=True)
    ]


def finished(
    winners: list[Winner],
    crops: int,
    size: tuple[int, int],
    parameters: GeneratorParameters,
    cleanup_parameters: CleanupParameters,
    funnel: Funnel,
) -> list[Mask]:
    """Masks by falling area of the winners of all crops: NMS between crops, clean-up, parts, ids."""
    if crops > 1 and winners:
        # Masks of smaller crops win: their picture of the object was larger.
        scores = torch.tensor([1 / (w.crop_box[2] * w.crop_box[3]) for w in winners])
        winners = _without_duplicates(winners, scores, parameters.crop_nms_thresh)
    funnel.after_nms = len(winners)
    winners = _cleaned(winners, size, parameters.box_nms_thresh, cleanup_parameters, funnel)
    funnel.after_area = len(winners)
    # Ids go by falling area; equal areas keep the order of their scores.
    winners.sort(key=lambda w: -w.area)
    winners, parent = _without_parts(winners, cleanup_parameters)
    funnel.after_parts = len(winners)
    return _masks(winners, parent, size)


def _without_duplicates(winners: list[Winner], scores: torch.Tensor, threshold: float) -> list[Winner]:
    boxes = torch.tensor([w.box for w in winners])
    return [winners[i] for i in suppress(boxes, scores, threshold).tolist()]


def _cleaned(
    winners: list[Winner], size: tuple[int, int], nms_thresh: float, wish: CleanupParameters, funnel: Funnel
) -> list[Winner]:
    """Holes, islands and areas; then NMS again, in which masks that were not changed win."""
    min_area, fraction = wish.min_mask_region_area, wish.max_mask_area_fraction
    funnel.largest_area = max((w.area for w in winners), default=0)
    most = size[0] * size[1] * (1.0 if fraction is None else fraction)
    cleaned, unchanged = [], []
    for winner in winners:
        changed = False
        if min_area > 1 and winner.area:
            x, y, runs, changed = cleanup.remove_small_regions(winner.x, winner.y, winner.runs, size, min_area)
            if changed:
                winner.place(x, y, runs)
        # A mask without a pixel has nothing to show: the reference lists such masks, nobody can use them.
        if 0 < winner.area <= most:
            cleaned.append(winner)
            unchanged.append(not changed)
    if cleaned and not all(unchanged):
        cleaned = _without_duplicates(cleaned, torch.tensor(unchanged).float(), nms_thresh)
    return cleaned


def _without_parts(winners: list[Winner], wish: CleanupParameters) -> tuple[list[Winner], list[int | None]]:
    """Masks by falling area that stay under `cleanup.parts`, and each one's parent among them."""
    parent = parts.parents([parts.Placed(w.x, w.y, w.runs) for w in winners])
    stays = parts.kept(parent, [w.area for w in winners], wish.parts, wish.parts_min_siblings)
    place = {old: new for new, old in enumerate(i for i, stay in enumerate(stays) if stay)}
    # What is dropped takes all inside it along, so a mask that stays keeps its parent.
    return [winners[i] for i in place], [None if (p := parent[i]) is None else place[p] for i in place]


def _masks(winners: list[Winner], parent: list[int | None], size: tuple[int, int]) -> list[Mask]:
    masks = []
    for i, winner in enumerate(winners):
        x_min, y_min, x_max, y_max = winner.box
        above = parent[i]
        masks.append(
            Mask(
                id=i + 1,
                area=winner.area,
                bbox=(x_min, y_min, x_max - x_min + 1, y_max - y_min + 1),
                predicted_iou=winner.predicted_iou,
                stability_score=winner.stability,
                point_coords=(winner.point,),
                crop_box=winner.crop_box,
                segmentation=winner.runs.rle(winner.x, winner.y, size),
                window_counts=winner.runs.rle()["counts"].encode("ascii"),
                parent=None if above is None else above + 1,
            )
        )
    return masks
