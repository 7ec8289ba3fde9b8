"""Rows and grids of similar masks, such as the keys of a keyboard, whose whole is not among the masks.

Two masks side by side belong together where the arrangement repeats around them. Either as in a grid: most of what
one has for neighbours the other has at the same distance and direction, so that any slant or perspective is fine
(keys, tiles, windows). Or as in a row: shoulder to shoulder, of one height, with equal gaps, whatever their widths
(books on a shelf). What hangs together so is a group. Only what is of about the same size and within reach is looked
at, so that the cost goes with the number of masks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from densecli.engine import parts
from densecli.engine.parts import SIMILAR_AREA, Placed

# A whole covers at least this share of its group's area ...
WHOLE_COVERS = 0.8
# ... and is not much larger than the group's box: a desk is not what its keyboard's keys make up. Own choice.
WHOLE_AT_MOST = 3.0
# The rest are own choices, tried on drawn keyboards, shelves, walls, façades and clutter (tests/engine/test_wholes.py).
_FILLS_ITS_BOX = 0.35  # share of its box; keys, books and windows do, spiders do not
_EXTENT_RATIO = 1.6  # neighbours in a grid: widths, and heights, within this factor
_AREA_RATIO = 2.0  # ... and areas
_SPACING = (0.45, 2.3)  # ... and centres this far apart, in extents along the line between them
_ON_EACH_OTHER = 0.3  # what shares more than this part of the smaller one is not side by side
_NEAREST = 12  # neighbours that are looked at
_EDGES_AT_A_TIME = 4096  # 10 MB of temporaries
_REPEATS_WITHIN = 0.25  # a neighbour is where it was foretold, in extents
_REPEATS = 0.3  # share of the foretold neighbours that must be there, and at least two of them
_HEIGHT_RATIO = 1.5  # shoulder to shoulder: heights within this factor,
_OVERLAP = 0.7  # ... this much of the smaller height side by side,
_GAP = 0.35  # ... gaps up to this, and differing by no more than this, in widths of the narrower one
_DENSE = 0.2  # a group fills this share of its hull at least


@dataclass(frozen=True)
class Group:
    """Similar masks in a regular row or grid. members: their places in the list; box: x0, y0, x1, y1, exclusive."""

    members: tuple[int, ...]
    box: tuple[int, int, int, int]


def without_whole(masks: Sequence[Placed], at_least: int) -> list[Group]:
    """The groups of at least so many masks whose whole is not among the masks, by falling size."""
    return [group for group in groups(masks, at_least) if not any(_may_hold(masks, group))]


def is_whole(mask: Placed, group: Group, masks: Sequence[Placed]) -> bool:
    """Whether a mask covers 80 % of the group's area and is not more than 3 times as large as its box."""
    x0, y0, x1, y1 = group.box
    if mask.runs.area > WHOLE_AT_MOST * (x1 - x0) * (y1 - y0):
        return False
    needed = WHOLE_COVERS * sum(masks[i].runs.area for i in group.members)
    return sum(parts.common_pixels(masks[i], mask) for i in group.members) >= needed


def _may_hold(masks: Sequence[Placed], group: Group) -> Iterator[bool]:
    """For each mask that is large enough and lies there, whether it is the group's whole."""
    x0, y0, x1, y1 = group.box
    area = sum(masks[i].runs.area for i in group.members)
    for mask in masks:
        if mask.runs.area >= WHOLE_COVERS * area:
            height, width = mask.runs.size
            across = min(mask.x + width, x1) - max(mask.x, x0)
            down = min(mask.y + height, y1) - max(mask.y, y0)
            if across > 0 and down > 0 and across * down >= WHOLE_COVERS * area:
                yield is_whole(mask, group, masks)


def groups(masks: Sequence[Placed], at_least: int) -> list[Group]:
    """Regular rows and grids of at least so many similar masks, by falling number of masks."""
    boxes = np.array([[m.x, m.y, m.x + m.runs.size[1], m.y + m.runs.size[0]] for m in masks]).reshape(-1, 4)
    areas = np.array([m.runs.area for m in masks], dtype=np.float64)
    solid = np.flatnonzero(areas >= _FILLS_ITS_BOX * (boxes[:, 2:] - boxes[:, :2]).prod(1))
    found = []
    for alike in _regular(masks, boxes.astype(np.float64), areas, solid, at_least):
        x0, y0, x1, y1 = boxes[alike].T
        corners = np.concatenate([np.stack(c, 1) for c in ((x0, y0), (x1, y0), (x0, y1), (x1, y1))])
        if areas[alike].sum() >= _DENSE * cv2.contourArea(cv2.convexHull(corners.astype(np.float32))):
            box = int(x0.min()), int(y0.min()), int(x1.max()), int(y1.max())
            found.append(Group(tuple(alike), box))
    return sorted(found, key=lambda group: -len(group.members))


