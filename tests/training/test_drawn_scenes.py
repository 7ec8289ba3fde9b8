"""Generated scenes: their truth tiles the picture and nests, and the same seed is the same scene."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.scenes import DETAIL, NOWHERE, OBJECT, PART, WHOLE, Bank, make_scene
from training.scenes.canvas import Canvas
from training.scenes.labels import MAX_ATOMS, combined, packed
from training.scenes.shapes import ellipse, place

SIDE = 128


def nests(table: np.ndarray) -> bool:
    """Whether the pixels of a mask are all in the same masks of the coarser levels."""
    for level in (DETAIL, PART, OBJECT):
        for i in np.unique(table[:, level]):
            if i and len(np.unique(table[table[:, level] == i, level + 1 :], axis=0)) > 1:
                return False
    return True


@pytest.mark.parametrize("seed", range(12))
def test_truth_tiles_the_scene_and_levels_nest(seed: int) -> None:
    scene = make_scene(np.random.default_rng(seed), Bank(), SIDE)
    assert scene.pixels.shape == (SIDE, SIDE, 3) and scene.pixels.dtype == np.uint8
    assert scene.atoms.shape == (SIDE, SIDE) and scene.atoms.max() < len(scene.table) <= MAX_ATOMS
    objects_or_wholes = (scene.level(OBJECT) > 0) | (scene.level(WHOLE) > 0)
    assert objects_or_wholes.all(), "every pixel of a drawn scene belongs to something"
    assert nests(scene.table)
    assert len(scene.masks(OBJECT)) >= 2


def test_same_seed_same_scene() -> None:
    first, second = (make_scene(np.random.default_rng([1, 2]), Bank(), SIDE) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.atoms, second.atoms) and np.array_equal(first.table, second.table)


def test_edges_of_the_truth_are_edges_of_the_picture() -> None:
    c = Canvas(np.random.default_rng(0), Bank(), SIDE)
    c.fill(c.inside(NOWHERE, OBJECT), np.full((SIDE, SIDE, 3), 200, np.float32))
    c.paint(place([ellipse()], 60, 64, 30, 20), c.inside(NOWHERE, OBJECT), base=np.zeros(3), even=True, shadow=False)
    ids = packed(c.atoms, c.table())[1][:, OBJECT][packed(c.atoms, c.table())[0]]
    dark = c.pixels.mean(2) < 100
    assert len(np.unique(ids)) == 2
    assert np.array_equal(dark, ids == ids[64, 60])
    assert dark.sum() == pytest.approx(np.pi * 30.5 * 20.5, rel=0.03)  # OpenCV fills half a pixel more all round


def test_parts_stay_on_their_thing() -> None:
    c = Canvas(np.random.default_rng(0), Bank(), SIDE)
    c.fill(c.inside(NOWHERE, OBJECT), np.full((SIDE, SIDE, 3), 200, np.float32))
    thing = c.inside(NOWHERE, OBJECT)
    c.paint(place([ellipse()], 60, 64, 30, 30), thing, shadow=False)
    c.paint(place([ellipse()], 90, 64, 20, 20), c.inside(thing, PART), shadow=False, within=thing)
    atoms, table = packed(c.atoms, c.table())
    part, objects = table[:, PART][atoms], table[:, OBJECT][atoms]
    assert (part > 0).any() and nests(table)
    assert set(np.unique(objects[part > 0])) == {objects[64, 60]}
    assert part[64, 105] == 0, "what reaches beyond the thing is not painted"


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_atoms_keep_every_level(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 4, (4, 9, 7))
    atoms, table = packed(*combined(maps))
    for level in range(4):
        ids = table[:, level][atoms]
        assert np.array_equal(ids > 0, maps[level] > 0)
        pairs = np.unique(np.stack([ids.ravel(), maps[level].ravel()], 1), axis=0)
        assert len(pairs) == len(np.unique(maps[level])), "one id for one id"


def test_too_many_atoms_lose_their_finest_level_only() -> None:
    side = 40
    maps = np.zeros((4, side, side), int)
    maps[DETAIL] = np.arange(side * side).reshape(side, side) + 1
    maps[OBJECT] = 1 + (np.arange(side) // 10)[:, None]
    atoms, table = packed(*combined(maps))
    assert len(table) <= MAX_ATOMS
    assert not table[:, DETAIL].any()
    assert np.array_equal(np.unique(table[:, OBJECT][atoms]), [1, 2, 3, 4])
