"""Masks straight to runs and counts: the same as the pixels, and as pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from densecli.engine import outlines
from densecli.engine.counts import coco_counts, counts_in_image_and_box
from densecli.engine.upsampling import Upsampling
from densecli.masks import Runs

sides = st.integers(1, 70)


def logits_of(seed: int, h: int, w: int, kind: str) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 3, (h, w)).astype(np.float32)
    if kind == "steps":  # ties with the threshold, and cells that are flat
        return np.rint(noise / 2) * 2
    if kind == "smooth":
        y, x = np.mgrid[:h, :w]
        return (4 - np.hypot(y - h / 2, x - w / 3) + noise * 0.05).astype(np.float32)
    if kind == "full":  # but for a hole here and there
        return np.where(np.abs(noise) > 8, -noise, 5).astype(np.float32)
    return noise


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    low=st.tuples(st.integers(1, 12), st.integers(1, 30)),
    size=st.tuples(sides, sides),
    kind=st.sampled_from(["noise", "steps", "smooth", "full"]),
    threshold=st.sampled_from([0.0, 1.0, -0.5, 2.0]),
)
@example(seed=9, low=(5, 7), size=(1, 4), kind="steps", threshold=2.0)  # above it between the pixels only
def test_runs_are_those_of_the_upsampled_pixels(seed, low, size, kind: str, threshold: float) -> None:
    logits = torch.from_numpy(logits_of(seed, *low, kind))
    upsampling = Upsampling(low, size, torch.device("cpu"))
    tables = [t.numpy() for t in (upsampling.rows.start, upsampling.rows.weight)]
    tables += [t.numpy() for t in (upsampling.columns.start, upsampling.columns.weight)]
    runs = Runs(size, *outlines.runs_of_logits(logits.numpy(), np.float32(threshold), *tables))
    x, y, found = runs.trimmed()
    by_tensors = Upsampling(low, size, torch.device("cpu"), compiled=False)
    wanted_x, wanted_y, wanted = by_tensors.mask(logits, threshold)
    assert (x, y, found.size) == (wanted_x, wanted_y, wanted.size)
    assert np.array_equal(found.decode(), wanted.decode())


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), h=sides, w=sides, share=st.sampled_from([0.02, 0.5, 0.98, 1.0]))
def test_counts_are_pycocotools_own_and_come_back(seed: int, h: int, w: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < share
    runs = Runs.of(mask)
    counts = outlines.coco_counts(runs.column, runs.top, runs.bottom, h, w, 0, 0)
    assert counts.tobytes() == runs.rle()["counts"].encode()
    back = Runs((h, w), *outlines.runs_of_counts(counts, h, w))
    assert all(np.array_equal(getattr(back, k), getattr(runs, k)) for k in ("column", "top", "bottom"))


@settings(max_examples=200)
@given(data=st.binary(max_size=60), h=sides, w=sides)
def test_bytes_that_are_no_counts_stay_within_the_frame(data: bytes, h: int, w: int) -> None:
    counts = np.frombuffer(data, dtype=np.uint8)
    try:
        column, top, bottom = outlines.runs_of_counts(counts, h, w)
    except ValueError:
        return
    assert (column < w).all() and (top < bottom).all() and (bottom <= h).all() and (column >= 0).all()


def test_counts_beyond_the_frame_are_refused() -> None:
    runs = Runs.of(np.ones((9, 9), dtype=bool))
    counts = outlines.coco_counts(runs.column, runs.top, runs.bottom, 9, 9, 0, 0)
    with pytest.raises(ValueError, match="out of the frame"):
        outlines.runs_of_counts(counts, 8, 9)


@pytest.mark.parametrize("n", [0, 1, 30])
def test_counts_of_many_masks_are_those_of_each(n: int) -> None:
    """Few masks and enough for threads; among them one without a pixel, and one that fills the image."""
    random = np.random.default_rng(n)
    pictures = [random.random((20, 30)) < share for share in np.linspace(0, 1, n)]
    masks = [Runs.of(picture).trimmed() for picture in pictures]
    expected = [
        (Runs.of(picture).rle()["counts"].encode(), coco_counts(runs))
        for picture, (_, _, runs) in zip(pictures, masks, strict=True)
    ]
    assert counts_in_image_and_box(masks, (20, 30)) == expected
