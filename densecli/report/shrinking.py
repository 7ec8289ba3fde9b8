"""Run-length encoded masks at the size of a thumbnail, without decoding them at the size of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densecli.masks import counts_of


def shrink(
    segmentation: Mapping[str, Any], bbox: Sequence[float], size: tuple[int, int]
) -> tuple[int, int, np.ndarray]:
    """A mask as it looks in a picture of `size` (width, height).

    segmentation: COCO compressed RLE. bbox: x, y, width, height of the mask in the image. Returns x, y and h×w bool:
    a window of the picture that holds the mask; never without any pixel, however small the mask is. Raises ValueError
    for what is no RLE of that size.
    """
    height, width = segmentation["size"]
    # Where its runs end, in pixels column by column; they are out, in, out, ...
    edges = counts_of(segmentation).cumsum()
    x0, x1 = _window(bbox[0], bbox[2], width, size[0])
    y0, y1 = _window(bbox[1], bbox[3], height, size[1])
    columns = ((np.arange(x0, x1) + 0.5) * width / size[0]).astype(np.int64)
    rows = ((np.arange(y0, y1) + 0.5) * height / size[1]).astype(np.int64)
    places = columns[:, None] * height + rows
    window = np.searchsorted(edges, places, side="right").T % 2 == 1
    if not window.any():
        # It lies between the sampled pixels: shown where its first run is.
        column, row = divmod(int(edges[0]), height)
        x0 = min(column * size[0] // width, size[0] - 1)
        y0 = min(row * size[1] // height, size[1] - 1)
        window = np.ones((1, 1), dtype=bool)
    return x0, y0, window


def _window(start: float, length: float, full: int, small: int) -> tuple[int, int]:
    """First and end index of the pixels of a side of `small` that lie over start to start + length of `full`."""
    first = max(0, int(start * small // full))
    end = min(small, int(-(-(start + length) * small // full)))
    return first, max(first, end)
