"""Masks as polygons: outlines through the border pixels' centres, which fill to the very mask again."""

from __future__ import annotations

import numpy as np

_MOST_PAIRS = 1 << 18  # of corners that are compared at a time: what a cache holds


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
    polygon = newest = outlines[0]
    if len(outlines) > 1:
        # Corners of those that wait, one after the other; for each the nearest corner of the polygon.
        corners = np.concatenate(outlines[1:])
        owner = np.repeat(np.arange(1, len(outlines)), [len(outline) for outline in outlines[1:]])
        place = np.concatenate([np.arange(len(outline)) for outline in outlines[1:]])
        distance, nearest = np.full(len(corners), np.inf), np.zeros_like(corners)
    for _ in outlines[1:]:
        new_distance, new_nearest = _nearest(corners, newest)
        closer = new_distance < distance
        distance[closer], nearest[closer] = new_distance[closer], new_nearest[closer]
        best = int(distance.argmin())
        newest, there = outlines[owner[best]], int(place[best])
        tie = int(np.flatnonzero((polygon == nearest[best]).all(axis=1))[0])
        polygon = np.concatenate([polygon[: tie + 1], newest[there:], newest[: there + 1], polygon[tie:]])
        left = owner != owner[best]
        corners, owner, place, distance, nearest = (a[left] for a in (corners, owner, place, distance, nearest))
    if len(polygon) < 3:
        polygon = np.concatenate([polygon, np.repeat(polygon[-1:], 3 - len(polygon), axis=0)])
    return polygon


def _extent(outline: np.ndarray) -> int:
    width, height = np.ptp(outline, axis=0) + 1
    return int(width * height)


def _nearest(corners: np.ndarray, outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of n corners the squared distance of the nearest one of an outline, and that one (n×2)."""
    x, y = outline.T.astype(np.float32)
    found = np.empty(len(corners), np.intp)
    step = max(1, _MOST_PAIRS // len(outline))
    for begin in range(0, len(corners), step):
        some = corners[begin : begin + step].astype(np.float32)
        apart = (some[:, :1] - x) ** 2
        apart += (some[:, 1:] - y) ** 2
        found[begin : begin + step] = apart.argmin(1)
    nearest = outline[found]
    return ((corners.astype(float) - nearest) ** 2).sum(1), nearest