def _regular(
    masks: Sequence[Placed], boxes: np.ndarray, areas: np.ndarray, chosen: np.ndarray, at_least: int
) -> list[list[int]]:
    """At least so many of the chosen masks that hang together, are alike, and do not lie on each other."""
    found = []
    near = _near(boxes, chosen)
    # Pairs side by side around which the arrangement repeats.
    edges = _in_grid(near, boxes, areas) + _in_rows(near, boxes, areas, 0) + _in_rows(near, boxes, areas, 1)
    for members in _joined(len(areas), edges):
        middle = float(np.median(areas[members]))
        alike = [i for i in members if middle / SIMILAR_AREA <= areas[i] <= middle * SIMILAR_AREA]
        apart = _apart(masks, boxes, alike, near)
        if len(apart) < len(members) and len(apart) >= at_least:
            # Without the others the rest may not hang together any more.
            found += _regular(masks, boxes, areas, np.array(apart), at_least)
        elif len(apart) >= at_least:
            found.append(apart)
    return found


def _apart(
    masks: Sequence[Placed], boxes: np.ndarray, members: Sequence[int], near: dict[int, np.ndarray]
) -> list[int]:
    """Those that are left when each takes away the later ones (smaller, where masks come so) that share its pixels."""
    left: set[int] = set()
    for i in members:
        close = near[i][_shared(boxes[i], boxes[near[i]]) > _ON_EACH_OTHER].tolist()
        if not any(
            parts.common_pixels(masks[i], masks[j]) > _ON_EACH_OTHER * min(masks[i].runs.area, masks[j].runs.area)
            for j in left.intersection(close)
        ):
            left.add(i)
    return sorted(left)


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What a box shares with others, as parts of the smaller one of each two."""
    size = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0)
    smaller = np.minimum((box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1))
    return size.prod(1) / smaller


def _near(boxes: np.ndarray, chosen: np.ndarray) -> dict[int, np.ndarray]:
    """For each chosen mask the others of about its size (larger extent within a factor of 2) that could be beside it.

    Of the masks in order of x only those within reach are looked at.
    """
    middles = (boxes[chosen, :2] + boxes[chosen, 2:]) / 2
    extents = (boxes[chosen, 2:] - boxes[chosen, :2]).max(1, initial=1)
    order = np.argsort(middles[:, 0], kind="stable")
    chosen, middles, extents = chosen[order], middles[order], extents[order]
    # No pair that counts is farther apart: see _SPACING and _GAP; the larger one has up to twice the extent.
    reach = 2 * _SPACING[1] * extents
    begin = np.searchsorted(middles[:, 0], middles[:, 0] - reach)
    end = np.searchsorted(middles[:, 0], middles[:, 0] + reach, side="right")
    near = {}
    for k, i in enumerate(chosen.tolist()):
        part = slice(begin[k], end[k])
        larger = np.maximum(extents[part], extents[k])
        good = (larger <= 2 * np.minimum(extents[part], extents[k])) & (chosen[part] != i)
        good &= (np.abs(middles[part] - middles[k]) <= _SPACING[1] * larger[:, None]).all(1)
        near[i] = np.sort(chosen[part][good])
    return near


def _in_grid(near: dict[int, np.ndarray], boxes: np.ndarray, areas: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of similar masks where enough of the neighbours of one have their like beside the other."""
    middles, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    others = np.full((len(areas), _NEAREST), -1)
    ways = np.full((len(areas), _NEAREST, 2), np.nan)
    for i, found in near.items():
        found = found[_shared(boxes[i], boxes[found]) <= _ON_EACH_OTHER]
        similar = _similar(i, found, middles, sizes, areas)
        others[i, : len(similar)] = similar
        ways[i, : len(similar)] = middles[similar] - middles[i]
    one, place = np.nonzero(others >= 0)
    other = others[one, place]
    once = one < other
    edges = []
    for begin in range(0, np.count_nonzero(once), _EDGES_AT_A_TIME):
        a, b = (part[once][begin : begin + _EDGES_AT_A_TIME] for part in (one, other))
        off = np.abs(ways[a][:, :, None] - ways[b][:, None])  # edges × neighbours of one × of the other × 2
        there = [(off <= _REPEATS_WITHIN * sizes[k][:, None, None]).all(3) for k in (b, a)]
        hits = there[0].any(2).sum(1) + there[1].any(1).sum(1)
        total = (others[a] >= 0).sum(1) + (others[b] >= 0).sum(1)
        good = (hits >= 2) & (hits >= _REPEATS * total)
        edges += list(zip(a[good].tolist(), b[good].tolist(), strict=True))
    return edges


