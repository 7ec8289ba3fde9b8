"""NMS and IoU of boxes against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from densecli.engine.boxes import box_iou, nms

_SIDES = st.integers(0, 60) | st.integers(0, 12_000)  # many that overlap, and some that fill a large photo


@st.composite
def _boxes(draw: st.DrawFn) -> torch.Tensor:
    corners = draw(st.lists(st.tuples(_SIDES, _SIDES, _SIDES, _SIDES), max_size=40))
    boxes = torch.tensor(corners, dtype=torch.float32).view(-1, 2, 2)
    return boxes.sort(1).values.flatten(1)


@given(_boxes(), st.data(), st.floats(0, 1))
def test_same_boxes_are_kept(boxes: torch.Tensor, data: st.DataObject, threshold: float) -> None:
    few = st.sampled_from([0.1, 0.5, 0.9])  # ties
    scores = torch.tensor(data.draw(st.lists(few, min_size=len(boxes), max_size=len(boxes))), dtype=torch.float32)
    expected = torchvision.ops.nms(boxes, scores, threshold)
    assert nms(boxes, scores, threshold).tolist() == expected.tolist()


@given(_boxes(), _boxes())
def test_same_iou(boxes: torch.Tensor, others: torch.Tensor) -> None:
    expected = torchvision.ops.box_iou(boxes, others)
    torch.testing.assert_close(box_iou(boxes, others), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95, 1.0])
def test_many_boxes(threshold: float) -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 1500, (5000, 2))
    boxes = torch.from_numpy(np.hstack([first, first + rng.integers(1, 400, (5000, 2))])).float()
    scores = torch.from_numpy(rng.random(5000, dtype=np.float32))
    assert nms(boxes, scores, threshold).tolist() == torchvision.ops.nms(boxes, scores, threshold).tolist()
