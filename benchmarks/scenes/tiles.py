"""A field of tiles on a painted wall, seen at an angle."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .palette import apart, colour, grey, scaled
from .shapes import Plane, rectangle


def draw(canvas: Canvas, rng: np.random.Generator) -> None:
    wall = grey(rng, 0.62, 0.9) if rng.uniform() < 0.5 else colour(rng, (0.5, 0.85), (0.1, 0.4))
    canvas.background("wall", wall, "plaster", 0.03, (rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2)))
    columns, rows = int(rng.integers(4, 12)), int(rng.integers(3, 8))
    tile_w, bond = (1.0, 0.0) if rng.uniform() < 0.6 else (2.0, 0.5)
    border = rng.uniform(0.08, 0.2)
    w, h = columns * tile_w + 2 * border, rows + 2 * border
    width = min(canvas.aspect * 0.88, 0.88 * w / h) * rng.uniform(0.55, 1.0)
    spare_x, spare_y = canvas.aspect - width, 1 - width * h / w
    centre = canvas.aspect / 2 + rng.uniform(-0.3, 0.3) * spare_x, 0.5 + rng.uniform(-0.3, 0.3) * spare_y
    plane = Plane.seen(rng, w, h, centre, width, tilt=(0.0, 0.15), turn=0.08)
    unit = width / w
    grout = grey(rng, 0.25, 0.8)
    if np.linalg.norm(np.subtract(grout, wall)) < 0.15:
        grout = scaled(wall, 0.55)
    tile = apart(rng, grout, 0.25, (0.25, 0.92))
    if np.linalg.norm(np.subtract(tile, wall)) < 0.2:
        tile = apart(rng, wall, 0.4, (0.25, 0.92))
    other = scaled(tile, rng.uniform(0.7, 0.9)) if rng.uniform() < 0.4 else tile
    outline = plane(rectangle(0, 0, w, h))
    me = canvas.add("tiled field", "whole")
    canvas.shadow(outline, (0.03 * unit, 0.05 * unit), 0.05 * unit, 0.4)
    canvas.paint(outline, grout, me, kind="stone", contrast=0.06)
    gap, spread = rng.uniform(0.03, 0.07), rng.uniform(0.01, 0.06)
    n = 0
    for row in range(rows):
        shift = bond * tile_w * (row % 2)
        at = border - shift
        while at < w - border - 1e-6:
            left, right = max(at, border), min(at + tile_w, w - border)
            at += tile_w
            if right - left < 0.2:
                continue
            n += 1
            one = canvas.add(f"tile {n}", "part", me)
            tone = scaled(tile if (n + row) % 2 else other, 1 + rng.normal(0, spread))
            body = rectangle(left + gap, border + row + gap, right - left - 2 * gap, 1 - 2 * gap, 0.04)
            canvas.paint(plane(body), tone, one, kind="stone", contrast=0.03, light=(0.08, 0.12))
            glint = rectangle(left + 2 * gap, border + row + 2 * gap, right - left - 4 * gap, 0.05, 0.02)
            canvas.paint(plane(glint), (1.0, 1.0, 1.0), None, contrast=0, opacity=0.18)
