"""From scored candidates to final masks: filters, NMS, edges, clean-up, asking again, parts, filling, in this order.

A fresh run and one over kept proposals go through the same two functions: `chosen` says which candidates of a crop
win, `finished` makes masks of the winners of all crops. Between the two, the one decodes and the other unpacks.
Only asking again and filling need a network: a `SecondLook`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from densecli.engine import asking, cleanup, edges, filling, parts
from densecli.engine.candidates import Candidates, duplicates, likely, stable, suppress, touches_crop_edge
from densecli.engine.counts import counts_in_image_and_box
from densecli.engine.edges import Guide
from densecli.engine.filling import Filled
from densecli.engine.grid import Crop
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.masks import Mask, Runs

Filter = Literal[
    "predicted_iou",
    "stability",
    "crop_edge",
    "nms",
    "crop_nms",
    "empty",
    "area",
    "too_large",
    "nms_after_cleanup",
    "parts",
]

if TYPE_CHECKING:
    from densecli.engine.second_look import SecondLook


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
    asked: int = 0
    answered: int = 0
    unasked: int = 0
    """Groups of similar masks that would have been asked for their whole, had there been a model."""
    fill: Filled | None = None


class Winner:
    """A mask that survived NMS: position and runs of its window in the image, and its scores."""

    candidate: int | None = None
    """Its place among kept proposals."""

    def __init__(
        self,
        x: int,
        y: int,
        runs: Runs,
        predicted_iou: float,
        stability: float,
        points: tuple[tuple[float, float], ...],
        crop_box: tuple[int, int, int, int],
        prompt_box: tuple[float, float, float, float] | None = None,
    ) -> None:
        self.predicted_iou, self.stability, self.crop_box = predicted_iou, stability, crop_box
        self.points, self.prompt_box = points, prompt_box
        self.place(x, y, runs)

    def place(self, x: int, y: int, runs: Runs) -> None:
        """Set the mask: runs in the frame of its box, at x, y of the image."""
        h, w = runs.size
        self.x, self.y, self.runs, self.area = x, y, runs, runs.area
        # xyxy, both ends inclusive, as in sam2's batched_mask_to_box, on which NMS works; zeros for an empty mask.
        self.box = (x, y, x + max(w, 1) - 1, y + max(h, 1) - 1)


class Journal(Protocol):
    """Told by the selection what each filter takes, one filter after the other (`reasons.Reasons` is one)."""

    def filtered(self, name: Filter, crop: Crop, candidates: torch.Tensor) -> None:
        """A filter took these candidates (int64, places in the crop)."""

    def suppressed(
        self, name: Filter, crop: Crop, candidates: torch.Tensor, boxes: torch.Tensor, kept: torch.Tensor, limit: float
    ) -> None:
        """NMS at `limit` kept `kept` (places in `candidates`, best first) of candidates with these boxes."""

    def dropped(self, name: Filter, winner: Winner, value: float, limit: float, whole: Winner | None = None) -> None:
        """A winner went: what it has and what it would need; with the whole that it is a part of."""

    def beaten(self, name: Filter, winners: Sequence[Winner], kept: Sequence[int], limit: float) -> None:
        """NMS at `limit` kept these winners (places, best first)."""

    def finished(self, winners: Sequence[Winner]) -> None:
        """These are the masks, in the order of their ids."""


def chosen(
    scored: Candidates,
    crop: Crop,
    size: tuple[int, int],
    parameters: GeneratorParameters,
    funnel: Funnel,
    journal: Journal | None = None,
) -> torch.Tensor:
    """Indices (int64, by falling predicted IoU) of the candidates of one crop that pass every filter and its NMS.

    size: height and width of the image. The funnel goes on counting.
    """

    def passing(name: Filter, left: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
        if journal is not None:
            journal.filtered(name, crop, left[~good])
        return left[good]

    every = torch.arange(len(scored), device=scored.predicted_iou.device)
    left = passing("predicted_iou", every, likely(scored.predicted_iou, parameters.pred_iou_thresh))
    stability = scored.stability[left]
    funnel.after_pred_iou += len(left)
    if len(left):
        funnel.best_stability = max(funnel.best_stability, float(torch.nan_to_num(stability).max()))
    left = passing("stability", left, stable(stability, parameters))
    funnel.after_stability += len(left)
    left = passing("crop_edge", left, ~touches_crop_edge(scored.boxes[left], crop, *size))
    funnel.after_crop_edge += len(left)
    boxes, limit = scored.boxes[left], parameters.box_nms_thresh
    kept = suppress(boxes, scored.predicted_iou[left], limit)
    if journal is not None:
        journal.suppressed("nms", crop, left, boxes, kept, limit)
    return left[kept]


def winners_of(
    won: Candidates, masks: Sequence[tuple[int, int, Runs]], points: torch.Tensor, crop: Crop
) -> list[Winner]:
    """Winners of one crop. masks: x and y, and runs; points: N × 2 float32; both in pixels of the crop."""
    x0, y0, _, _ = crop.box
    at = (points.cpu().double() + torch.tensor([x0, y0])).tolist()
    scores = zip(won.predicted_iou.tolist(), won.stability.tolist(), strict=True)
    return [
        Winner(x + x0, y + y0, runs, predicted_iou, stability, ((px, py),), (x0, y0, crop.width, crop.height))
        for (x, y, runs), (predicted_iou, stability), (px, py) in zip(masks, scores, at, strict=True)
    ]


def finished(
    winners: list[Winner],
    crops: int,
    size: tuple[int, int],
    parameters: GeneratorParameters,
    cleanup_parameters: CleanupParameters,
    funnel: Funnel,
    journal: Journal | None = None,
    look: SecondLook | None = None,
    guide: Guide | None = None,
) -> list[Mask]:
    """Masks by falling area of the winners of all crops: NMS between crops, edges, clean-up, asking, parts, filling.

    look: the model at hand, where `ask_for_wholes` or `fill` need it. guide: the photo, which `refine_edges` needs.
    """
    if crops > 1 and winners:
        winners = _without_crop_duplicates(winners, parameters.crop_nms_thresh, journal)
    funnel.after_nms = len(winners)
    _refine_edges(winners, cleanup_parameters, guide)
    # As the reference: what crop NMS let pass on purpose is no duplicate after clean-up either.
    limit = max(parameters.box_nms_thresh, parameters.crop_nms_thresh) if crops > 1 else parameters.box_nms_thresh
    winners = _cleaned(winners, size, limit, cleanup_parameters, funnel, journal)
    funnel.after_area = len(winners)

    def clean(later: list[Winner]) -> list[Winner]:
        # Asked of the whole image alone: these have no crops.
        _refine_edges(later, cleanup_parameters, guide)
        return _cleaned(later, size, parameters.box_nms_thresh, cleanup_parameters, Funnel(), None)

    if parameters.ask_for_wholes:
        siblings = cleanup_parameters.parts_min_siblings
        winners = asking.with_wholes(winners, parameters, siblings, clean, look, funnel, journal)
    # Ids go by falling area; equal areas keep the order of their scores.
    winners.sort(key=lambda w: -w.area)
    winners, parent = _without_parts(winners, cleanup_parameters, journal)
    funnel.after_parts = len(winners)
    if parameters.fill and look is not None:
        winners, parent, funnel.fill = filling.filled(winners, size, parameters, cleanup_parameters, clean, look)
    if journal is not None:
        journal.finished(winners)
    return _masks(winners, parent, size)


def _without_crop_duplicates(winners: list[Winner], threshold: float, journal: Journal | None) -> list[Winner]:
    # Masks of smaller crops win: their picture of the object was larger.
    scores = torch.tensor([1 / (w.crop_box[2] * w.crop_box[3]) for w in winners])
    kept = suppress(torch.tensor([w.box for w in winners]), scores, threshold).tolist()
    if journal is not None:
        journal.beaten("crop_nms", winners, kept, threshold)
    return [winners[i] for i in kept]


def _without_new_duplicates(
    winners: list[Winner], changed: Sequence[bool], threshold: float, journal: Journal | None
) -> list[Winner]:
    """Masks that clean-up left alone, which all stay; then those that it changed and that NMS keeps beside them.

    Only a mask that was changed can be a duplicate that was none before, and it gives way.
    """
    boxes = torch.tensor([w.box for w in winners])
    alone, new = (torch.tensor(changed) == wanted for wanted in (False, True))
    new_ones = new.nonzero()[:, 0]
    new_ones = new_ones[~duplicates(boxes[new_ones], boxes[alone], threshold)]
    new_ones = new_ones[suppress(boxes[new_ones], torch.zeros(len(new_ones)), threshold)]
    kept = [*alone.nonzero()[:, 0].tolist(), *new_ones.tolist()]
    if journal is not None:
        journal.beaten("nms_after_cleanup", winners, kept, threshold)
    return [winners[i] for i in kept]


def _refine_edges(winners: Sequence[Winner], wish: CleanupParameters, guide: Guide | None) -> None:
    if wish.refine_edges == "off":
        return
    assert guide is not None
    refined = edges.refined(
        [parts.Placed(w.x, w.y, w.runs) for w in winners],
        [w.predicted_iou for w in winners],
        [(w.crop_box[3], w.crop_box[2]) for w in winners],
        guide,
    )
    for winner, mask in zip(winners, refined, strict=True):
        winner.place(mask.x, mask.y, mask.runs)


def _cleaned(
    winners: list[Winner],
    size: tuple[int, int],
    nms_thresh: float,
    wish: CleanupParameters,
    funnel: Funnel,
    journal: Journal | None,
) -> list[Winner]:
    """Holes, islands and areas; then NMS again for masks that were changed."""
    min_area, fraction = wish.min_mask_region_area, wish.max_mask_area_fraction
    funnel.largest_area = max((w.area for w in winners), default=0)
    pixels = size[0] * size[1]
    cleaned, all_changed = [], []
    for winner in winners:
        changed, area_before = False, winner.area
        if min_area > 1 and winner.area:
            x, y, runs, changed = cleanup.remove_small_regions(winner.x, winner.y, winner.runs, size, min_area)
            if changed:
                winner.place(x, y, runs)
        # A mask without a pixel has nothing to show: the reference lists such masks, nobody can use them.
        if winner.area and (fraction is None or winner.area / pixels <= fraction):
            cleaned.append(winner)
            all_changed.append(changed)
        elif journal is not None and winner.area:
            journal.dropped("too_large", winner, winner.area, pixels * (fraction or 1.0))
        elif journal is not None:
            journal.dropped("area" if area_before else "empty", winner, area_before, min_area)
    return _without_new_duplicates(cleaned, all_changed, nms_thresh, journal) if any(all_changed) else cleaned


def _without_parts(
    winners: list[Winner], wish: CleanupParameters, journal: Journal | None
) -> tuple[list[Winner], list[int | None]]:
    """Masks by falling area that stay under `cleanup.parts`, and each one's parent among them."""
    parent = parts.parents([parts.Placed(w.x, w.y, w.runs) for w in winners])
    gone = parts.dropped(parent, [w.area for w in winners], wish.parts, wish.parts_min_siblings)
    if journal is not None:
        for i, part in gone.items():
            journal.dropped("parts", winners[i], part.alike, wish.parts_min_siblings, winners[part.whole])
    place = {old: new for new, old in enumerate(i for i in range(len(winners)) if i not in gone)}
    # What is dropped takes all inside it along, so a mask that stays keeps its parent.
    return [winners[i] for i in place], [None if (p := parent[i]) is None else place[p] for i in place]


def _masks(winners: list[Winner], parent: list[int | None], size: tuple[int, int]) -> list[Mask]:
    masks = []
    counts = counts_in_image_and_box([(w.x, w.y, w.runs) for w in winners], size)
    for i, (winner, (in_image, in_box)) in enumerate(zip(winners, counts, strict=True)):
        x_min, y_min, x_max, y_max = winner.box
        above = parent[i]
        masks.append(
            Mask(
                id=i + 1,
                area=winner.area,
                bbox=(x_min, y_min, x_max - x_min + 1, y_max - y_min + 1),
                predicted_iou=winner.predicted_iou,
                stability_score=winner.stability,
                point_coords=winner.points,
                crop_box=winner.crop_box,
                prompt_box=winner.prompt_box,
                segmentation={"size": list(size), "counts": in_image.decode("ascii")},
                window_counts=in_box,
                parent=None if above is None else above + 1,
            )
        )
    return masks
