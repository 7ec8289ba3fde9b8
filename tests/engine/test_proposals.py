"""What kept proposals give is what a fresh run gives, for any thresholds that they can tell about."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from densecli.engine import generator as generator_module
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters, Limits
from densecli.engine.proposals import Floor, Proposals, same_candidates
from densecli.errors import UsageError
from densecli.masks import Mask
from tests.engine.wishes import cleanups, wishes
from tests.same_masks import assert_same_masks

LOW = Floor(0.2, 0.3)
GRIDS: dict[str, dict[str, Any]] = {
    "plain": {"points_per_side": 9},
    "crops": {"points_per_side": 6, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    "m2m": {"points_per_side": 6, "use_m2m": True},
    "single mask": {"points_per_side": 8, "multimask_output": False},
    "offset and threshold": {"points_per_side": 7, "mask_threshold": 0.5, "stability_score_offset": 0.6},
}


@pytest.fixture(scope="module")
def kept(starter, photos):
    """Proposals by name of the grid, from one run each."""

    @cache
    def of(name: str) -> Proposals:
        parameters = GeneratorParameters(**GRIDS[name])
        generated = MaskGenerator(starter, parameters).generate(photos["coffee"], keep=LOW)
        assert generated.proposals is not None and generated.proposals.floor == LOW
        assert len(generated.proposals) > 20
        return generated.proposals

    return of


def everything(masks: list[Mask]) -> list[dict[str, Any]]:
    return [mask.summary() for mask in masks]


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=8)
@given(wish=wishes, cleanup=cleanups)
def test_same_as_a_fresh_run(starter, photos, kept, grid: str, wish: dict[str, float], cleanup) -> None:
    parameters = GeneratorParameters(**GRIDS[grid], **wish)
    masks, funnel = kept(grid).select(parameters, cleanup)
    fresh = MaskGenerator(starter, parameters, cleanup).generate(photos["coffee"])
    assert_same_masks(everything(masks), everything(fresh.masks))
    assert funnel == fresh.funnel


@pytest.mark.parametrize("batch", [5, 64])
def test_the_run_that_keeps_gives_the_same_masks(starter, photos, batch: int) -> None:
    parameters = GeneratorParameters(points_per_side=8, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    run = MaskGenerator(starter, parameters, limits=Limits(points_per_batch=batch))
    plain = run.generate(photos["astronaut"])
    kept = run.generate(photos["astronaut"], keep=Floor())
    assert plain.proposals is None and len(plain.masks) > 3
    assert_same_masks(everything(kept.masks), everything(plain.masks))
    assert kept.funnel == plain.funnel
    assert kept.proposals is not None and kept.proposals.floor == Floor(0.3, 0.5)


def test_a_run_that_keeps_nothing_makes_masks_of_winners_only(starter, photos, monkeypatch) -> None:
    parameters = GeneratorParameters(points_per_side=8, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    made: list[tuple] = []
    real = generator_module.Upsampling.masks

    def noted(self, *arguments):
        masks = real(self, *arguments)
        made.extend(masks)
        return masks

    monkeypatch.setattr(generator_module.Upsampling, "masks", noted)
    funnel = MaskGenerator(starter, parameters).generate(photos["coffee"]).funnel
    assert len(made) == funnel.after_nms < funnel.after_stability / 3


def test_floor_of_zero_keeps_all_candidates(starter, photos) -> None:
    parameters = GeneratorParameters(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    fresh = MaskGenerator(starter, parameters).generate(photos["chelsea"])
    kept = MaskGenerator(starter, GeneratorParameters(points_per_side=4)).generate(
        photos["chelsea"], keep=Floor(0.0, 0.0)
    )
    assert kept.proposals is not None and len(kept.proposals) == 48
    masks, funnel = kept.proposals.select(parameters, CleanupParameters())
    assert_same_masks(everything(masks), everything(fresh.masks))
    assert funnel == fresh.funnel


def test_fewer_crop_layers_need_no_run(starter, photos, kept) -> None:
    wish = GeneratorParameters(points_per_side=6, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    masks, funnel = kept("crops").select(wish, CleanupParameters())
    fresh = MaskGenerator(starter, wish).generate(photos["coffee"])
    assert_same_masks(everything(masks), everything(fresh.masks))
    assert funnel == fresh.funnel
    assert same_candidates((200, 300), GeneratorParameters(**GRIDS["crops"]), wish)
    assert not same_candidates((200, 300), wish, GeneratorParameters(**GRIDS["crops"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"points_per_side": 10}, "points_per_side 9, not of 10"),
        ({"crop_n_layers": 1}, "crop_n_layers 0, not of 1"),
        ({"use_m2m": True}, "use_m2m no, not of yes"),
        ({"multimask_output": False}, "multimask_output yes, not of no"),
        ({"mask_threshold": 0.25}, "mask_threshold 0, not of 0.25"),
        ({"stability_score_offset": 2.0}, "stability_score_offset 1, not of 2"),
        ({"pred_iou_thresh": 0.19}, "from pred_iou_thresh 0.2 up only, and 0.19 is below"),
        ({"stability_score_thresh": 0.0}, "from stability_score_thresh 0.3 up only, and 0 is below"),
    ],
)
def test_what_it_cannot_tell_it_says(kept, change: dict[str, Any], said: str) -> None:
    proposals = kept("plain")
    values = {**GRIDS["plain"], "pred_iou_thresh": 0.2, "stability_score_thresh": 0.3}
    assert proposals.refusal(GeneratorParameters(**values)) is None
    assert said in (proposals.refusal(GeneratorParameters(**{**values, **change})) or "")
    with pytest.raises(ValueError, match=next(iter(change))):
        proposals.select(GeneratorParameters(**{**values, **change}), CleanupParameters())


def test_masks_take_a_few_bytes_and_only_what_can_win_has_one(first_starter, photos) -> None:
    parameters = GeneratorParameters(**GRIDS["plain"])
    proposals = MaskGenerator(first_starter, parameters).generate(photos["coffee"], keep=LOW).proposals
    assert proposals is not None
    unstable = ~(proposals.candidates.stability >= LOW.stability)
    sizes = torch.from_numpy(proposals.masks.sizes.astype("int64"))
    assert bool(unstable.any()) and not sizes[unstable].any()
    assert proposals.nbytes < 2000 * len(proposals)


def test_not_one_survivor(first_starter, photos) -> None:
    generated = MaskGenerator(first_starter, GeneratorParameters(points_per_side=4, pred_iou_thresh=1.0)).generate(
        photos["chelsea"], keep=Floor(0.99, 0.5)
    )
    assert generated.masks == [] and generated.proposals is not None and len(generated.proposals) == 0
    assert 0.3 < generated.funnel.best_predicted_iou < 0.99


@pytest.mark.parametrize("floor", [(-1, 0.5), (0.5, 1.5), (float("nan"), 0.5)])
def test_floors_that_are_none(floor: tuple[float, float]) -> None:
    """A file of such candidates could not be read again."""
    with pytest.raises(UsageError, match="floor of .*: give a number from 0 to 1"):
        Floor(*floor)
