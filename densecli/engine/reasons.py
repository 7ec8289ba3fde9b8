"""Why a candidate is no mask: the first filter that took it, with the figures that decided.

The selection itself says so while it runs (`selection.Journal`); no rule is written down here a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from densecli.engine import grid
from densecli.engine.boxes import box_iou
from densecli.engine.grid import Crop
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.proposals import Proposals
from densecli.engine.selection import Filter, Winner
from densecli.masks import Runs

_SCORES = {"predicted_iou": "pred_iou_thresh", "stability": "stability_score_thresh"}


@dataclass(frozen=True)
class Loss:
    """Which filter took a candidate.

    value: what it has, limit: what it is measured by. predicted_iou, stability: the score and the threshold. nms,
    crop_nms, nms_after_cleanup: box IoU with the candidate `by`, which won. area, too_large: pixels. parts: similar
    parts of the candidate `by` (0 where any part goes), and how many make them go. by: None where no candidate is
    meant, but a mask that was asked for by other means.
    """

    filter: Filter
    value: float = 0.0
    limit: float = 0.0
    by: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate: the id of its mask, or why there is none.

    candidate: its place in the proposals. x, y, runs: the mask that was proposed, in pixels of the image.
    """

    candidate: int
    predicted_iou: float
    stability: float
    x: int
    y: int
    runs: Runs
    mask_id: int | None
    loss: Loss | None


class Reasons:
    """The first filter that took each candidate; given to `Proposals.select` as its journal."""

    def __init__(self, proposals: Proposals, wish: GeneratorParameters) -> None:
        self._proposals, self._wish = proposals, wish
        crops = grid.crops(*proposals.size, wish)
        self.begin: dict[Crop, int] = {}
        """Place of each crop's first candidate."""
        total = 0
        for crop, count in zip(crops, proposals.crop_sizes, strict=False):
            self.begin[crop] = total
            total += count
        self.end = total
        """Candidates that the wished crops have; those after are of further crop layers."""
        self.masks: dict[int, int] = {}
        """Candidate -> id of its mask."""
        self._filters: dict[int, Filter] = {}
        self._losses: dict[int, Loss] = {}
        self._nms: dict[Crop, tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]] = {}

    def filtered(self, name: Filter, crop: Crop, candidates: torch.Tensor) -> None:
        begin = self.begin[crop]
        self._filters |= {begin + i: name for i in candidates.tolist()}

    def suppressed(
        self, name: Filter, crop: Crop, candidates: torch.Tensor, boxes: torch.Tensor, kept: torch.Tensor, limit: float
    ) -> None:
        # Who won against whom is looked up for the few that are asked about.
        self._nms[crop] = candidates, boxes, kept, limit
        gone = torch.ones(len(candidates), dtype=torch.bool)
        gone[kept] = False
        self.filtered(name, crop, candidates[gone])

    def dropped(self, name: Filter, winner: Winner, value: float, limit: float, whole: Winner | None = None) -> None:
        if winner.candidate is not None:
            self._losses[winner.candidate] = Loss(name, value, limit, None if whole is None else whole.candidate)

    def beaten(self, name: Filter, winners: Sequence[Winner], kept: Sequence[int], limit: float) -> None:
        boxes = torch.tensor([w.box for w in winners])
        for i in set(range(len(winners))) - set(kept):
            by, overlap = _first_above(boxes[i], boxes[list(kept)], limit)
            candidate = winners[i].candidate
            if candidate is not None:
                self._losses[candidate] = Loss(name, overlap, limit, winners[kept[by]].candidate)

    def finished(self, winners: Sequence[Winner]) -> None:
        self.masks = {w.candidate: i for i, w in enumerate(winners, start=1) if w.candidate is not None}

    def filter(self, candidate: int) -> Filter | None:
        """The filter that took a candidate; None for one that is a mask. Raises IndexError as `loss` does."""
        if not 0 <= candidate < self.end:
            raise IndexError(f"there is no candidate {candidate}")
        if candidate in self.masks:
            return None
        return self._losses[candidate].filter if candidate in self._losses else self._filters[candidate]

    def loss(self, candidate: int) -> Loss | None:
        """Why a candidate is no mask; None for one that is. Raises IndexError for one outside of the wished crops."""
        name = self.filter(candidate)
        if name is None:
            return None
        if candidate in self._losses:
            return self._losses[candidate]
        if name in _SCORES:
            value = float(getattr(self._proposals.candidates, name)[candidate])
            return Loss(name, value, getattr(self._wish, _SCORES[name]))
        return self._beaten_in_crop(candidate) if name == "nms" else Loss(name)

    def crop_of(self, candidate: int) -> Crop:
        return next(crop for crop, begin in reversed(self.begin.items()) if begin <= candidate)

    def _beaten_in_crop(self, candidate: int) -> Loss:
        crop = self.crop_of(candidate)
        candidates, boxes, kept, limit = self._nms[crop]
        place = int((candidates == candidate - self.begin[crop]).nonzero()[0, 0])
        by, overlap = _first_above(boxes[place], boxes[kept], limit)
        return Loss("nms", overlap, limit, self.begin[crop] + int(candidates[kept[by]]))


