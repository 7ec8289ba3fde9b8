"""Edges move to where the photo has them, never out of their band, and only where the photo has any."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.engine import edges, sharing
from densecli.engine.edges import Guide
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.parts import Placed
from densecli.engine.proposals import Floor
from densecli.masks import Runs
from tests.same_masks import assert_same_masks

SIZE = (480, 720)
GRID = (48, 48)
GUIDED = CleanupParameters(refine_edges="guided")


def placed(mask: np.ndarray) -> Placed:
    return Placed(*Runs.of(mask).trimmed())


def picture(mask: Placed, size: tuple[int, int]) -> np.ndarray:
    full = np.zeros(size, dtype=bool)
    h, w = mask.runs.size
    full[mask.y : mask.y + h, mask.x : mask.x + w] = mask.runs.decode()
    return full


def band_pixels(size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns of pixels an edge may move. Both sizes: height and width."""
    rows, columns = (math.floor(edges.BAND_CELLS * n / low) for n, low in zip(size, grid, strict=True))
    return rows, columns


def refined(mask: np.ndarray, pixels: np.ndarray, grid: tuple[int, int] = GRID) -> np.ndarray:
    size = pixels.shape[0], pixels.shape[1]
    return picture(edges.refined([placed(mask)], [0.9], [size], Guide(pixels, grid))[0], size)


def drawn(shape: str) -> np.ndarray:
    """H×W bool."""
    canvas = np.zeros(SIZE, dtype=np.uint8)
    if shape == "disc":
        cv2.circle(canvas, (350, 230), 140, 1, -1)
    elif shape == "ring":
        cv2.ellipse(canvas, (350, 230), (260, 180), 20, 0, 360, 1, 90)
    elif shape == "box":
        cv2.fillPoly(canvas, [np.array([(120, 90), (560, 150), (520, 400), (90, 330)])], 1)
    else:  # reaches three sides of the picture
        cv2.fillPoly(canvas, [np.array([(0, 0), (719, 0), (719, 200), (330, 300), (0, 120)])], 1)
    return canvas.astype(bool)


def photo_of(mask: np.ndarray, noise: float = 4) -> np.ndarray:
    """A thing of one colour before another, lit from one side, with noise."""
    thing, ground = np.array([150, 80, 60]), np.array([90, 120, 130])
    light = np.linspace(0.8, 1.2, mask.shape[1])[None, :, None]
    clean = np.where(mask[..., None], thing, ground) * light
    return np.clip(clean + np.random.default_rng(0).normal(0, noise, clean.shape), 0, 255).astype(np.uint8)


