"""Run-length encoded masks at the size of a thumbnail, without decoding them at the size of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def run_edges(counts: str) -> np.ndarray:
    """Where the runs of a COCO compressed RLE end: int64, pixels in column order.

    Runs alternate between outside and inside the mask, beginning outside. Raises ValueError for what is no RLE.
    """
    code = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(code & 0x20 == 0)
    if len(code) and (code.min() < 0 or code.max() > 63 or not len(last) or last[-1] != len(code) - 1):
        raise ValueError("no COCO compressed RLE")
    if not len(code):
        return code
    first = np.concatenate([[0], last[:-1] + 1])
    # Five bits a character, low ones first; the sixth says that more follow, the last one's fifth is the sign.
    shift = 5 * (np.arange(len(code)) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((code & 0x1F) << shift, first)
    values -= (code[last] & 0x10 != 0) * (np.int64(1) << (shift[last] + 5))
    # From the fourth on, a length is told as its difference from the one two before.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return np.cumsum(values)


def shrink(
    segmentation: Mapping[str, Any], bbox: Sequence[float], size: tuple[int, int]
) -> tuple[int, int, np.ndarray]:
    """A mask as it looks in a picture of `size` (width, height).

    segmentation: COCO compressed RLE. bbox: x, y, width, height of the mask in the image. Returns x, y and h×w bool:
    a window of the picture that holds the mask; never without any pixel, however small the mask is.
    """
    height, width = segmentation["size"]
    edges = run_edges(segmentation["counts"])
    x0, x1 = _window(bbox[0], bbox[2], width, size[0])
    y0, y1 = _window(bbox[1], bbox[3], height, size[1])
    columns = ((np.arange(x0, x1) + 0.5) * width / size[0]).astype(np.int64)
    rows = ((np.arange(y0, y1) + 0.5) * height / size[1]).astype(np.int64)
    places = columns[:, None] * height + rows
    window = np.searchsorted(edges, places, side="right").T % 2 == 1
    if not window.any():
        # It lies between the sampled pixels: shown where its first run is.
        column, row = divmod(int(edges[0]) if len(edges) else 0, height)
        x0 = min(column * size[0] // width, size[0] - 1)
        y0 = min(row * size[1] // height, size[1] - 1)
        window = np.ones((1, 1), dtype=bool)
    return x0, y0, window


def _window(start: float, length: float, full: int, small: int) -> tuple[int, int]:
    """First and end index of the pixels of a side of `small` that lie over start to start + length of `full`."""
    first = max(0, int(start * small // full))
    end = min(small, int(-(-(start + length) * small // full)))
    return first, max(first, end)
