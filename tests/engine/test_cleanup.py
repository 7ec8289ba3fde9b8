"""Holes and islands against a plain implementation on the full image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from densecli.engine.cleanup import remove_small_regions
from densecli.engine.compiled import kernels
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.masks import Runs

EIGHT = np.ones((3, 3))


def plain(mask: np.ndarray, min_area: int) -> np.ndarray:
    """Fill small background regions, then drop small foreground regions, on the whole image."""
    regions, n = ndimage.label(~mask, EIGHT)
    for i in range(1, n + 1):
        if (regions == i).sum() < min_area:
            mask = mask | (regions == i)
    regions, n = ndimage.label(mask, EIGHT)
    for i in range(1, n + 1):
        if (regions == i).sum() < min_area:
            mask = mask & (regions != i)
    return mask


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "pictures"])
@settings(max_examples=250)
@given(
    seed=st.integers(0, 2**20),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fill=st.floats(0.02, 0.98),
    blur=st.sampled_from([0, 0, 0.7, 1.5]),
    min_area=st.integers(0, 60) | st.sampled_from([2**31, 2**64]),
)
def test_equals_plain_implementation(compiled, seed, size, fill, blur, min_area) -> None:
    noise = np.random.default_rng(seed).random(size)
    if blur:
        noise = ndimage.gaussian_filter(noise, blur)
    # A sub-rectangle leaves background around some masks, so that the window is smaller than the image.
    mask = noise < np.quantile(noise, fill)
    if seed % 2:
        mask[:, : size[1] // 3] = False
        mask[size[0] - size[0] // 3 :] = False
    assert kernels() is not None, "the compiled loops are not to be had here"
    x, y, runs, changed = remove_small_regions(*Runs.of(mask).trimmed(), size, min_area, compiled=compiled)
    window = runs.decode()
    assert window.size == 0 or (window.any(0)[[0, -1]].all() and window.any(1)[[0, -1]].all()), "not trimmed"
    result = np.zeros(size, dtype=bool)
    result[y : y + window.shape[0], x : x + window.shape[1]] = window
    expected = plain(mask, min_area)
    assert np.array_equal(result, expected)
    assert changed == (not np.array_equal(mask, expected))


def generate(network, pixels, cleanup: dict, **generator):
    settings = {"points_per_side": 12, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.5, **generator}
    return MaskGenerator(network, GeneratorParameters(**settings), CleanupParameters(**cleanup)).generate(pixels)


def test_rule_of_the_area(starter, photos) -> None:
    """What comes out equals the plain rule applied to what the generator gives without clean-up (NMS is off)."""
    pixels = photos["astronaut"]
    before = generate(starter, pixels, {}, box_nms_thresh=1.0)
    min_area = int(np.median([m.area for m in before.masks]))
    after = generate(starter, pixels, {"min_mask_region_area": min_area}, box_nms_thresh=1.0)
    expected = [m for m in (plain(mask.decode(), min_area) for mask in before.masks) if m.any()]
    assert sorted(m.sum() for m in expected) == sorted(m.area for m in after.masks)
    assert any(not np.array_equal(a.decode(), b.decode()) for a, b in zip(before.masks, after.masks, strict=False))
    for mask in after.masks:
        for background, low in ((False, min_area), (True, min_area)):
            regions, n = ndimage.label(mask.decode() ^ background, EIGHT)
            assert all((regions == i).sum() >= low for i in range(1, n + 1))
    assert after.funnel.after_nms == len(before.masks) > after.funnel.after_area == len(after.masks)


def test_nms_is_redone_and_unchanged_masks_win(starter, photos) -> None:
    from torchvision.ops import box_iou

    pixels = photos["astronaut"]
    before = generate(starter, pixels, {}, box_nms_thresh=0.6, points_per_side=24, pred_iou_thresh=0.2)
    after = generate(
        starter, pixels, {"min_mask_region_area": 400}, box_nms_thresh=0.6, points_per_side=24, pred_iou_thresh=0.2
    )
    boxes = torch.tensor(
        [[m.bbox[0], m.bbox[1], m.bbox[0] + m.bbox[2] - 1, m.bbox[1] + m.bbox[3] - 1] for m in after.masks]
    )
    overlap = box_iou(boxes.float(), boxes.float()) - torch.eye(len(boxes))
    assert overlap.max() <= 0.6
    survivors = [m for m in (plain(m.decode(), 400) for m in before.masks) if m.any()]
    assert len(after.masks) < len(survivors), "clean-up made duplicates here, and NMS was to take them"
    untouched = {(m.area, m.bbox) for m in before.masks if np.array_equal(m.decode(), plain(m.decode(), 400))}
    assert untouched <= {(m.area, m.bbox) for m in after.masks}


def test_largest_masks_dropped(starter, photos) -> None:
    pixels = photos["coffee"]
    before, after = generate(starter, pixels, {}), generate(starter, pixels, {"max_mask_area_fraction": 0.2})
    most = 0.2 * pixels.shape[0] * pixels.shape[1]
    assert [m.area for m in after.masks] == [m.area for m in before.masks if m.area <= most]
    assert len(after.masks) < len(before.masks)
