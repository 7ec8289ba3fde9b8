"""Run-length encoding of windows, labels, overlay and colours."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from densecli.masks import color_of, decode_rle, encode_rle


@given(
    seed=st.integers(0, 2**20),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    extent=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    fill=st.floats(0, 1),
)
def test_window_rle_equals_pycocotools_on_the_full_image(seed, size, corner, extent, fill) -> None:
    height, width = size
    y, x = int(corner[0] * (height - 1)), int(corner[1] * (width - 1))
    h, w = 1 + int(extent[0] * (height - y - 1)), 1 + int(extent[1] * (width - x - 1))
    window = np.random.default_rng(seed).random((h, w)) < fill
    full = np.zeros(size, dtype=bool)
    full[y : y + h, x : x + w] = window
    rle = encode_rle(window, x, y, size)
    assert rle["counts"] == coco.encode(np.asfortranarray(full.view(np.uint8)))["counts"].decode()
    assert np.array_equal(decode_rle(rle), full)


def test_empty_masks() -> None:
    assert decode_rle(encode_rle(np.zeros((0, 0), dtype=bool))).shape == (0, 0)
    assert not decode_rle(encode_rle(np.zeros((0, 0), dtype=bool), 3, 4, (9, 8))).any()


def test_neighbouring_ids_have_different_colours() -> None:
    colours = [color_of(i) for i in range(1, 400)]
    assert len(set(colours)) > 390
    channels = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours])
    assert np.abs(np.diff(channels, axis=0)).sum(1).min() > 60
