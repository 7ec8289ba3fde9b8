"""Closed contours in a box from -1 to 1, and where they are put. A shape is a list of contours: outline, then holes."""

from __future__ import annotations

import cv2
import numpy as np

Contours = list[np.ndarray]
UNIT_BOX = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)


def ellipse(points: int = 40) -> np.ndarray:
    a = np.arange(points) * 2 * np.pi / points
    return np.stack([np.cos(a), np.sin(a)], 1)


def round_rectangle(radius: float = 0.3, points: int = 6) -> np.ndarray:
    corners = []
    for cx, cy, start in ((1, 1, 0), (-1, 1, 90), (-1, -1, 180), (1, -1, 270)):
        a = np.radians(start + np.linspace(0, 90, points))
        corners.append(np.stack([cx * (1 - radius) + radius * np.cos(a), cy * (1 - radius) + radius * np.sin(a)], 1))
    return np.concatenate(corners)


def polygon(rng: np.random.Generator) -> np.ndarray:
    k = int(rng.integers(3, 8))
    even = (np.arange(k) + rng.uniform(-0.3, 0.3, k)) * 2 * np.pi / k
    a = np.sort(rng.random(k) * 2 * np.pi) if rng.random() < 0.5 else even
    r = rng.uniform(0.6, 1.0, k)
    return np.stack([r * np.cos(a), r * np.sin(a)], 1)


def blob(rng: np.random.Generator, points: int = 80) -> np.ndarray:
    a = np.arange(points) * 2 * np.pi / points
    r = np.ones(points)
    for k in range(1, int(rng.integers(3, 8))):
        r += rng.normal(0, 0.35 / k) * np.cos(k * a + rng.random() * 6.3)
    r = np.clip(r, 0.15, 2.0)
    r /= r.max()
    return np.stack([r * np.cos(a), r * np.sin(a)], 1)


def star(rng: np.random.Generator) -> np.ndarray:
    k = int(rng.integers(4, 10))
    a = np.arange(2 * k) * np.pi / k
    r = np.where(np.arange(2 * k) % 2, rng.uniform(0.35, 0.85), 1.0)
    return np.stack([r * np.cos(a), r * np.sin(a)], 1)


def band(line: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """A strip of `width` along a line (N×2), as one contour: cables, poles, fingers, branches."""
    direction = np.gradient(line, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-direction[:, 1], direction[:, 0]], 1) * np.reshape(width, (-1, 1)) / 2
    return np.concatenate([line + normal, (line - normal)[::-1]])


def bent_line(
    rng: np.random.Generator, begin: np.ndarray, end: np.ndarray, bend: float, points: int = 24
) -> np.ndarray:
    """N×2 points from `begin` to `end`, swinging out by about `bend` of their distance."""
    t = np.linspace(0, 1, points)[:, None]
    along = end - begin
    across = np.array([-along[1], along[0]])
    swing = rng.normal(0, bend) * np.sin(np.pi * t) + rng.normal(0, bend / 2) * np.sin(2 * np.pi * t)
    return begin + t * along + swing * across


def any_shape(rng: np.random.Generator) -> Contours:
    u = rng.random()
    if u < 0.22:
        return [ellipse()]
    if u < 0.42:
        return [round_rectangle(rng.choice([0.02, 0.1, 0.25, 0.5]))]
    if u < 0.60:
        return [polygon(rng)]
    if u < 0.86:
        return [blob(rng)]
    if u < 0.92:
        return [star(rng)]
    if u < 0.96:
        return [ellipse(), ellipse() * rng.uniform(0.45, 0.85)]  # a ring
    return [band(bent_line(rng, np.array([-1.0, 0.0]), np.array([1.0, 0.0]), 0.25), rng.uniform(0.1, 0.4))]


def place(contours: Contours, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> Contours:
    """Stretched by rx and ry, turned by `angle` (radians), moved to (cx, cy)."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.array([[c * rx, -s * ry], [s * rx, c * ry]])
    return [p @ matrix.T + [cx, cy] for p in contours]


def project(contours: Contours, homography: np.ndarray) -> Contours:
    out = []
    for p in contours:
        q = np.concatenate([p, np.ones((len(p), 1))], 1) @ homography.T
        out.append(q[:, :2] / q[:, 2:])
    return out


def random_frame(
    rng: np.random.Generator, centre: np.ndarray, width: float, height: float, upright: float = 0.7
) -> np.ndarray:
    """A 3×3 homography from the unit box to a box of about width × height pixels seen at a slant."""
    angle = rng.normal(0, 0.25) if rng.random() < upright else rng.random() * 6.3
    corners = place([UNIT_BOX.astype(float)], centre[0], centre[1], width / 2, height / 2, angle)[0]
    corners = corners + rng.normal(0, 0.06 * min(width, height), (4, 2))
    return cv2.getPerspectiveTransform(UNIT_BOX, corners.astype(np.float32)).astype(float)
