"""Parts and wholes: the forest against plain pixel counting, and which parts are dropped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.parts import Placed, kept, parents
from densecli.masks import Runs
from tests.engine.conftest import torch_threads


@pytest.fixture(autouse=True, scope="module", params=[1, 3], ids=["one thread", "three threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch_threads(request.param):
        yield


BOTH_PATHS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "pycocotools"])


def placed(mask: np.ndarray) -> Placed:
    return Placed(*Runs.of(mask).trimmed())


def square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((100, 100), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


@BOTH_PATHS
def test_parents(compiled: bool) -> None:
    masks = [square(0, 0, 90), square(5, 5, 60), square(10, 10, 20), square(80, 80, 15), square(55, 5, 11)]
    # The fourth lies 100/225 in the first only; the fifth 110/121 = 91 % in the second.
    assert parents([placed(m) for m in masks], compiled=compiled) == [None, 0, 1, None, 1]


@BOTH_PATHS
def test_equal_masks_are_not_each_others_parts(compiled: bool) -> None:
    assert parents([placed(square(2, 2, 5))] * 3, compiled=compiled) == [None, None, None]


@BOTH_PATHS
@settings(max_examples=100)
@given(seed=st.integers(0, 2**20), n=st.integers(0, 20), size=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_parents_equal_plain_counting(compiled: bool, seed: int, n: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    masks = []
    for _ in range(n):
        (y0, y1), (x0, x1) = np.sort(random.integers(0, size[0] + 1, 2)), np.sort(random.integers(0, size[1] + 1, 2))
        mask = np.zeros(size, dtype=bool)
        mask[y0:y1, x0:x1] = random.random((y1 - y0, x1 - x0)) < random.choice([0.5, 0.95, 1.0])
        if mask.any():
            masks.append(mask)
    masks.sort(key=lambda m: -m.sum())
    expected = []
    for i, mask in enumerate(masks):
        inside = [j for j in range(i) if masks[j].sum() > mask.sum() and (mask & masks[j]).sum() >= 0.9 * mask.sum()]
        expected.append(inside[-1] if inside else None)
    assert parents([placed(m) for m in masks], compiled=compiled) == expected


def test_many_similar_parts_go_and_lone_ones_stay() -> None:
    # A keyboard with five keys and a logo, of which one key has a letter; a mug with a handle.
    parent = [None, None, 0, 0, 0, 0, 0, 1, 0, 2]
    areas = [1000, 500, 40, 38, 36, 34, 32, 30, 3, 2]
    assert kept(parent, areas, "drop", 4) == [True, True, *[False] * 5, True, True, False]
    assert kept(parent, areas, "drop", 6) == [True] * 10
    assert kept(parent, areas, "wholes", 4) == [True, True, *[False] * 8]
    assert kept(parent, areas, "keep", 4) == [True] * 10


def generate(network, pixels, **cleanup):
    parameters = GeneratorParameters(
        points_per_side=16, pred_iou_thresh=0.3, stability_score_thresh=0.5, box_nms_thresh=0.9
    )
    return MaskGenerator(network, parameters, CleanupParameters(**cleanup)).generate(pixels)


@pytest.mark.parametrize("rule", ["drop", "wholes"])
def test_through_the_generator(starter, photos, rule: str) -> None:
    everything = generate(starter, photos["astronaut"]).masks
    assert any(m.parent for m in everything)
    fewer = generate(starter, photos["astronaut"], parts=rule)
    ids = {m.id for m in fewer.masks}
    assert ids == set(range(1, len(fewer.masks) + 1)) and 0 < len(ids) < len(everything)
    assert fewer.funnel.after_area == len(everything) and fewer.funnel.after_parts == len(ids)
    by_id = {m.id: m for m in fewer.masks}
    for mask in fewer.masks:
        assert mask.segmentation in [m.segmentation for m in everything]
        if mask.parent is not None:
            parent = by_id[mask.parent]
            assert parent.area > mask.area and (parent.decode() & mask.decode()).sum() >= 0.9 * mask.area
    if rule == "wholes":
        assert all(m.parent is None for m in fewer.masks)