def coarse(mask: np.ndarray, grid: tuple[int, int] = GRID, seed: int = 0) -> np.ndarray:
    """The mask as a model would draw it that decides on a coarse grid, and not quite rightly."""
    low = cv2.resize(mask.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
    wrong = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(grid), (0, 0), 1.5)
    low = cv2.GaussianBlur(low, (0, 0), 0.7) + (0.12 / wrong.std() * wrong).astype(np.float32)
    return cv2.resize(low, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def wrong_pixels(mask: np.ndarray, truth: np.ndarray) -> int:
    return int(np.count_nonzero(mask != truth))


@pytest.mark.parametrize("shape", ["disc", "ring", "box", "sky"])
@pytest.mark.parametrize("seed", range(3))
def test_comes_closer_to_the_truth(shape: str, seed: int) -> None:
    truth = drawn(shape)
    before = coarse(truth, seed=seed)
    after = refined(before, photo_of(truth))
    assert wrong_pixels(after, truth) < 0.35 * wrong_pixels(before, truth)


def test_the_larger_the_photo_the_more_is_to_be_had() -> None:
    """The same thing at four times the pixels: the coarse edge is as wrong as before, the refined one is not."""
    small = drawn("disc")
    large = cv2.resize(small.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST).astype(bool)
    share = [wrong_pixels(refined(coarse(m), photo_of(m)), m) / m.size for m in (small, large)]
    assert share[1] < share[0] * 1.1


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    grid=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    seed=st.integers(0, 2**32 - 1),
    smooth=st.floats(0.5, 12),
)
def test_never_leaves_the_band(size: tuple[int, int], grid: tuple[int, int], seed: int, smooth: float) -> None:
    """Whatever the photo shows: a pixel with only its own kind around it, as far as the band reaches, stays."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if seed % 2:
        pixels = cv2.GaussianBlur(pixels, (0, 0), smooth).reshape(pixels.shape)
    masks = [cv2.GaussianBlur(rng.standard_normal(size), (0, 0), smooth).reshape(size) > 0 for _ in range(3)]
    masks = [m for m in masks if m.any()]
    guide = Guide(pixels, grid)
    after = edges.refined([placed(m) for m in masks], rng.random(len(masks)).tolist(), [size] * len(masks), guide)
    rows, columns = band_pixels(size, grid)
    around = np.ones((2 * rows + 1, 2 * columns + 1), np.uint8)
    for before, mask in zip(masks, after, strict=True):
        now = picture(mask, size)
        assert now[cv2.erode(before.astype(np.uint8), around).reshape(size) > 0].all()
        assert not now[cv2.dilate(before.astype(np.uint8), around).reshape(size) == 0].any()
        assert mask.runs.area == now.sum()


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_photo_of_one_colour_changes_nothing(size: tuple[int, int], colour: tuple[int, int, int], seed: int) -> None:
    pixels = np.full((*size, 3), colour, dtype=np.uint8)
    mask = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(size), (0, 0), 5).reshape(size) > 0
    if mask.any():
        assert np.array_equal(refined(mask, pixels, (8, 8)), mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (7, 900)])
def test_tiny_and_thin_photos(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = np.ones(size, dtype=bool)
    assert np.array_equal(refined(whole, pixels), whole)
    half = whole.copy()
    half[:, size[1] // 2 :] = size[1] == 1
    assert refined(half, pixels).shape == size


def test_an_empty_mask_stays_empty() -> None:
    empty = Placed(0, 0, Runs.empty())
    pixels = photo_of(drawn("disc"))
    (after,) = edges.refined([empty], [0.5], [SIZE], Guide(pixels, GRID))
    assert after.runs.area == 0


def two_neighbours() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo without any edge, and two masks that share a strip 10 pixels wide, less than a cell."""
    left, right = (np.zeros(SIZE, dtype=bool) for _ in range(2))
    left[100:400, 100:365] = True
    right[100:400, 355:600] = True
    return np.full((*SIZE, 3), 128, np.uint8), left, right


def test_the_work_can_be_called_off_at_any_mask_and_tile() -> None:
    pixels, left, right = two_neighbours()
    for times in range(8):  # the tiles of two edges, then the strip that both claim
        asked = iter(range(times))

        def still_wanted(asked: Iterator[int] = asked) -> None:
            if next(asked, None) is None:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            edges.refined([placed(left), placed(right)], [0.9, 0.8], [SIZE] * 2, Guide(pixels, GRID, still_wanted))


@pytest.mark.parametrize("scores", [(0.9, 0.8), (0.8, 0.9)])
def test_neighbours_share_pixels_by_score(scores: tuple[float, float]) -> None:
    pixels, left, right = two_neighbours()
    after = edges.refined([placed(left), placed(right)], scores, [SIZE] * 2, Guide(pixels, GRID))
    one, other = (picture(m, SIZE) for m in after)
    assert not (one & other).any()
    assert np.array_equal(one | other, left | right)
    strip = left & right
    assert [bool((one & strip).sum() > (other & strip).sum()), bool((one & strip).any())] == [scores[0] > 0.85, True]


