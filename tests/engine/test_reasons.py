"""Why candidates are no masks: for every one of them, what `reasons` says is what the selection did."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from torchvision.ops import box_iou

from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.proposals import Floor, Proposals
from densecli.engine.reasons import Loss, reasons, verdicts_at
from densecli.masks import Runs
from tests.engine.wishes import cleanups, wishes

GRIDS: dict[str, dict[str, Any]] = {
    "plain": {"points_per_side": 10},
    "crops": {"points_per_side": 7, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
}


@pytest.fixture(scope="module")
def kept(starter_that_ships, photos):
    @cache
    def of(name: str) -> Proposals:
        run = MaskGenerator(starter_that_ships, GeneratorParameters(**GRIDS[name]))
        proposals = run.generate(photos["coffee"], keep=Floor(0.2, 0.3)).proposals
        assert proposals is not None and len(proposals) > 50
        return proposals

    return of


def area(proposals: Proposals, candidate: int) -> int:
    return proposals.masks.unpacked(candidate)[2].area


def check(proposals: Proposals, wish: GeneratorParameters, cleanup: CleanupParameters, loss: Loss, i: int) -> None:
    """The figures of a loss are those of the candidate, and they do cost it its place."""
    candidates = proposals.candidates
    match loss.filter:
        case "predicted_iou":
            assert loss.limit == wish.pred_iou_thresh >= loss.value == float(candidates.predicted_iou[i])
        case "stability":
            assert loss.limit == wish.stability_score_thresh
            assert not loss.value >= loss.limit and loss.value == pytest.approx(
                float(candidates.stability[i]), nan_ok=True
            )
        case "nms":
            assert loss.by is not None and loss.value > loss.limit == wish.box_nms_thresh
            assert candidates.predicted_iou[loss.by] >= candidates.predicted_iou[i]
            boxes = candidates.boxes[[i, loss.by]].float()
            assert loss.value == float(box_iou(boxes[:1], boxes[1:]))
        case "crop_nms":
            assert loss.by is not None and loss.value > loss.limit == wish.crop_nms_thresh
        case "nms_after_cleanup":
            looser = max(wish.box_nms_thresh, wish.crop_nms_thresh) if wish.crop_n_layers else wish.box_nms_thresh
            assert loss.by is not None and loss.value > loss.limit == looser
        case "area":
            assert loss.value == area(proposals, i) and loss.limit == cleanup.min_mask_region_area > 1
        case "empty":
            assert area(proposals, i) == 0
        case "too_large":
            assert cleanup.max_mask_area_fraction is not None
            assert loss.value > loss.limit == proposals.size[0] * proposals.size[1] * cleanup.max_mask_area_fraction
        case "parts":
            assert cleanup.parts != "keep" and loss.by is not None
            assert loss.value == 0 if cleanup.parts == "wholes" else loss.value >= loss.limit
        case "crop_edge":
            assert wish.crop_n_layers > 0


STAGES = ["predicted_iou", "stability", "crop_edge", "nms", "area", "parts"]
STAGE_OF = {"crop_nms": "nms", "empty": "area", "too_large": "area", "nms_after_cleanup": "area"}


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=25)
@given(wish=wishes, cleanup=cleanups)
def test_every_candidate_has_the_fate_that_the_selection_gave_it(
    kept, grid: str, wish: dict[str, float], cleanup: CleanupParameters
) -> None:
    proposals, parameters = kept(grid), GeneratorParameters(**GRIDS[grid], **wish)
    masks, funnel = proposals.select(parameters, cleanup)
    found = reasons(proposals, parameters, cleanup)
    losses = {i: found.loss(i) for i in range(len(proposals))}
    # Those without a loss are the masks, score by score.
    assert sorted(found.masks) == [i for i, loss in losses.items() if loss is None]
    assert sorted(found.masks.values()) == [m.id for m in masks]
    for candidate, mask_id in found.masks.items():
        assert masks[mask_id - 1].predicted_iou == float(proposals.candidates.predicted_iou[candidate])
        assert masks[mask_id - 1].stability_score == float(proposals.candidates.stability[candidate])
    # Each filter took as many as the funnel counted.
    took = Counter(STAGE_OF.get(loss.filter, loss.filter) for loss in losses.values() if loss is not None)
    left = len(proposals)
    after = [
        funnel.after_pred_iou,
        funnel.after_stability,
        funnel.after_crop_edge,
        funnel.after_nms,
        funnel.after_area,
        funnel.after_parts,
    ]
    for stage, count in zip(STAGES, after, strict=True):
        assert left - took[stage] == count, stage
        left = count
    for i, loss in losses.items():
        if loss is not None:
            check(proposals, parameters, cleanup, loss, i)


def test_all_filters_occur(kept) -> None:
    """Without this, the test above could pass over a filter that its values never reach."""
    proposals, filters = kept("crops"), set()
    for thresholds, cleanup in [
        ({"crop_nms_thresh": 0.4}, CleanupParameters(min_mask_region_area=300, max_mask_area_fraction=0.2)),
        ({"box_nms_thresh": 0.9}, CleanupParameters(parts="drop", parts_min_siblings=2, min_mask_region_area=1000)),
    ]:
        values = GRIDS["crops"] | {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.7} | thresholds
        found = reasons(proposals, GeneratorParameters(**values), cleanup)
        filters |= {loss.filter for i in range(len(proposals)) if (loss := found.loss(i)) is not None}
    assert filters >= {"predicted_iou", "stability", "crop_edge", "nms", "crop_nms", "area", "too_large", "parts"}


def test_asked_about_a_pixel_it_names_those_that_hold_it(kept) -> None:
    proposals = kept("crops")
    wish = GeneratorParameters(**GRIDS["crops"], pred_iou_thresh=0.4, stability_score_thresh=0.6)
    found = reasons(proposals, wish, CleanupParameters())
    height, width = proposals.size
    for x, y in [(0, 0), (width - 1, height - 1), (width // 2, height // 2), (width // 3, height // 4)]:
        verdicts = verdicts_at(proposals, found, x, y)
        expected = set()
        for i in range(len(proposals)):
            box = found.crop_of(i).box
            left, top, runs = proposals.masks.unpacked(i)
            picture = np.zeros((height, width), bool)
            window = runs.decode()
            picture[top + box[1] :, left + box[0] :][: window.shape[0], : window.shape[1]] = window
            if picture[y, x]:
                expected.add(i)
        assert {v.candidate for v in verdicts} == expected
        order = [(v.loss is not None, "nms" in v.loss.filter if v.loss else False, -v.predicted_iou) for v in verdicts]
        assert order == sorted(order)
        for limit in (1, 5):
            some = verdicts_at(proposals, found, x, y, limit)
            assert [v.candidate for v in some] == [v.candidate for v in verdicts[:limit]]
        for v in verdicts:
            assert (v.mask_id is None) != (v.loss is None)
            assert isinstance(v.runs, Runs) and v.runs.area == area(proposals, v.candidate)
    assert verdicts_at(proposals, found, width + 5, 3) == []


def test_fewer_crop_layers_leave_the_other_candidates_out(kept) -> None:
    proposals = kept("crops")
    wish = GeneratorParameters(points_per_side=7, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    found = reasons(proposals, wish, CleanupParameters())
    assert found.end == proposals.crop_sizes[0] < len(proposals)
    with pytest.raises(IndexError):
        found.loss(found.end)
