"""NMS after clean-up takes duplicates that clean-up made, and nothing that NMS before it kept on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import skimage.data

from densecli.engine.cleanup import remove_small_regions
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.selection import Funnel, Winner, finished
from densecli.masks import Mask, Runs

SIZE = 400, 400
WHOLE, CROP = (0, 0, 400, 400), (0, 0, 266, 266)
CROPS = 5
CLEANUP = CleanupParameters(min_mask_region_area=50)


def found(x: int, y: int, w: int, h: int, crop: tuple[int, int, int, int] = WHOLE, speck: int | None = None) -> Winner:
    """A rectangle of pixels. speck: a pixel as far to the right of it, which clean-up takes away."""
    mask = np.ones((h, w if speck is None else w + speck), dtype=bool)
    if speck is not None:
        mask[:, w:-1] = False
        mask[1:, -1] = False
    return Winner(x, y, Runs.of(mask), 0.9, 0.99, ((x + 1.0, y + 1.0),), crop)


def boxes(masks: Sequence[Mask]) -> set[tuple[int, int, int, int]]:
    return {m.bbox for m in masks}


class Noted:
    """A journal of NMS: the limit, the places of those that it kept, and of how many."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[float, list[int], int]] = {}

    def beaten(self, name: str, winners: Sequence[Winner], kept: Sequence[int], limit: float) -> None:
        self.kept[name] = limit, list(kept), len(winners)

    def finished(self, winners: Sequence[Winner]) -> None:
        self.masks = winners


@pytest.mark.parametrize("speck", [None, 5], ids=["nothing to clean", "another mask is cleaned"])
def test_what_crop_nms_let_pass_stays_whatever_happens_to_another_mask(speck: int | None) -> None:
    parameters = GeneratorParameters(crop_n_layers=1, crop_nms_thresh=0.95, box_nms_thresh=0.7)
    alike = [found(100, 100, 100, 100), found(100, 100, 100, 90, CROP)]  # box IoU 0.9
    funnel = Funnel()
    masks = finished([*alike, found(300, 300, 50, 50, speck=speck)], CROPS, SIZE, parameters, CLEANUP, funnel)
    assert boxes(masks) == {(100, 100, 100, 100), (100, 100, 100, 90), (300, 300, 50, 50)}
    assert funnel.after_nms == funnel.after_area == 3


@pytest.mark.parametrize(
    ("crops", "crop_limit", "limit"),
    [(CROPS, 0.95, 0.95), (CROPS, 0.3, 0.7), (1, 0.95, 0.7)],
    ids=["crops", "stricter between crops", "no crops"],
)
def test_a_mask_that_becomes_a_duplicate_goes(crops: int, crop_limit: float, limit: float) -> None:
    """At the looser of the two limits where there are crops; the mask that was left alone stays, though it is later."""
    parameters = GeneratorParameters(crop_n_layers=int(crops > 1), crop_nms_thresh=crop_limit, box_nms_thresh=0.7)
    journal = Noted()
    # Its speck makes its box three times as wide; without, box IoU with the next one is 0.99.
    winners = [found(50, 100, 99, 100, speck=250), found(50, 100, 100, 100), found(100, 300, 100, 90)]
    masks = finished(winners, crops, SIZE, parameters, CLEANUP, Funnel(), journal)  # type: ignore[arg-type]
    assert boxes(masks) == {(50, 100, 100, 100), (100, 300, 100, 90)}
    assert journal.kept["nms_after_cleanup"] == (limit, [1, 2], 3)


def test_of_two_that_were_changed_the_better_one_stays() -> None:
    better, worse = found(50, 100, 99, 100, speck=250), found(50, 100, 100, 100, speck=20)
    journal = Noted()
    masks = finished([better, worse], 1, SIZE, GeneratorParameters(), CLEANUP, Funnel(), journal)  # type: ignore[arg-type]
    assert boxes(masks) == {(50, 100, 99, 100)}
    assert journal.kept == {"nms_after_cleanup": (0.7, [0], 2)}


def test_photo_in_crops_loses_no_mask_that_clean_up_left_alone(starter) -> None:
    """Crop NMS looser than that of a crop: of the masks before, all that have nothing to clean are there after."""
    pixels, least = skimage.data.astronaut(), 3
    values = {"points_per_side": 8, "pred_iou_thresh": 0.35, "stability_score_thresh": 0.55, "crop_n_layers": 1}
    parameters = GeneratorParameters(
        **values, crop_n_points_downscale_factor=2, box_nms_thresh=0.5, crop_nms_thresh=0.9
    )
    before, after = (
        MaskGenerator(starter, parameters, CleanupParameters(min_mask_region_area=n)).generate(pixels).masks
        for n in (0, least)
    )

    def clean(mask: Mask) -> bool:
        x, y, window = mask.decode_window()
        return not remove_small_regions(x, y, Runs.of(window), pixels.shape[:2], least)[3]

    alone = [m for m in before if clean(m)]
    assert 0 < len(alone) < len(before), "nothing to clean, or nothing else"
    left = {m.segmentation["counts"] for m in after}
    assert [m.id for m in alone if m.segmentation["counts"] not in left] == []


@pytest.mark.parametrize("hundredths", range(1, 101))
def test_a_mask_of_just_the_largest_fraction_stays(hundredths: int) -> None:
    """100 · 0.57 is 56.99999999999999."""
    mask = np.zeros((10, 10), dtype=bool)
    mask.ravel()[:hundredths] = True
    wish = CleanupParameters(max_mask_area_fraction=hundredths / 100)

    def left(picture: np.ndarray) -> int:
        winner = Winner(0, 0, Runs.of(picture), 0.9, 0.9, ((1.0, 1.0),), (0, 0, 10, 10))
        return len(finished([winner], 1, (10, 10), GeneratorParameters(), wish, Funnel()))

    assert left(mask) == 1
    if hundredths < 100:
        mask.ravel()[hundredths] = True
        assert left(mask) == 0
