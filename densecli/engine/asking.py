"""Asks the model again for the whole of similar masks in rows and grids, where that is not among the masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from densecli.engine import wholes
from densecli.engine.candidates import duplicates, suppress
from densecli.engine.parts import Placed
from densecli.engine.prompts import Prompt

if TYPE_CHECKING:
    from densecli.engine.parameters import GeneratorParameters
    from densecli.engine.second_look import SecondLook
    from densecli.engine.selection import Funnel, Journal, Winner

# SAM 2 was trained with up to 8 clicks on one thing (its num_correction_pt_per_frame 7, and the first one).
_MOST_POINTS = 8
# Fewer than three masks are neither row nor grid, whatever `parts_min_siblings` says.
_FEWEST = 3

Clean = Callable[[list["Winner"]], list["Winner"]]
"""Clean-up of masks as for those of the grid; some may go."""


def with_wholes(
    winners: list[Winner],
    parameters: GeneratorParameters,
    min_siblings: int,
    clean: Clean,
    look: SecondLook | None,
    funnel: Funnel,
    journal: Journal | None = None,
) -> list[Winner]:
    """The masks, with the model's answers for groups of at least `min_siblings` similar ones without a whole.

    Two questions a group: its joint box, and up to 8 of its middles as one prompt of several points. An answer counts
    if it passes the thresholds and the clean-up and covers 80 % of the group's area; the best one (predicted IoU) of
    each group then takes part in box NMS. look: None where there is no model; then groups are only counted.
    """
    placed = [Placed(w.x, w.y, w.runs) for w in winners]
    missing = wholes.without_whole(placed, max(_FEWEST, min_siblings))
    if look is None:
        funnel.unasked += len(missing)
        return winners
    funnel.asked += len(missing)
    questions = []
    for group in missing:
        x0, y0, x1, y1 = group.box
        # Corners lie on the outermost pixels, as in sam2's boxes.
        questions.append(Prompt(box=(float(x0), float(y0), float(x1 - 1), float(y1 - 1))))
        questions.append(Prompt(points=wholes.spread(placed, group, _MOST_POINTS)))
    answers = look.answers(questions, parameters)
    best = []
    for group, by_box, by_points in zip(missing, answers[::2], answers[1::2], strict=True):
        cleaned = [left for answer in (*by_box, *by_points) for left in clean([answer])]
        good = [a for a in cleaned if wholes.is_whole(Placed(a.x, a.y, a.runs), group, placed)]
        if good:
            best.append(max(good, key=lambda a: a.predicted_iou))
    settled = _settled(winners, best, parameters.box_nms_thresh, journal)
    answered = {id(a) for a in best}
    funnel.answered += sum(id(w) in answered for w in settled)
    return settled


def _settled(
    winners: list[Winner], answers: list[Winner], threshold: float, journal: Journal | None = None
) -> list[Winner]:
    """Box NMS between answers, and of each with the masks that are there: the higher predicted IoU wins.

    Masks that were there do not meet each other again.
    """
    left = winners
    for answer in sorted(answers, key=lambda a: -a.predicted_iou):
        same = duplicates(torch.tensor([w.box for w in left]), torch.tensor([answer.box]), threshold).tolist()
        rivals = [w for w, is_same in zip(left, same, strict=True) if is_same]
        if all(w.predicted_iou < answer.predicted_iou for w in rivals):
            left = [w for w, is_same in zip(left, same, strict=True) if not is_same] + [answer]
            if journal is not None and rivals:
                journal.beaten("nms_after_cleanup", [answer, *rivals], [0], threshold)
    return left


def without_known(new: list[Winner], known: Sequence[Winner], threshold: float) -> list[Winner]:
    """Those that box NMS keeps where all that is known wins: new ones by falling predicted IoU."""
    if not new:
        return []
    boxes = torch.tensor([w.box for w in new])
    fresh = (~duplicates(boxes, torch.tensor([w.box for w in known]), threshold)).nonzero()[:, 0]
    kept = suppress(boxes[fresh], torch.tensor([new[i].predicted_iou for i in fresh.tolist()]), threshold)
    return [new[i] for i in fresh[kept].tolist()]
