"""Fill: the masks of the first round stay as they are, later rounds add what is new, and say what came of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from densecli.engine.filling import DENSITIES
from densecli.engine.generator import Generated, MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.proposals import Floor
from densecli.engine.second_look import SecondLook
from tests.same_masks import assert_same_masks

COARSE: dict[str, Any] = {"points_per_side": 3, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.6}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "clean-up": ({}, {"min_mask_region_area": 60}),
    "drop": ({}, {"parts": "drop", "parts_min_siblings": 1}),
    "wholes": ({}, {"parts": "wholes"}),
    "crops": ({"crop_n_layers": 1}, {}),
    "m2m": ({"use_m2m": True}, {}),
    "wholes asked for": ({"ask_for_wholes": True}, {}),
}


def generate(starter, pixels, fill: bool, values=None, cleanup=None, **keys: Any) -> Generated:
    parameters = GeneratorParameters(**{**COARSE, **(values or {}), "fill": fill})
    return MaskGenerator(starter, parameters, CleanupParameters(**(cleanup or {}))).generate(pixels, **keys)


def coverage(masks, size) -> float:
    every = np.zeros(size, dtype=bool)
    for mask in masks:
        every |= mask.decode()
    return float(every.mean())


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "photo", ["coffee", *(pytest.param(p, marks=pytest.mark.slow) for p in ("astronaut", "chelsea"))]
)
def test_first_masks_stay_and_new_ones_are_new(starter, photos, photo: str, name: str) -> None:
    values, cleanup = SETTINGS[name]
    pixels = photos[photo]
    size = pixels.shape[:2]
    first = generate(starter, pixels, False, values, cleanup)
    filled = generate(starter, pixels, True, values, cleanup)
    report = filled.funnel.fill
    assert report is not None and first.funnel.fill is None
    before = {m.segmentation["counts"] for m in first.masks}
    assert before <= {m.segmentation["counts"] for m in filled.masks}
    added = [m for m in filled.masks if m.segmentation["counts"] not in before]
    assert report.masks_added == len(added) == len(filled.masks) - len(first.masks)
    assert report.coverage_before == coverage(first.masks, size)
    assert report.coverage_after == coverage(filled.masks, size) >= report.coverage_before
    assert report.rounds <= len(DENSITIES) and (report.points > 0) == (report.rounds > 0)
    asked_first = {m.point_coords for m in first.masks}
    old = np.any([m.decode() for m in first.masks] or [np.zeros(size, bool)], axis=0)
    for mask in added:
        assert mask.predicted_iou > 0.4 and mask.stability_score >= 0.6
        assert mask.point_coords not in asked_first and mask.crop_box == (0, 0, size[1], size[0])
        x, y = mask.point_coords[0]
        assert not old[int(y), int(x)]
        assert (mask.decode() & ~old).sum() >= 0.5 * mask.area
        assert mask.area >= cleanup.get("min_mask_region_area", 1)
    # Ids and parents are those of all masks together.
    assert [m.id for m in filled.masks] == list(range(1, len(filled.masks) + 1))
    assert [m.area for m in filled.masks] == sorted((m.area for m in filled.masks), reverse=True)
    by_id = {m.id: m for m in filled.masks}
    for mask in filled.masks:
        if mask.parent is not None:
            above = by_id[mask.parent]
            assert above.area > mask.area and (above.decode() & mask.decode()).sum() >= 0.9 * mask.area
    # The funnel is that of the first round.
    assert (filled.funnel.points, filled.funnel.after_parts) == (first.funnel.points, len(first.masks))


def test_it_adds_something_at_all(first_starter, photos) -> None:
    reports = [generate(first_starter, pixels, True).funnel.fill for pixels in photos.values()]
    assert all(r is not None and r.masks_added > 0 and r.coverage_after > r.coverage_before for r in reports)


def test_a_covered_image_is_not_asked_again(starter, photos) -> None:
    values = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "mask_threshold": -60.0}
    report = generate(starter, photos["coffee"], True, values).funnel.fill
    assert report is not None and report.coverage_before == 1.0
    assert (report.rounds, report.points, report.masks_added) == (0, 0, 0)


def test_a_round_without_a_new_mask_is_the_last_one(first_starter) -> None:
    report = generate(first_starter, np.full((60, 80, 3), 128, np.uint8), True, {"pred_iou_thresh": 1.0}).funnel.fill
    assert report is not None and (report.rounds, report.masks_added) == (1, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (5, 7)])
def test_any_size(starter, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    generated = generate(starter, pixels, True, {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0})
    assert generated.funnel.fill is not None
    assert all(m.decode().sum() == m.area > 0 for m in generated.masks)


def test_progress_goes_on_and_ends_complete(starter, photos) -> None:
    calls: list[tuple[int, int]] = []
    generated = generate(starter, photos["coffee"], True, progress=lambda done, total: calls.append((done, total)))
    report = generated.funnel.fill
    assert report is not None and calls[-1] == (9 + report.points, 9 + report.points)
    assert calls == sorted(calls) and all(done <= total for done, total in calls)


def test_kept_candidates_with_the_model_at_hand_give_the_same(starter, photos) -> None:
    fresh = generate(starter, photos["coffee"], True)
    kept = generate(starter, photos["coffee"], True, keep=Floor())
    assert_same_masks([m.summary() for m in kept.masks], [m.summary() for m in fresh.masks])
    assert kept.funnel == fresh.funnel and kept.proposals is not None
    wish = GeneratorParameters(**COARSE, fill=True)
    assert "fill asks the model again" in (kept.proposals.refusal(wish) or "")
    with pytest.raises(ValueError, match="fill"):
        kept.proposals.select(wish, CleanupParameters())
    look = SecondLook(MaskGenerator(starter), photos["coffee"])
    for _ in range(2):  # the second time with features that are there
        masks, funnel = kept.proposals.select(wish, CleanupParameters(), look=look)
        assert_same_masks([m.summary() for m in masks], [m.summary() for m in fresh.masks])
        assert funnel == fresh.funnel