def reasons(proposals: Proposals, wish: GeneratorParameters, cleanup: CleanupParameters) -> Reasons:
    """What became of every candidate under these values, which leave edges alone. Raises as `Proposals.select`."""
    found = Reasons(proposals, wish)
    proposals.select(wish, cleanup, journal=found)
    return found


def verdicts_at(proposals: Proposals, found: Reasons, x: int, y: int, limit: int | None = None) -> list[Verdict]:
    """What became of the candidates whose mask, as proposed, holds pixel x, y of the image; at most `limit` of them.

    Masks first, then what a threshold or clean-up took, then those that only say the same as another one (NMS); each
    of the three by falling predicted IoU. Candidates below the floor's stability have no mask and are not among them.
    """
    predicted_iou, stability = proposals.candidates.predicted_iou, proposals.candidates.stability

    def rank(candidate: int) -> tuple[int, float, int]:
        name = found.filter(candidate)
        return 0 if name is None else 1 + ("nms" in name), -float(predicted_iou[candidate]), candidate

    verdicts: list[Verdict] = []
    # Unpacking takes the time, so the best come first, and with `limit` the rest stays packed.
    for candidate in sorted(_boxed_at(proposals, found, x, y), key=rank):
        x0, y0, _, _ = found.crop_of(candidate).box
        left, top, runs = proposals.masks.unpacked(candidate)
        column, row = x - x0 - left, y - y0 - top
        if not ((runs.column == column) & (runs.top <= row) & (row < runs.bottom)).any():
            continue
        verdicts.append(
            Verdict(
                candidate,
                float(predicted_iou[candidate]),
                float(stability[candidate]),
                left + x0,
                top + y0,
                runs,
                found.masks.get(candidate),
                found.loss(candidate),
            )
        )
        if len(verdicts) == limit:
            break
    return verdicts


def _boxed_at(proposals: Proposals, found: Reasons, x: int, y: int) -> list[int]:
    """Candidates whose box holds the pixel."""
    begins = list(found.begin.items())
    ends = [begin for _, begin in begins[1:]] + [found.end]
    boxed: list[int] = []
    for (crop, begin), end in zip(begins, ends, strict=True):
        x0, y0, _, _ = crop.box
        frames = proposals.masks.frames[begin:end]
        left, top = frames[:, 0] + x0, frames[:, 1] + y0
        inside = (left <= x) & (x < left + frames[:, 2]) & (top <= y) & (y < top + frames[:, 3])
        boxed += (inside.nonzero()[0] + begin).tolist()
    return boxed


def _first_above(box: torch.Tensor, kept: torch.Tensor, limit: float) -> tuple[int, float]:
    """The first of the kept boxes (best first) whose IoU with `box` is above the limit: it is what NMS went by."""
    overlaps = box_iou(box[None].float(), kept.float())[0].double()
    place = int((overlaps > limit).nonzero()[0, 0])
    return place, float(overlaps[place])
