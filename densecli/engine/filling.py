"""Fill: up to three denser grids over what no mask covers, which never change the masks that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from densecli.engine import grid, parts, uncovered
from densecli.engine.asking import Clean, without_known
from densecli.engine.candidates import duplicates
from densecli.engine.parts import Placed

if TYPE_CHECKING:
    from densecli.engine.candidates import Candidates
    from densecli.engine.parameters import CleanupParameters, GeneratorParameters
    from densecli.engine.run import Wanted
    from densecli.engine.second_look import SecondLook
    from densecli.engine.selection import Winner

DENSITIES = (2, 4, 8)
"""Points on the same area, compared with the first grid, round by round."""
# A mask of a later round must bring at least this share of new pixels: what is covered has been asked about.
_NEW = 0.5


@dataclass(frozen=True)
class Filled:
    """What the rounds came to. coverage: fraction of the image's pixels that lie in a mask."""

    rounds: int
    points: int
    masks_added: int
    coverage_before: float
    coverage_after: float


def filled(
    winners: Sequence[Winner],
    size: tuple[int, int],
    parameters: GeneratorParameters,
    wish: CleanupParameters,
    clean: Clean,
    look: SecondLook,
) -> tuple[list[Winner], list[int | None], Filled]:
    """All masks by falling area, those that were there and those added; each one's parent; and what the rounds did.

    size: height and width of the image. The thresholds and the clean-up are those of the first round. A mask is added
    if at least half of it is new and box NMS, in which earlier masks win, finds no duplicate. Ends when a round adds
    nothing. Under `cleanup.parts` only added masks may go.
    """
    canvas = uncovered.covered(map(_placed, winners), size)
    before = _mean(canvas)
    added, rounds, points = _rounds(winners, canvas, parameters, clean, look)
    both = sorted([*winners, *added], key=lambda w: -w.area)
    parent = parts.parents([_placed(w) for w in both])
    gone = parts.dropped(parent, [w.area for w in both], wish.parts, wish.parts_min_siblings)
    new = {id(w) for w in added}
    stays = [i for i, w in enumerate(both) if i not in gone or id(w) not in new]
    if len(stays) < len(both):
        canvas = uncovered.covered((_placed(both[i]) for i in stays), size)
    left = [both[i] for i in stays]
    return left, _among(stays, parent), Filled(rounds, points, len(left) - len(winners), before, _mean(canvas))


def _among(stays: Sequence[int], parent: Sequence[int | None]) -> list[int | None]:
    """Parents in places of those that stay; where a parent went, the next one above it."""
    place = {old: new for new, old in enumerate(stays)}
    above: list[int | None] = []
    for i in stays:
        up = parent[i]
        while up is not None and up not in place:
            up = parent[up]
        above.append(None if up is None else place[up])
    return above


def _rounds(
    winners: Sequence[Winner], canvas: np.ndarray, parameters: GeneratorParameters, clean: Clean, look: SecondLook
) -> tuple[list[Winner], int, int]:
    """Masks to add, rounds and points that it took. The canvas gets the added masks too."""
    height, width = canvas.shape
    asked = grid.point_grid(parameters.points_per_side) * [width, height]
    added: list[Winner] = []
    rounds = points = 0
    for density in DENSITIES:
        wanted = uncovered.points(canvas, asked, math.ceil(parameters.points_per_side * math.sqrt(density)))
        if not len(wanted):
            break
        rounds += 1
        points += len(wanted)
        asked = np.concatenate([asked, wanted])
        known = [*winners, *added]
        new_ones = _new_ones(known, canvas, parameters)
        new = [w for w in clean(look.at_points(wanted, parameters, new_ones)) if _is_new(w, canvas)]
        new = without_known(new, known, parameters.box_nms_thresh)
        if not new:
            break
        added += new
        for winner in new:
            uncovered.paint(canvas, _placed(winner))
    return added, rounds, points


def _placed(winner: Winner) -> Placed:
    return Placed(winner.x, winner.y, winner.runs)


def _new_ones(known: Sequence[Winner], canvas: np.ndarray, parameters: GeneratorParameters) -> Wanted:
    """Keeps candidates that are no duplicates (box NMS) of what is known and seem new enough at low resolution.

    Before their own NMS, in which they would else give way to another proposal of a mask that is there.
    """
    boxes = torch.tensor([w.box for w in known]).reshape(-1, 4)

    @cache
    def free(h: int, w: int) -> torch.Tensor:
        """Share of each cell that no mask covers."""
        small = cv2.resize(canvas * 255, (w, h), interpolation=cv2.INTER_AREA)
        return 1 - torch.from_numpy(small).flatten() / 255

    def wanted(candidates: Candidates, logits: torch.Tensor) -> torch.Tensor:
        inside = (logits > parameters.mask_threshold).flatten(1).float()
        new = inside @ free(*logits.shape[1:]).to(logits.device) >= _NEW * inside.sum(1)
        return new & ~duplicates(candidates.boxes, boxes.to(logits.device), parameters.box_nms_thresh)

    return wanted


def _is_new(winner: Winner, canvas: np.ndarray) -> bool:
    mask = _placed(winner)
    old = np.count_nonzero(uncovered.window_of(canvas, mask)[mask.runs.decode()])
    return bool(old <= (1 - _NEW) * winner.area)


def _mean(canvas: np.ndarray) -> float:
    return float(np.count_nonzero(canvas) / canvas.size)
