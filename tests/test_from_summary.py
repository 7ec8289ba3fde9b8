"""A segmentation and its summary: each tells the other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from densecli.from_summary import segmentation_from
from densecli.sinks.summary import to_json
from tests.sinks.conftest import segmentation_of

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(
    masks=SHAPES.flatmap(lambda shape: st.lists(arrays(bool, shape).filter(np.any), min_size=1, max_size=4)),
    box=st.booleans(),
)
def test_there_and_back(masks: list[np.ndarray], box: bool) -> None:
    masks.sort(key=lambda mask: -int(mask.sum()))
    pixels = np.zeros((*masks[0].shape, 3), np.uint8)
    segmentation = segmentation_of(pixels, masks)
    first, *others = segmentation.masks
    if box:
        first = replace(first, point_coords=(), prompt_box=(0.5, 1.0, 2.0, 3.0))
    segmentation.masks = [first, *(replace(mask, parent=1) for mask in others)]
    segmentation.fill = {"rounds": 1, "points": 9, "masks_added": 1, "coverage_before": 0.5, "coverage_after": 0.75}
    segmentation.warnings.append("out of memory: went on with 32 points per batch")
    found = segmentation_from(json.loads(to_json(segmentation.summary())), pixels)
    assert found.masks == segmentation.masks
    for kind in ("all", "wholes", "leaves"):
        assert np.array_equal(found.labels(kind), segmentation.labels(kind))  # type: ignore[arg-type]
    assert np.array_equal(found.overlay(), segmentation.overlay()) and found.coverage == segmentation.coverage
    ours, theirs = found.summary(), segmentation.summary()
    assert ours.pop("seconds") and theirs.pop("seconds") and ours == theirs


def test_of_another_size(segmentation_like: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="another image"):
        segmentation_from(segmentation_like, np.zeros((5, 4, 3), np.uint8))


@pytest.fixture
def segmentation_like() -> dict[str, object]:
    document: dict[str, object] = json.loads(
        to_json(segmentation_of(np.zeros((4, 5, 3), np.uint8), [np.ones((4, 5), bool)]).summary())
    )
    return document
