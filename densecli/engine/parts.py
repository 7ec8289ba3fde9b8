"""Which mask is a part of which, and dropping parts so that wholes remain.

A part lies with at least 90 % of its area inside a bigger mask; its parent is the smallest such mask. Masks come by
falling area and a parent is strictly bigger, so it comes before its parts and cycles cannot be.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from pycocotools import mask as coco

from densecli.engine.compiled import kernels
from densecli.engine.joined import Joined
from densecli.engine.threads import over_threads
from densecli.masks import Runs

# CONTRACT, vocabulary: a part lies with at least this share of its area inside a bigger mask.
PART_FRACTION = 0.9
# Parts are alike when their areas lie within this factor of their median.
SIMILAR_AREA = 4.0
# Masks for which a thread is worth its while: some hundred microseconds each, where masks overlap much.
_LEAST_MASKS = 4


@dataclass(frozen=True)
class Placed:
    """A mask in the image: its runs in the frame of its box, and the box's x and y."""

    x: int
    y: int
    runs: Runs

    @cached_property
    def column_starts(self) -> np.ndarray:
        """w + 1 int64: the first run of each column of the box, ending with the number of runs."""
        return np.searchsorted(self.runs.column, np.arange(self.runs.size[1] + 1))


def parents(masks: Sequence[Placed], *, compiled: bool = True) -> list[int | None]:
    """For each mask the index of its parent, or None. masks: of one image, by falling area, none empty.

    Boxes decide first; only pairs whose boxes overlap enough are compared run by run.
    """
    n = len(masks)
    areas = np.array([m.runs.area for m in masks], dtype=np.int64)
    boxes = np.array([[m.x, m.y, m.x + m.runs.size[1], m.y + m.runs.size[0]] for m in masks]).reshape(n, 4)
    loops = kernels() if compiled else None
    if loops is not None and n:
        return _compiled_parents(loops, masks, areas, boxes)
    found: list[int | None] = []
    for i in range(n):
        needed = PART_FRACTION * areas[i]
        width = np.minimum(boxes[i, 2], boxes[:i, 2]) - np.maximum(boxes[i, 0], boxes[:i, 0])
        height = np.minimum(boxes[i, 3], boxes[:i, 3]) - np.maximum(boxes[i, 1], boxes[:i, 1])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        holders = np.flatnonzero((overlap >= needed) & (areas[:i] > areas[i]))
        # From the smallest up: the first one that holds the mask is its parent.
        upwards = (j for j in holders[::-1].tolist() if common_pixels(masks[i], masks[j], compiled=False) >= needed)
        found.append(next(upwards, None))
    return found


def _compiled_parents(
    loops: ModuleType, masks: Sequence[Placed], areas: np.ndarray, boxes: np.ndarray
) -> list[int | None]:
    """areas: n int64. boxes: n × 4 int64 xyxy, ends exclusive."""
    joined = Joined.of([m.runs for m in masks])
    first_start = np.zeros(len(masks) + 1, dtype=np.int64)
    np.cumsum([m.runs.size[1] + 1 for m in masks], out=first_start[1:])
    starts = np.empty(first_start[-1], dtype=np.int64)
    loops.column_starts(joined.column, joined.first, starts, first_start)
    found = np.empty(len(masks), dtype=np.int64)

    # Every so-many-th mask is one thread's: the smaller a mask, the more there are that might hold it.
    step = max(1, min(torch.get_num_threads(), len(masks) // _LEAST_MASKS))

    def work(begin: int) -> None:
        loops.parents(areas, boxes, *joined, starts, first_start, PART_FRACTION, begin, step, found)

    over_threads(work, range(step))
    return [None if i < 0 else i for i in found.tolist()]


def common_pixels(a: Placed, b: Placed, *, compiled: bool = True) -> int:
    """Pixels that two masks share."""
    loops = kernels() if compiled else None
    if loops is not None:
        one, other = (a.runs.column, a.runs.top, a.runs.bottom), (b.runs.top, b.runs.bottom)
        return loops.common_pixels(*one, a.x - b.x, a.y - b.y, b.column_starts, *other, float(a.runs.area))
    width = max(a.x + a.runs.size[1], b.x + b.runs.size[1])
    height = max(a.y + a.runs.size[0], b.y + b.runs.size[0])
    both = coco.merge([m.runs.rle(m.x, m.y, (height, width)) for m in (a, b)], intersect=True)
    return int(coco.area(both))


@dataclass(frozen=True)
class Part:
    """Why a mask goes: it, or what it lies in, is one of `alike` similar parts of a whole (0: any part goes)."""

    whole: int
    alike: int


def kept(
    parent: Sequence[int | None],
    areas: Sequence[int],
    rule: Literal["keep", "drop", "wholes"],
    min_siblings: int,
) -> list[bool]:
    """Which masks stay under `cleanup.parts`; the others are those that `dropped` gives."""
    gone = dropped(parent, areas, rule, min_siblings)
    return [i not in gone for i in range(len(parent))]


def dropped(
    parent: Sequence[int | None],
    areas: Sequence[int],
    rule: Literal["keep", "drop", "wholes"],
    min_siblings: int,
) -> dict[int, Part]:
    """Which masks go under `cleanup.parts`, and why.

    keep: none. wholes: those with a parent. drop: a mask goes if it is one of at least `min_siblings` similar parts
    (areas within a factor of 4 of their median) of one whole, and with it what lies inside it; a lone handle on a
    mug stays.
    """
    if rule == "keep":
        return {}
    if rule == "wholes":
        return {i: Part(p, 0) for i, p in enumerate(parent) if p is not None}
    children: dict[int, list[int]] = {}
    for i, p in enumerate(parent):
        if p is not None:
            children.setdefault(p, []).append(i)
    gone: dict[int, Part] = {}
    for whole, parts in children.items():
        middle = statistics.median(areas[i] for i in parts)
        similar = [i for i in parts if middle / SIMILAR_AREA <= areas[i] <= middle * SIMILAR_AREA]
        if len(similar) >= min_siblings:
            gone |= dict.fromkeys(similar, Part(whole, len(similar)))
    for i, p in enumerate(parent):  # parents come first, so this reaches parts of parts
        if p in gone and i not in gone:
            gone[i] = gone[p]
    return gone
