"""Areas, boxes and masks from low-resolution logits equal those of the full-size picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.utils.amg import batched_mask_to_box

from densecli.engine.upsampling import Upsampling
from tests.engine.conftest import torch_threads

CPU = torch.device("cpu")


def smooth_logits(seed: int, m: int, h: int, w: int, smoothness: int) -> torch.Tensor:
    """M × h × w blobs, some of them empty, some of them full."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(m, 1, h, w, generator=generator)
    for _ in range(smoothness):
        logits = F.avg_pool2d(logits, 5, 1, 2, count_include_pad=False)
    logits = logits[:, 0] / logits.std() * 3
    return logits + torch.linspace(-12, 12, m)[:, None, None]


@pytest.fixture(autouse=True, scope="module", params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch_threads(request.param):
        yield


BOTH_PATHS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "tensors"])


def upsampling_of(low_size: tuple[int, ...], size: tuple[int, int], compiled: bool) -> Upsampling:
    upsampling = Upsampling((low_size[0], low_size[1]), size, CPU, compiled=compiled)
    assert (upsampling.kernels is not None) == compiled, "the compiled loops are not to be had here"
    return upsampling


def assert_equals_full_size(
    logits: torch.Tensor, size: tuple[int, int], low: float, middle: float, high: float, compiled: bool
) -> None:
    upsampling = upsampling_of(logits.shape[1:], size, compiled)
    full = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    area_low, area_high, boxes = upsampling.areas_and_boxes(logits, low, middle, high)
    # A pixel within float32 rounding of a threshold may fall on either side.
    for area, threshold in ((area_low, low), (area_high, high)):
        doubtful = ((full - threshold).abs() < 1e-5).sum((1, 2))
        assert ((area - (full > threshold).sum((1, 2))).abs() <= doubtful).all()
    if ((full - middle).abs() >= 1e-5).all():
        assert torch.equal(boxes, batched_mask_to_box(full > middle).long())
    together = upsampling.masks([logits[:2], logits[2:]], middle)
    for k in range(len(logits)):
        x, y, runs = upsampling.mask(logits[k], middle)
        for a, b in zip((x, y, *vars(runs).values()), (*together[k][:2], *vars(together[k][2]).values()), strict=True):
            assert np.array_equal(a, b), "of many it is another one"
        window = runs.decode()
        mask = np.zeros(size, dtype=bool)
        mask[y : y + window.shape[0], x : x + window.shape[1]] = window
        differs = mask != (full[k] > middle).numpy()
        assert not differs[((full[k] - middle).abs() > 1e-5).numpy()].any()
        if window.size:
            assert window.any(0)[[0, -1]].all() and window.any(1)[[0, -1]].all(), "not trimmed to its box"


@BOTH_PATHS
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    low=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    smoothness=st.integers(0, 4),
    offset=st.floats(0, 3),
    threshold=st.floats(-2, 2),
)
def test_any_shapes(compiled, seed, low, size, smoothness, offset, threshold) -> None:
    logits = smooth_logits(seed, 7, *low, smoothness)
    assert_equals_full_size(logits, size, threshold - offset, threshold, threshold + offset, compiled)


@BOTH_PATHS
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 4000), (1200, 1800)])
def test_extreme_shapes(size: tuple[int, int], compiled: bool) -> None:
    assert_equals_full_size(smooth_logits(1, 5, 96, 96, 4), size, -1.0, 0.0, 1.0, compiled)


@BOTH_PATHS
@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), size=st.tuples(st.integers(1, 200), st.integers(1, 200)))
def test_logits_that_tie_with_the_threshold(compiled: bool, seed: int, size: tuple[int, int]) -> None:
    """Plateaus exactly at a threshold are not above it."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-1, 2, (6, 12, 9), generator=generator).float()
    upsampling = upsampling_of((12, 9), size, compiled)
    full = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    area_low, area_high, _ = upsampling.areas_and_boxes(logits, -1.0, 0.0, 1.0)
    assert (area_high == 0).all() and (full <= 1 + 1e-6).all()
    assert ((area_low - (full > -1).sum((1, 2))).abs() <= ((full + 1).abs() < 1e-5).sum((1, 2))).all()


@BOTH_PATHS
def test_logits_that_are_no_numbers(compiled: bool) -> None:
    """As where half precision overflowed: what lies beside them counts, they do not."""
    logits = torch.full((1, 64, 64), 5.0)
    logits[0, :, 10] = torch.nan
    upsampling = upsampling_of((64, 64), (128, 128), compiled)
    area_low, area_high, boxes = upsampling.areas_and_boxes(logits, -1.0, 0.0, 1.0)
    expected = 128 * (128 - 4)
    assert (area_low.tolist(), area_high.tolist(), boxes.tolist()) == ([expected], [expected], [[0, 0, 127, 127]])
    assert upsampling.mask(logits[0], 0.0)[2].area == expected


@settings(max_examples=60)
@given(seed=st.integers(0, 2**20), holes=st.integers(1, 40), size=st.tuples(st.integers(5, 90), st.integers(5, 90)))
def test_both_paths_take_the_same_for_no_numbers(seed: int, holes: int, size: tuple[int, int]) -> None:
    """Not F.interpolate to the pixel: what lies right on a logit takes nothing of the next one, which may be NaN."""
    logits = smooth_logits(seed, 5, 16, 12, 2)
    logits.view(-1)[torch.randint(0, logits.numel(), (holes,), generator=torch.Generator().manual_seed(seed))] = (
        torch.nan
    )
    compiled, tensors = (
        upsampling_of((16, 12), size, way).areas_and_boxes(logits, -1.0, 0.0, 1.0) for way in (True, False)
    )
    for one, other in zip(compiled, tensors, strict=True):
        assert torch.equal(one, other)


@BOTH_PATHS
def test_nothing_to_do(compiled: bool) -> None:
    area_low, area_high, boxes = upsampling_of((8, 8), (50, 60), compiled).areas_and_boxes(
        torch.zeros(0, 8, 8), -1, 0, 1
    )
    assert len(area_low) == len(area_high) == len(boxes) == 0
