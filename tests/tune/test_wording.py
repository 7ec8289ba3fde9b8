"""Why a candidate is no mask, in words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from densecli.engine.parameters import GeneratorParameters
from densecli.engine.reasons import Loss, Reasons
from densecli.tune.state import Tuning
from densecli.tune.wording import in_words, let_in


@pytest.fixture
def found(tuning: Tuning) -> Reasons:
    made = Reasons(tuning.first.proposals, GeneratorParameters(points_per_side=8))
    made.masks = {7: 12, 8: 3}
    return made


@pytest.mark.parametrize(
    ("loss", "said", "way"),
    [
        (Loss("predicted_iou", 0.83, 0.85), "predicted IoU 0.83 < 0.85", ("pred_iou_thresh", 0.82)),
        (Loss("predicted_iou", 0.8497, 0.85), "predicted IoU 0.8497 < 0.8500", ("pred_iou_thresh", 0.84)),
        (Loss("predicted_iou", 0.85, 0.85), "predicted IoU 0.85 is not above 0.85", ("pred_iou_thresh", 0.84)),
        (Loss("stability", 0.88, 0.9), "stability 0.88 < 0.90", ("stability_score_thresh", 0.88)),
        (Loss("stability", math.nan, 0.9), "has no pixel", None),
        (Loss("crop_edge"), "cut off by the edge of its crop", None),
        (
            Loss("nms", 0.82, 0.7, 7),
            "box IoU 0.82 > 0.70 with mask 12, which scores higher",
            ("box_nms_thresh", 0.82),
        ),
        (
            Loss("nms", 0.82, 0.7, 9),
            "box IoU 0.82 > 0.70 with a candidate that was itself dropped, which scores higher",
            ("box_nms_thresh", 0.82),
        ),
        (Loss("nms", 0.999, 0.7, 7), "box IoU 1.00 > 0.70 with mask 12, which scores higher", None),
        (Loss("area", 312, 500), "area 312 px < 500 px", ("min_mask_region_area", 312)),
        (Loss("area", 1312, 500), "area 1,312 px, but in pieces of less than 500 px", None),
        (Loss("too_large", 900, 100.5), "area 900 px > 100 px", ("max_mask_area_fraction", 0.09)),
        (Loss("too_large", 9999, 100), "area 9,999 px > 100 px", ("max_mask_area_fraction", None)),
        (
            Loss("parts", 12, 4, 8),
            "one of 12 similar parts of mask 3, or inside of one",
            ("parts_min_siblings", 13),
        ),
        (Loss("parts", 0, 4, 8), "part of mask 3", ("parts", "keep")),
        (Loss("parts", 0, 4, None), "part of a mask that the model was asked for", ("parts", "keep")),
        (Loss("empty"), "has no pixel", None),
    ],
)
def test_words_and_way_in(tuning: Tuning, found: Reasons, loss: Loss, said: str, way: tuple[str, Any] | None) -> None:
    rule = "drop" if loss.value else "wholes"
    wish = tuning.resolved({"parts": rule})
    assert in_words(loss, found) == said
    assert let_in(loss, wish, 10_000) == (None if way is None else {"key": way[0], "value": way[1]})
