"""Outlines in plane coordinates, and the perspective that takes a plane into the picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Points = np.ndarray
"""N×2 float64: x, y."""


def rectangle(x: float, y: float, w: float, h: float, radius: float = 0.0) -> Points:
    """A rectangle with rounded corners; enough points on its sides for any mapping to bend them."""
    radius = min(radius, w / 2, h / 2)
    if radius <= 0:
        return polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
    turn = np.linspace(0, np.pi / 2, 9)
    corners = [(x + w - radius, y + radius), (x + w - radius, y + h - radius), (x + radius, y + h - radius)]
    corners.append((x + radius, y + radius))
    arcs = []
    for i, (cx, cy) in enumerate(corners):
        angle = turn + (i - 1) * np.pi / 2
        arcs.append(np.stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)], 1))
    return np.concatenate(arcs)


def polygon(corners: Sequence[tuple[float, float]], per_side: int = 8) -> Points:
    """A closed polygon with `per_side` points on each side."""
    points = np.asarray(corners, dtype=np.float64)
    step = np.arange(per_side)[None, :, None] / per_side
    return (points[:, None] + (np.roll(points, -1, 0) - points)[:, None] * step).reshape(-1, 2)


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, n: int = 96) -> Points:
    """An ellipse, turned by `angle` (radians)."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return turned(np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1), angle, (cx, cy))


def blob(rng: np.random.Generator, cx: float, cy: float, r: float, wobble: float = 0.15, n: int = 128) -> Points:
    """A round thing with a smooth irregular outline."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radius = np.full(n, r)
    for k in range(2, 6):
        radius += r * wobble / k * rng.normal() * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    return np.stack([cx + radius * np.cos(t), cy + radius * np.sin(t)], 1)


def stroke(path: Points, width: float | Sequence[float] | np.ndarray) -> Points:
    """A line along `path` with round ends, of one width or one a point."""
    half = np.broadcast_to(np.asarray(width, dtype=np.float64) / 2, len(path))
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    normal = np.stack([-along[:, 1], along[:, 0]], 1)
    left, right = path + normal * half[:, None], path - normal * half[:, None]
    turn = np.linspace(0, np.pi, 12)[1:-1]
    tips = []
    for i, sign in ((-1, 1.0), (0, -1.0)):
        around = np.cos(turn)[:, None] * normal[i] * sign + np.sin(turn)[:, None] * along[i] * sign
        tips.append(path[i] + half[i] * around)
    return np.concatenate([left, tips[0], right[::-1], tips[1]])


def curve(points: Sequence[tuple[float, float]], n: int = 48) -> Points:
    """A smooth line (Catmull-Rom) through `points`."""
    p = np.asarray(points, dtype=np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, len(p) - 3, n)
    i = np.minimum(t.astype(int), len(p) - 4)
    u = (t - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)


def turned(points: Points, angle: float, around: tuple[float, float]) -> Points:
    """Turned by `angle` (radians)."""
    c, s = np.cos(angle), np.sin(angle)
    return (points - around) @ np.array([[c, s], [-s, c]]) + around


class Plane:
    """A flat thing seen in perspective: its own coordinates, 0 to w and 0 to h, into those of the scene."""

    def __init__(self, w: float, h: float, corners: Points) -> None:
        """corners: 4×2, where (0, 0), (w, 0), (w, h), (0, h) lie in the scene."""
        own = np.array([(0, 0), (w, 0), (w, h), (0, h)], dtype=np.float32)
        self.w, self.h = w, h
        self.matrix = cv2.getPerspectiveTransform(own, np.asarray(corners, dtype=np.float32))

    def __call__(self, points: Points) -> Points:
        return cv2.perspectiveTransform(np.asarray(points, dtype=np.float64)[None], self.matrix)[0]

    @staticmethod
    def seen(
        rng: np.random.Generator,
        w: float,
        h: float,
        centre: tuple[float, float],
        width: float,
        *,
        tilt: tuple[float, float] = (0.0, 0.25),
        turn: float = 0.15,
        skew: float = 0.02,
    ) -> Plane:
        """A plane of w by h about `centre`, `width` wide in the scene, turned by up to `turn` radians.

        tilt: by how much its far (upper) side may be shortened; its height shrinks along.
        """
        lean = rng.uniform(*tilt)
        height = width * h / w * (1 - 0.6 * lean)
        far = width * (1 - lean) / 2
        quad = np.array([(-far, -height / 2), (far, -height / 2), (width / 2, height / 2), (-width / 2, height / 2)])
        quad += rng.normal(0, skew * min(width, height), (4, 2))
        return Plane(w, h, turned(quad, rng.uniform(-turn, turn), (0.0, 0.0)) + centre)