@pytest.mark.parametrize("scores", [(0.9, 0.8), (0.8, 0.9)])
def test_neighbours_that_bleed_into_each_other_are_parted_where_the_photo_has_an_edge(
    scores: tuple[float, float],
) -> None:
    """A box before a shirt of nearly its colour: each mask has a piece of the other."""
    _, left, right = two_neighbours()
    pixels = np.full((*SIZE, 3), (90, 90, 96), np.uint8)
    pixels[100:400, 100:360] = (120, 100, 84)
    pixels[100:400, 360:600] = (104, 110, 84)
    pixels = np.clip(pixels + np.random.default_rng(0).normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    after = edges.refined([placed(left), placed(right)], scores, [SIZE] * 2, Guide(pixels, GRID))
    one, other = (picture(m, SIZE) for m in after)
    assert not (one & other).any()
    middle = slice(120, 380)  # away from the corners
    assert one[middle, 100:358].mean() > 0.999 and not one[middle, 362:].any()
    assert other[middle, 362:600].mean() > 0.999 and not other[middle, :358].any()


def test_parts_and_second_readings_do_not_compete() -> None:
    pixels = np.full((*SIZE, 3), 128, np.uint8)
    whole, part, reading = (np.zeros(SIZE, dtype=bool) for _ in range(3))
    whole[50:450, 50:650] = True
    part[100:160, 100:160] = True  # inside, and all of it within reach of its edge
    reading[50:450, 300:700] = True  # shares far more than a band with the whole
    masks = [whole, part, reading]
    after = edges.refined([placed(m) for m in masks], [0.5, 0.9, 0.7], [SIZE] * 3, Guide(pixels, GRID))
    for mask, before in zip(after, masks, strict=True):
        assert np.array_equal(picture(mask, SIZE), before)


@pytest.fixture(scope="module")
def coffee() -> np.ndarray:
    return skimage.data.coffee()


@pytest.mark.parametrize("crops", [0, 1])
def test_off_changes_nothing_and_guided_moves_edges_only(starter, coffee, crops: int) -> None:
    parameters = GeneratorParameters(
        points_per_side=5, pred_iou_thresh=0.3, stability_score_thresh=0.5, crop_n_layers=crops
    )
    plain = MaskGenerator(starter, parameters).generate(coffee)
    off = MaskGenerator(starter, parameters, CleanupParameters(refine_edges="off")).generate(coffee)
    guided = MaskGenerator(starter, parameters, GUIDED).generate(coffee)
    assert [m.summary() for m in off.masks] == [m.summary() for m in plain.masks]
    assert guided.funnel.after_nms == plain.funnel.after_nms
    by_score = {(m.predicted_iou, m.point_coords): m for m in plain.masks}
    moved = 0
    for mask in guided.masks:
        before, after = by_score[mask.predicted_iou, mask.point_coords].decode(), mask.decode()
        assert after.sum() == mask.area
        rows, columns = band_pixels((mask.crop_box[3], mask.crop_box[2]), (96, 96))
        around = np.ones((2 * rows + 1, 2 * columns + 1), np.uint8)
        assert not (after & (cv2.dilate(before.astype(np.uint8), around) == 0)).any()
        assert not (~after & (cv2.erode(before.astype(np.uint8), around) > 0)).any()
        moved += bool((before != after).any())
    assert moved > len(guided.masks) / 2


@pytest.mark.parametrize("min_area", [0, 300])
def test_kept_proposals_give_what_a_fresh_run_gives(starter, coffee, min_area: int) -> None:
    parameters = GeneratorParameters(points_per_side=6, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    cleanup = CleanupParameters(refine_edges="guided", min_mask_region_area=min_area)
    fresh = MaskGenerator(starter, parameters, cleanup).generate(coffee)
    keeping = MaskGenerator(starter, parameters).generate(coffee, keep=Floor(0.2, 0.3))
    assert keeping.proposals is not None
    masks, funnel = keeping.proposals.select(parameters, cleanup, pixels=coffee)
    assert_same_masks([m.summary() for m in masks], [m.summary() for m in fresh.masks])
    assert funnel == fresh.funnel
    if min_area:
        _, regions, stats, _ = cv2.connectedComponentsWithStats(masks[-1].decode().astype(np.uint8))
        assert stats[1:, cv2.CC_STAT_AREA].min() >= min_area


@pytest.mark.parametrize("shape", ["ring", "sky"])
@pytest.mark.parametrize("grid", [GRID, (30, 90), (160, 160)])
def test_arrays_and_compiled_loops_agree(monkeypatch, shape: str, grid: tuple[int, int]) -> None:
    """Up to pixels whose margin is zero within rounding."""
    truth = drawn(shape)
    pixels, mask = photo_of(truth), coarse(truth)
    compiled = refined(mask, pixels, grid)
    monkeypatch.setattr(edges, "edge_kernels", lambda: None)
    assert wrong_pixels(refined(mask, pixels, grid), compiled) <= 5
    assert wrong_pixels(compiled, mask) > 100


@pytest.mark.parametrize("seed", range(20))
def test_the_box_of_common_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (40, 50)
    a, b = (cv2.GaussianBlur(rng.standard_normal(size), (0, 0), 3) > 0.08 * seed / 5 for _ in range(2))
    if not (a.any() and b.any()):
        pytest.skip("a mask is empty")
    rows, columns = (a & b).any(1).nonzero()[0], (a & b).any(0).nonzero()[0]
    expected = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else None
    for compiled in (True, False):
        assert sharing.common_box(placed(a), placed(b), compiled=compiled) == expected
