"""Masks as polygons: outlines through the border pixels' centres, which fill to the very mask again."""

from __future__ import annotations

import numpy as np

_MOST_PAIRS = 4_000_000


def regions_of(window: np.ndarray, x: int = 0, y: int = 0) -> list[list[np.ndarray]]:
    """Outlines of an h×w bool picture that lies at x, y of its image.

    One list for each connected region, largest first: the outer outline, then those of its holes; each n×2 int32, x and
    y of pixels. Filled together (even-odd, with the outlines themselves, as cv2.fillPoly does) they give the mask.
    """
    import cv2

    contours, hierarchy = cv2.findContours(
        np.ascontiguousarray(window).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y)
    )
    regions: dict[int, list[np.ndarray]] = {}
    parents = hierarchy[0][:, 3] if len(contours) else np.zeros(0, int)
    for number, parent in enumerate(parents):
        if parent < 0:
            regions[number] = [contours[number].reshape(-1, 2)]
    for number, parent in enumerate(parents):
        if parent >= 0:
            regions[int(parent)].append(contours[number].reshape(-1, 2))
    return sorted(regions.values(), key=lambda region: -_extent(region[0]))


def joined(outlines: list[np.ndarray]) -> np.ndarray:
    """One n×2 polygon of several outlines, tied together by cuts of no width, there and back.

    The next one is always the one nearest to those that are tied already, which makes the ties as short as can be in
    all: fillers that draw the outline too draw them, a pixel wide. At least three points, as readers want them; of a
    single pixel the same one thrice.
    """
    polygon, waiting = outlines[0], list(range(1, len(outlines)))
    newest = polygon
    # For each outline: squared distance to the polygon, the polygon's corner, the number of its own corner.
    nearest: dict[int, tuple[float, np.ndarray, int]] = {}
    while waiting:
        for number in waiting:
            here, there = _nearest(newest, outlines[number])
            distance = float(((newest[here].astype(float) - outlines[number][there]) ** 2).sum())
            if number not in nearest or distance < nearest[number][0]:
                nearest[number] = (distance, newest[here], there)
        chosen = min(waiting, key=lambda number: nearest[number][0])
        waiting.remove(chosen)
        _, corner, there = nearest[chosen]
        newest = outlines[chosen]
        place = int(np.flatnonzero((polygon == corner).all(axis=1))[0])
        polygon = np.concatenate([polygon[: place + 1], newest[there:], newest[: there + 1], polygon[place:]])
    if len(polygon) < 3:
        polygon = np.concatenate([polygon, np.repeat(polygon[-1:], 3 - len(polygon), axis=0)])
    return polygon


def _extent(outline: np.ndarray) -> int:
    width, height = np.ptp(outline, axis=0) + 1
    return int(width * height)


def _nearest(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Indices of two corners close to each other (the closest ones, unless there are very many)."""
    step = max(1, int(np.ceil(np.sqrt(len(first) * len(second) / _MOST_PAIRS))))
    a, b = first[::step].astype(np.float32), second[::step].astype(np.float32)
    distances = (a[:, None, 0] - b[None, :, 0]) ** 2 + (a[:, None, 1] - b[None, :, 1]) ** 2
    here, there = np.unravel_index(int(distances.argmin()), distances.shape)
    return int(here) * step, int(there) * step
