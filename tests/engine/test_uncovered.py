"""Where fill asks: on free pixels only, one point a cell, away from masks and from points asked before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.engine import grid, uncovered
from densecli.engine.parts import Placed
from densecli.masks import Runs

NONE = np.zeros((0, 2))


def test_covered_is_the_union_of_masks() -> None:
    random = np.random.default_rng(0)
    masks = [random.random((40, 60)) < 0.2 for _ in range(3)]
    canvas = uncovered.covered([Placed(*Runs.of(m).trimmed()) for m in masks], (40, 60))
    assert canvas.dtype == np.uint8 and np.array_equal(canvas.astype(bool), np.any(masks, axis=0))
    assert not uncovered.covered([], (3, 4)).any()


def test_an_empty_image_gets_a_regular_grid() -> None:
    points = uncovered.points(np.zeros((400, 600), dtype=np.uint8), NONE, 10)
    expected = grid.point_grid(10) * [600, 400]
    assert len(points) == 100
    assert np.abs(points[np.lexsort(points.T)] - expected[np.lexsort(expected.T)]).max() <= 1.5


def test_new_points_come_between_old_ones() -> None:
    asked = grid.point_grid(8) * [600, 600]
    points = uncovered.points(np.zeros((600, 600), dtype=np.uint8), asked, 12)
    apart = np.hypot(*(points[:, None] - asked[None]).transpose(2, 0, 1)).min(1)
    assert len(points) > 100 and apart.min() >= 0.25 * 50 - 2


def test_a_small_gap_is_asked_at_its_heart() -> None:
    canvas = np.ones((500, 500), dtype=np.uint8)
    canvas[200:241, 300:341] = 0
    points = uncovered.points(canvas, NONE, 12)  # cells of 42 pixels
    assert len(points) >= 1 and np.hypot(*(points - [320.5, 220.5]).T).min() <= 3
    canvas[200:241, 300:341] = 1
    assert len(uncovered.points(canvas, NONE, 12)) == 0


def test_a_seam_between_masks_is_not_asked_about() -> None:
    canvas = np.ones((500, 500), dtype=np.uint8)
    canvas[:, 250:254] = 0
    assert len(uncovered.points(canvas, NONE, 20)) == 0


@settings(max_examples=60)
@given(
    st.integers(0, 2**20),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.integers(1, 30),
    st.integers(0, 20),
    st.floats(0, 1),
)
def test_points_are_free_and_few(seed: int, size: tuple[int, int], side: int, n: int, share: float) -> None:
    random = np.random.default_rng(seed)
    canvas = (random.random(size) < share).astype(np.uint8)
    asked = random.random((n, 2)) * [size[1], size[0]]
    points = uncovered.points(canvas, asked, side)
    assert len(points) <= side * side
    x, y = points.astype(int).T
    assert ((x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])).all()
    assert not canvas[y, x].any()
    cells = {(int(px / (size[1] / side)), int(py / (size[0] / side))) for px, py in points}
    assert len(cells) == len(points)
    assert not {tuple(p) for p in points.astype(int).tolist()} & {tuple(p) for p in asked.astype(int).tolist()}


@pytest.mark.parametrize("size", [(3000, 40), (40, 3000), (2500, 2500)])
def test_large_images_are_looked_at_through_a_smaller_map(size: tuple[int, int]) -> None:
    canvas = np.zeros(size, dtype=np.uint8)
    canvas[: size[0] // 2] = 1
    points = uncovered.points(canvas, NONE, 9)
    x, y = points.astype(int).T
    assert len(points) >= 9 and not canvas[y, x].any()
    assert y.min() >= size[0] // 2
