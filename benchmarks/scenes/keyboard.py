"""A keyboard on a desk: many layouts, sizes and points of view; sometimes a mouse beside it."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .palette import RGB, apart, colour, grey, scaled, wood
from .shapes import Plane, Points, ellipse, rectangle

Keys = list[tuple[float, float, float, float]]
"""x, y, width and height of each key, in widths of a key."""

_MAIN = [
    [1.0] * 13 + [2.0],
    [1.5] + [1.0] * 12 + [1.5],
    [1.75] + [1.0] * 11 + [2.25],
    [2.25] + [1.0] * 10 + [2.75],
    [1.25, 1.25, 1.25, 6.25, 1.25, 1.25, 1.25, 1.25],
]


def _rows(rows: list[list[float]], x: float, y: float) -> Keys:
    keys = []
    for i, row in enumerate(rows):
        at = x
        for width in row:
            keys.append((at, y + i, width, 1.0))
            at += width
    return keys


def _layout(rng: np.random.Generator) -> Keys:
    name = rng.choice(["full", "without numbers", "small", "numbers", "ortho"])
    if name == "small":
        return _rows(_MAIN, 0, 0)
    if name == "numbers":
        return _rows([[1.0] * 4] * 5, 0, 0)
    if name == "ortho":
        columns, rows = int(rng.integers(8, 14)), int(rng.integers(3, 6))
        return _rows([[1.0] * columns] * rows, 0, 0)
    keys = _rows(_MAIN, 0, 1.4)
    keys += [(x, 0.0, 1.0, 1.0) for x in (0, 2, 3, 4, 5, 6.5, 7.5, 8.5, 9.5, 11, 12, 13, 14)]
    keys += [(15.4 + i, 1.4 + j, 1.0, 1.0) for i in range(3) for j in range(2)]
    keys += [(16.4, 4.4, 1.0, 1.0), *((15.4 + i, 5.4, 1.0, 1.0) for i in range(3))]
    if name == "full":
        keys += _rows([[1.0] * 4] * 3 + [[1.0] * 4] * 2, 18.8, 1.4)
    return keys


def draw(canvas: Canvas, rng: np.random.Generator) -> None:
    desk = wood(rng) if rng.uniform() < 0.6 else grey(rng, 0.5, 0.85)
    canvas.background("desk", desk, "wood" if desk[0] > desk[2] * 1.3 else "plaster", 0.07, _light(rng))
    keys = _layout(rng)
    margin = rng.uniform(0.25, 0.7)
    w = max(x + a for x, _, a, _ in keys) + 2 * margin
    h = max(y + b for _, y, _, b in keys) + 2 * margin
    fits = min(canvas.aspect * 0.92, 0.92 * w / h)
    width = fits * rng.uniform(0.4, 1.0)
    free = (canvas.aspect - width) / 2, (1 - width * h / w) / 2
    centre = canvas.aspect / 2 + rng.uniform(-0.7, 0.7) * free[0], 0.5 + rng.uniform(-0.7, 0.7) * max(free[1], 0)
    plane = Plane.seen(rng, w, h, centre, width, turn=0.12 if width > 0.8 * fits else 0.5)
    unit = width / w
    case = apart(rng, desk, 0.25, (0.08, 0.8)) if rng.uniform() < 0.5 else grey(rng, 0.06, 0.3)
    if np.linalg.norm(np.subtract(case, desk)) < 0.2:
        case = grey(rng, 0.05, 0.12) if desk[1] > 0.45 else grey(rng, 0.75, 0.88)
    step = rng.uniform(0.18, 0.45) * rng.choice([-1, 1])
    if not 0.1 < case[1] + step < 0.92:
        step = -step
    key_colour: RGB = (case[0] + step, case[1] + step, case[2] + step)
    accent = colour(rng, (0.4, 0.8), (0.4, 0.8)) if rng.uniform() < 0.4 else key_colour

    body = plane(rectangle(0, 0, w, h, margin * 0.8))
    me = canvas.add("keyboard", "whole")
    canvas.shadow(body, (0.25 * unit, 0.35 * unit), 0.3 * unit, 0.55)
    canvas.paint(body, case, me, contrast=0.05, light=_light(rng))
    gap, radius = rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.2)
    print_ = (0.92, 0.92, 0.9) if key_colour[1] < 0.5 else (0.08, 0.08, 0.1)
    for i, (x, y, a, b) in enumerate(keys):
        key = canvas.add(f"key {i + 1}", "part", me)
        x, y = x + margin, y + margin
        foot = plane(rectangle(x + gap, y + gap, a - 2 * gap, b - 2 * gap, radius))
        tone = accent if a > 1.4 else key_colour
        canvas.shadow(foot, (0.03 * unit, 0.06 * unit), 0.05 * unit, 0.4)
        canvas.paint(foot, scaled(tone, 0.72), key, contrast=0.03)
        top = rectangle(x + gap + 0.1, y + gap + 0.06, a - 2 * gap - 0.2, b - 2 * gap - 0.22, radius)
        canvas.paint(plane(top), tone, key, contrast=0.03, light=(0.05, 0.1))
        if a < 3:
            _legend(canvas, rng, plane, x + gap + 0.24, y + gap + 0.18, print_)
    if width < 0.75 * canvas.aspect and rng.uniform() < 0.6:
        _mouse(canvas, rng, body, width, case)


def _legend(canvas: Canvas, rng: np.random.Generator, plane: Plane, x: float, y: float, ink: RGB) -> None:
    """A letter, near enough: two or three strokes."""
    for _ in range(int(rng.integers(2, 4))):
        if rng.uniform() < 0.5:
            bar = rectangle(x + rng.uniform(0, 0.12), y, 0.045, 0.24)
        else:
            bar = rectangle(x, y + rng.uniform(0, 0.2), 0.18, 0.045)
        canvas.paint(plane(bar), ink, None, contrast=0, opacity=0.9)


def _mouse(canvas: Canvas, rng: np.random.Generator, body: Points, width: float, tone: RGB) -> None:
    """Where there is room to the right or the left of the keyboard."""
    size = max(0.05, min(0.16, width * 0.2))
    right = canvas.aspect - body[:, 0].max() > body[:, 0].min()
    edge = body[:, 0].max() if right else body[:, 0].min()
    x = edge + (1 if right else -1) * size * 0.8
    if not size * 0.5 < x < canvas.aspect - size * 0.5:
        return
    y = float(np.clip(body[:, 1].mean() + rng.normal(0, 0.05), 0.15, 0.85))
    outline = ellipse(x, y, size * 0.36, size * 0.6, rng.uniform(-0.3, 0.3))
    me = canvas.add("mouse", "whole")
    canvas.shadow(outline, (0.02 * size, 0.06 * size), 0.06 * size, 0.5)
    canvas.paint(outline, tone, me, light=(0.1, -0.3))
    wheel = canvas.add("wheel", "lone_part", me)
    canvas.paint(ellipse(x, y - size * 0.3, size * 0.05, size * 0.12), scaled(tone, 0.5), wheel)


def _light(rng: np.random.Generator) -> tuple[float, float]:
    return rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3)
