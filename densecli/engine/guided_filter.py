"""Pictures' arithmetic for `edges`: averages, distances, and the guided filter's linear models (source there)."""

from __future__ import annotations

import cv2
import numpy as np

# The guided filter's ε, in squares of the colour range: below this variance a window is one colour.
_EPSILON = 1e-4


def averaged(picture: np.ndarray, fx: int, fy: int) -> np.ndarray:
    """uint8 picture with each fx × fy block averaged; blocks that stick out are filled with the last row or column."""
    if fx == fy == 1:
        return picture
    height, width = picture.shape[:2]
    rows, columns = -(-height // fy), -(-width // fx)
    right, below = columns * fx - width, rows * fy - height
    if right or below:
        picture = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)


def distance_to_edge(share: np.ndarray) -> np.ndarray | None:
    """h×w float32: pixels to the nearest one with both mask and background in or next to it; None where there is none.

    share: of each pixel, how much of it is mask, 0 to 255.
    """
    around = np.ones((3, 3), np.uint8)
    inside, outside = (cv2.dilate(side.view(np.uint8), around) for side in (share > 0, share < 255))
    edge = cv2.bitwise_and(inside, outside)
    return cv2.distanceTransform(1 - edge, cv2.DIST_L2, 5) if edge.any() else None


def fitted(colour: np.ndarray, share: np.ndarray, weight: np.ndarray, k: int) -> np.ndarray:
    """For each pixel the linear model share ≈ a · colour + b of its window, by weighted least squares.

    colour: h×w×3, share and weight: h×w float32; windows are 2k + 1 pixels wide. Returns h×w×6 float32: a, b, how far
    to trust them (0 to 1: the square of the part of the window's variance that they explain), and room for a sixth.
    """

    def mean(picture: np.ndarray) -> np.ndarray:
        return cv2.blur(picture, (2 * k + 1, 2 * k + 1), borderType=cv2.BORDER_REFLECT)

    weighted = colour * weight[..., None]
    one = 1 / mean(weight)
    m = mean(weighted) * one[..., None]
    s = mean(weight * share) * one
    variance = mean(weight * share * share) * one - s * s
    c = mean(weighted * share[..., None]) * one[..., None] - m * s[..., None]
    # The six entries of the symmetric 3×3 covariance of colour, and Cramer's rule.
    r, g, b = m[..., 0], m[..., 1], m[..., 2]
    square = mean(weighted * colour) * one[..., None] - m * m + np.float32(_EPSILON)
    mixed = mean(weighted * colour[..., [1, 2, 0]]) * one[..., None]
    rr, gg, bb = square[..., 0], square[..., 1], square[..., 2]
    rg, gb, br = mixed[..., 0] - r * g, mixed[..., 1] - g * b, mixed[..., 2] - b * r
    i, j, l = gg * bb - gb * gb, br * gb - rg * bb, rg * gb - br * gg  # noqa: E741
    p, q, t = rr * bb - br * br, rg * br - rr * gb, rr * gg - rg * rg
    inverse = 1 / (rr * i + rg * j + br * l)
    x, y, z = c[..., 0], c[..., 1], c[..., 2]
    model = np.empty((*share.shape, 6), dtype=np.float32)
    model[..., 0] = (i * x + j * y + l * z) * inverse
    model[..., 1] = (j * x + p * y + q * z) * inverse
    model[..., 2] = (l * x + q * y + t * z) * inverse
    model[..., 3] = s - (model[..., 0] * r + model[..., 1] * g + model[..., 2] * b)
    explained = (model[..., 0] * x + model[..., 1] * y + model[..., 2] * z) / np.maximum(variance, 1e-4)
    model[..., 4] = np.clip(explained, 0, 1) ** 2
    return model


def margins_with_arrays(
    full: np.ndarray,
    colour: np.ndarray,
    fitted: np.ndarray,
    band: np.ndarray,
    first_row: int,
    first_column: int,
    fy: int,
    fx: int,
    reach: np.float32,
    least: np.float32,
    out: np.ndarray,
) -> None:
    """As `edge_kernels.margins`, where numba cannot be had; about ten times slower."""
    size = fitted.shape[1] * fx, fitted.shape[0] * fy
    h, w = full.shape
    part = slice(first_row * fy, first_row * fy + h), slice(first_column * fx, first_column * fx + w)
    fit = cv2.resize(fitted[..., :4], size, interpolation=cv2.INTER_LINEAR)[part]
    trust = cv2.resize(fitted[..., 4], size, interpolation=cv2.INTER_LINEAR)[part]
    distance = cv2.resize(fitted[..., 5], size, interpolation=cv2.INTER_LINEAR)[part]
    in_band = cv2.resize(band.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)[part] > 0
    evidence = (fit[..., :3] * (colour.astype(np.float32) / 255)).sum(-1) + fit[..., 3] - np.float32(0.5)
    inside = full > 0
    held = np.clip(distance / reach, least, 1) / 2
    margins = trust * evidence + (1 - trust) * np.where(inside, held, -held)
    out[:] = np.where(in_band, np.clip(margins, -0.5, 0.5), np.where(inside, 1, -1))
