"""Pixels near an edge that two neighbours both claim: one of them has each, by score and by what the photo says.

Parts and their wholes both have the pixels that they share, and so have two readings of one thing, which share more
than what lies near their edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from densecli.engine.compiled import edge_kernels
from densecli.engine.parts import PART_FRACTION, Placed, common_pixels
from densecli.masks import Runs

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the image, ends excluded."""


class Claims(Protocol):
    """What is known about the edges of the masks."""

    def both_certain(self, i: int, j: int, window: Box) -> bool:
        """True only if some pixel of a window lies in both masks, beyond reach of either edge."""

    def margins(self, i: int, window: Box, wanted: np.ndarray) -> np.ndarray:
        """How surely pixels of a window are mask i: h×w float32 from -0.5 to 0.5; -1 and 1 beyond reach of its edge.

        wanted: h×w bool; others need not be right.
        """


def shared_out(
    before: Sequence[Placed], after: Sequence[Placed], scores: Sequence[float], claims: Claims
) -> list[Placed]:
    """The masks `after` their edges were refined, where no two neighbours have the same pixel.

    before: the same masks with the edges that they had. A pixel goes to the mask for which its sureness (margin + 0.5)
    times its score is larger; where equal, to the higher score, then to the earlier mask. Only pixels near an edge
    change hands.
    """
    result = list(after)
    order = sorted(range(len(result)), key=lambda i: -scores[i])
    boxes = np.array([_box(m) for m in after], dtype=np.int64).reshape(-1, 4)
    for place, i in enumerate(order):
        for j in _touching(boxes, i, order[place + 1 :]):
            window = common_box(result[i], result[j])
            if window is None or _nested(before[i], before[j]) or claims.both_certain(i, j, window):
                continue
            both = _seen(result[i], window) & _seen(result[j], window)
            mine, yours = (claims.margins(k, window, both) for k in (i, j))
            certain = mine >= 1, yours >= 1
            if (both & certain[0] & certain[1]).any():
                continue
            sure, other = ((np.minimum(m, 0.5) + 0.5) * scores[k] for m, k in ((mine, i), (yours, j)))
            to_me = both & ~certain[1] & (certain[0] | (sure >= other))
            result[j] = _without(result[j], window, to_me)
            result[i] = _without(result[i], window, both & ~to_me)
    return result


def _box(mask: Placed) -> Box:
    h, w = mask.runs.size
    return mask.x, mask.y, mask.x + w, mask.y + h


def _touching(boxes: np.ndarray, i: int, others: Sequence[int]) -> list[int]:
    """Those whose boxes overlap that of i."""
    rest = np.asarray(others, dtype=np.int64)
    low, high = np.maximum(boxes[rest, :2], boxes[i, :2]), np.minimum(boxes[rest, 2:], boxes[i, 2:])
    return rest[(low < high).all(1)].tolist()


def _nested(a: Placed, b: Placed) -> bool:
    return common_pixels(a, b) >= PART_FRACTION * min(a.runs.area, b.runs.area)


def common_box(a: Placed, b: Placed, *, compiled: bool = True) -> Box | None:
    """The box of the pixels that two masks share; None where they share none."""
    loops = edge_kernels() if compiled else None
    if loops is not None:
        runs, others = a.runs, b.runs
        x0, y0, x1, y1 = loops.common_box(
            runs.column, runs.top, runs.bottom, a.x - b.x, a.y - b.y, b.column_starts, others.top, others.bottom
        )
        return (b.x + x0, b.y + y0, b.x + x1, b.y + y1) if x1 else None
    one, other = _box(a), _box(b)
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    if left >= right or top >= bottom:
        return None
    both = _seen(a, (left, top, right, bottom)) & _seen(b, (left, top, right, bottom))
    if not both.any():
        return None
    rows, columns = both.any(1).nonzero()[0], both.any(0).nonzero()[0]
    return int(left + columns[0]), int(top + rows[0]), int(left + columns[-1] + 1), int(top + rows[-1] + 1)


def _without(mask: Placed, window: Box, lost: np.ndarray) -> Placed:
    if not lost.any():
        return mask
    x0, y0, x1, y1 = window
    left = mask.runs.decode().copy()
    left[y0 - mask.y : y1 - mask.y, x0 - mask.x : x1 - mask.x] &= ~lost
    x, y, runs = Runs.of(left).trimmed()
    return Placed(mask.x + x, mask.y + y, runs)


def _seen(mask: Placed, window: Box) -> np.ndarray:
    """The mask inside a window: h×w bool."""
    x0, y0, x1, y1 = window
    runs = mask.runs
    column = runs.column + (mask.x - x0)
    top = np.clip(runs.top + (mask.y - y0), 0, y1 - y0)
    bottom = np.clip(runs.bottom + (mask.y - y0), 0, y1 - y0)
    inside = (column >= 0) & (column < x1 - x0) & (top < bottom)
    # Column by column, a 1 where a run begins and a -1 where it ends; their running sum is the picture.
    steps = np.zeros((x1 - x0, y1 - y0 + 1), dtype=np.int8)
    steps[column[inside], top[inside]] = 1
    steps[column[inside], bottom[inside]] -= 1
    return np.cumsum(steps, axis=1, dtype=np.int8, out=steps)[:, :-1].T.view(bool)
