"""The same masks as `SAM2AutomaticMaskGenerator` on the same weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

from densecli import checkpoints, model
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import GeneratorParameters
from tests.engine.conftest import torch_threads

MIN_MASK_IOU = 0.999
SCORE_TOLERANCE = 1e-4
LOOSE = {"pred_iou_thresh": 0.35, "stability_score_thresh": 0.55}

SETTINGS = {
    "default grid": {"points_per_side": 16},
    "denser grid": {"points_per_side": 24},
    "crops": {"points_per_side": 10, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    "m2m": {"points_per_side": 8, "use_m2m": True},
    "single mask": {"points_per_side": 16, "multimask_output": False},
    "m2m of single masks": {"points_per_side": 8, "use_m2m": True, "multimask_output": False},
    "other offset and threshold": {"points_per_side": 12, "mask_threshold": 0.5, "stability_score_offset": 0.6},
    "loose NMS": {"points_per_side": 12, "box_nms_thresh": 0.95},
    "no filters": {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
}


@pytest.fixture(autouse=True)
def two_threads():
    """One thread rounds otherwise: with AVX-512 a pixel of a mask of 4,000 tips then, and its stability with it."""
    with torch_threads(2):
        yield


@dataclass(eq=False)
class Found:
    mask: np.ndarray
    predicted_iou: float
    stability: float
    box: tuple[float, ...]  # XYWH in Meta's form: width and height one less than COCO's
    point: list[list[float]]
    crop_box: list[float]


def reference(network, pixels: np.ndarray, settings: dict) -> list[Found]:
    generator = SAM2AutomaticMaskGenerator(network, min_mask_region_area=0, points_per_batch=64, **settings)
    # The reference fixes these to a 1024-pixel input.
    side = network.image_size
    generator.predictor._bb_feat_sizes = [(side // 4, side // 4), (side // 8, side // 8), (side // 16, side // 16)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            Found(
                m["segmentation"],
                m["predicted_iou"],
                m["stability_score"],
                tuple(m["bbox"]),
                m["point_coords"],
                m["crop_box"],
            )
            for m in generator.generate(pixels)
            # The reference also lists masks without a single pixel.
            if m["area"] > 0
        ]


def ours(network, pixels: np.ndarray, settings: dict) -> list[Found]:
    masks = MaskGenerator(network, GeneratorParameters(**settings)).generate(pixels).masks
    return [
        Found(
            m.decode(),
            m.predicted_iou,
            m.stability_score,
            (m.bbox[0], m.bbox[1], m.bbox[2] - 1, m.bbox[3] - 1),
            [list(p) for p in m.point_coords],
            list(m.crop_box),
        )
        for m in masks
    ]


def near_a_threshold(found: Found, settings: dict) -> bool:
    """Whether rounding could tip this mask over one of its filters."""
    parameters = GeneratorParameters(**settings)
    return (
        abs(found.predicted_iou - parameters.pred_iou_thresh) <= SCORE_TOLERANCE
        or abs(found.stability - parameters.stability_score_thresh) <= SCORE_TOLERANCE
    )


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def assert_same_masks(expected: list[Found], actual: list[Found], settings: dict, tipped: int = 0) -> None:
    """tipped: so many pixels of a mask may count otherwise in its stability, where that is more than the tolerance."""
    left = list(actual)
    for found in expected:
        same_prompt = [a for a in left if np.allclose(a.point, found.point) and a.crop_box == found.crop_box]
        same_mask = [a for a in same_prompt if mask_iou(found.mask, a.mask) >= MIN_MASK_IOU]
        # Two outputs of one prompt can be the same mask with different scores.
        best = min(same_mask, key=lambda a: abs(a.predicted_iou - found.predicted_iou), default=None)
        if best is None:
            assert near_a_threshold(found, settings), (
                f"missing: {found.point}, {found.predicted_iou}, {found.stability}"
            )
            continue
        left.remove(best)
        assert best.predicted_iou == pytest.approx(found.predicted_iou, abs=SCORE_TOLERANCE)
        # A ratio of two counts of pixels, the larger of which is at least the mask's area.
        tolerance = max(SCORE_TOLERANCE, tipped / max(1, np.count_nonzero(found.mask)))
        assert best.stability == pytest.approx(found.stability, abs=tolerance, nan_ok=True)
        assert best.box == pytest.approx(found.box, abs=1)
    for extra in left:
        assert near_a_threshold(extra, settings), f"extra: {extra.point}, {extra.predicted_iou}, {extra.stability}"


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("photo", ["coffee", "astronaut", "chelsea"])
def test_starter(first_starter, photos, photo: str, name: str) -> None:
    settings = {**LOOSE, **SETTINGS[name]}
    expected = reference(first_starter, photos[photo], settings)
    assert len(expected) >= 5, "thresholds too high to compare anything"
    # These photos are small: of a mask of 4,000 pixels, a single one that rounding tips is more than the tolerance.
    assert_same_masks(expected, ours(first_starter, photos[photo], settings), settings, tipped=1)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("default grid", "m2m of single masks") else pytest.param(name, marks=pytest.mark.slow)
        for name in SETTINGS
        if name not in ("denser grid", "loose NMS")
    ],
)
def test_starter_that_ships(starter_that_ships, photos, name: str) -> None:
    """Of a small mask, rounding tips a pixel now and then."""
    settings = {"pred_iou_thresh": 0.25, "stability_score_thresh": 0.4, **SETTINGS[name]}
    expected = reference(starter_that_ships, photos["astronaut"], settings)
    assert len(expected) >= 8
    assert_same_masks(expected, ours(starter_that_ships, photos["astronaut"], settings), settings, tipped=1)


def test_dozens_of_masks(first_starter) -> None:
    """A bigger photo: of a small mask one pixel, tipped by rounding, would be more than the tolerance."""
    pixels = skimage.data.astronaut()
    settings = {"points_per_side": 16, "pred_iou_thresh": 0.2, "stability_score_thresh": 0.5, "box_nms_thresh": 0.8}
    expected = reference(first_starter, pixels, settings)
    assert len(expected) >= 48
    assert_same_masks(expected, ours(first_starter, pixels, settings), settings)


def randomised(name: str):
    """An official shape with random weights, scaled so that signals neither die nor explode on the way."""
    torch.manual_seed(3)  # before it is built: biases keep the values that they are made with
    network = model.build_network(official(name))
    with torch.no_grad():
        for p in network.parameters():
            if p.dim() > 1:
                p.normal_(0, p[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


def official(name: str) -> Path:
    return model.config_path(checkpoints.load_registry().entry(name))


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, id="multi"),
        pytest.param({"multimask_output": False}, id="single"),
        pytest.param({"use_m2m": True}, id="m2m", marks=pytest.mark.slow),
    ],
)
def test_official_tiny_shape(extra: dict) -> None:
    """A bigger photo, as above: its smallest mask is large enough that one tipped pixel is within the tolerance."""
    pixels = skimage.data.coffee()
    network = randomised("tiny")
    settings = {
        "points_per_side": 3,
        "pred_iou_thresh": 0.05,
        "stability_score_thresh": 0.05,
        "stability_score_offset": 0.05,
        "box_nms_thresh": 1.0,  # random masks all span the image: without this one would be left
        **extra,
    }
    expected = reference(network, pixels, settings)
    assert len(expected) >= 9
    assert min(np.count_nonzero(found.mask) for found in expected) >= 1 / SCORE_TOLERANCE
    assert_same_masks(expected, ours(network, pixels, settings), settings)


def test_single_mask_that_falls_back_to_the_best_of_three(first_starter, photos) -> None:
    """`dynamic_multimask_via_stability`, which sam2's build_sam2 switches on by default."""
    decoder = first_starter.sam_mask_decoder
    settings = {**LOOSE, "points_per_side": 12, "multimask_output": False}
    plain = ours(first_starter, photos["coffee"], settings)
    decoder.dynamic_multimask_via_stability = True
    try:
        expected = reference(first_starter, photos["coffee"], settings)
        actual = ours(first_starter, photos["coffee"], settings)
    finally:
        decoder.dynamic_multimask_via_stability = False
    assert_same_masks(expected, actual, settings)
    assert [m.predicted_iou for m in actual] != [m.predicted_iou for m in plain]