def _similar(i: int, others: np.ndarray, middles: np.ndarray, sizes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Which masks near mask i are like it and side by side with it, the nearest ones first."""
    way = np.abs(middles[others] - middles[i])
    distance = np.hypot(way[:, 0], way[:, 1])
    ratio = np.maximum(sizes[others] / sizes[i], sizes[i] / sizes[others]).max(1, initial=0)
    larger = np.maximum(areas[others] / areas[i], areas[i] / areas[others])
    with np.errstate(divide="ignore", invalid="ignore"):
        towards = way / distance[:, None]
        # The length of the line through a box's middle in this direction.
        extent = np.fmin.reduce(sizes[others] / towards, 1) + np.fmin.reduce(sizes[i] / towards, 1)
        spacing = 2 * distance / extent
    good = (ratio <= _EXTENT_RATIO) & (larger <= _AREA_RATIO) & (spacing >= _SPACING[0]) & (spacing <= _SPACING[1])
    return others[good][np.argsort(spacing[good], kind="stable")[:_NEAREST]]


def _in_rows(near: dict[int, np.ndarray], boxes: np.ndarray, areas: np.ndarray, axis: int) -> list[tuple[int, int]]:
    """Pairs that stand shoulder to shoulder along an axis (0: x), with the same gap as to a next one."""
    low, high, across = boxes[:, axis], boxes[:, axis + 2], 1 - axis
    width, height = high - low, boxes[:, across + 2] - boxes[:, across]
    after: dict[int, tuple[int, float]] = {}
    for i, others in near.items():
        gap = low[others] - high[i]
        shared = np.minimum(boxes[others, across + 2], boxes[i, across + 2])
        shared = shared - np.maximum(boxes[others, across], boxes[i, across])
        narrow = np.minimum(width[others], width[i])
        good = (np.abs(gap) <= _GAP * narrow) & (low[others] > low[i]) & (high[others] > high[i])
        good &= shared >= _OVERLAP * np.minimum(height[others], height[i])
        good &= np.maximum(height[others], height[i]) <= _HEIGHT_RATIO * np.minimum(height[others], height[i])
        good &= np.maximum(areas[others], areas[i]) <= SIMILAR_AREA * np.minimum(areas[others], areas[i])
        if good.any():
            nearest = np.flatnonzero(good)[np.abs(gap[good]).argmin()]
            after[i] = int(others[nearest]), float(gap[nearest])
    edges = []
    for i, (j, gap) in after.items():
        if j in after and abs(after[j][1] - gap) <= _GAP * min(width[i], width[j], width[after[j][0]]):
            edges += [(i, j), (j, after[j][0])]
    return edges


def _joined(n: int, edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """What hangs together through these edges, in the order of the places; lone ones left out."""
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in edges:
        root[find(i)] = find(j)
    together: dict[int, list[int]] = defaultdict(list)
    for i in sorted({k for edge in edges for k in edge}):
        together[find(i)].append(i)
    return list(together.values())


def spread(masks: Sequence[Placed], group: Group, most: int) -> tuple[tuple[float, float], ...]:
    """Up to so many middles (x, y) of a group's masks, far apart from each other; each lies on its mask."""
    middles = np.array([_middle(masks[i]) for i in group.members])
    chosen = [int(np.hypot(*(middles - middles.mean(0)).T).argmin())]
    distance = np.full(len(middles), math.inf)
    while len(chosen) < min(most, len(middles)):
        distance = np.minimum(distance, np.hypot(*(middles - middles[chosen[-1]]).T))
        chosen.append(int(distance.argmax()))
    return tuple((float(x), float(y)) for x, y in middles[chosen])


def _middle(mask: Placed) -> tuple[float, float]:
    """The middle of a mask's box, moved down or up its column, or to the longest run, where it is not on the mask."""
    runs = mask.runs
    column, line = runs.size[1] // 2, runs.size[0] // 2
    begin, end = mask.column_starts[column], mask.column_starts[column + 1]
    if ((runs.top[begin:end] <= line) & (line < runs.bottom[begin:end])).any():
        return mask.x + column + 0.5, mask.y + line + 0.5
    longest = int((runs.bottom - runs.top).argmax())
    line = (runs.top[longest] + runs.bottom[longest]) // 2
    return mask.x + float(runs.column[longest]) + 0.5, mask.y + float(line) + 0.5
