"""A house under the sky: rows of windows, one door, a roof."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .palette import apart, colour, grey, scaled
from .shapes import Plane, blob, polygon, rectangle


def draw(canvas: Canvas, rng: np.random.Generator) -> None:
    sky = (rng.uniform(0.45, 0.7), rng.uniform(0.65, 0.8), rng.uniform(0.85, 0.95))
    canvas.background("sky", sky, "sky", 0.06, (0.05, 0.25))
    ground_y = rng.uniform(0.84, 0.92)
    ground = canvas.add("ground", "background")
    meadow = (rng.uniform(0.25, 0.4), rng.uniform(0.42, 0.55), rng.uniform(0.15, 0.25))
    low = polygon([(-0.1, ground_y), (canvas.aspect + 0.1, ground_y), (canvas.aspect + 0.1, 1.1), (-0.1, 1.1)])
    canvas.paint(low, meadow, ground, kind="grass", contrast=0.13, light=(0.0, 0.2))
    floors, columns = int(rng.integers(2, 5)), int(rng.integers(3, 7))
    roof = rng.uniform(0.5, 1.0)
    w, h = columns + 0.5, floors * 1.15 + 0.3
    total = h + roof
    width = min(canvas.aspect * 0.86, 0.82 * w / total) * rng.uniform(0.7, 1.0)
    unit = width / w
    x = canvas.aspect / 2 + rng.uniform(-0.35, 0.35) * (canvas.aspect - width * 1.1) - width / 2
    y1 = ground_y + 0.03
    # Seen a little from one side: that side is taller.
    lean = rng.uniform(-0.06, 0.06) * h * unit
    top = y1 - h * unit
    corners = np.array([(x, top - lean), (x + width, top + lean), (x + width, y1), (x, y1)])
    plane = Plane(w, h, corners)
    wall = grey(rng, 0.6, 0.9) if rng.uniform() < 0.4 else colour(rng, (0.45, 0.85), (0.15, 0.55))
    if np.linalg.norm(np.subtract(wall, sky)) < 0.3:
        wall = apart(rng, sky, 0.4, (0.35, 0.85))
    tiles = (rng.uniform(0.4, 0.6), rng.uniform(0.18, 0.3), rng.uniform(0.12, 0.25))
    if rng.uniform() < 0.4:
        tiles = grey(rng, 0.2, 0.35)
    for _ in range(int(rng.integers(0, 4))):
        tree = canvas.add("tree", "background")
        crown = blob(rng, rng.uniform(0, canvas.aspect), ground_y - 0.1, rng.uniform(0.08, 0.16), 0.4)
        canvas.paint(crown, scaled(meadow, rng.uniform(0.5, 0.8)), tree, kind="grass", contrast=0.25)
    me = canvas.add("house", "whole")
    over = 0.25
    cap = np.array([(-over, 0.04), (w + over, 0.04), (w - 0.5 + over, -roof), (0.5 - over, -roof)])
    facade = plane(rectangle(0, 0, w, h))
    canvas.shadow(plane(rectangle(0, h - 0.1, w, 0.15)), (0.1 * unit, 0.06 * unit), 0.1 * unit, 0.5)
    canvas.paint(facade, wall, me, kind="plaster", contrast=0.05, light=(rng.uniform(-0.2, 0.2), -0.1))
    top_part = canvas.add("roof", "lone_part", me)
    edge = plane(polygon([tuple(p) for p in cap]))
    canvas.shadow(edge, (0.02 * unit, 0.1 * unit), 0.06 * unit, 0.35, on=me)
    canvas.paint(edge, tiles, top_part, kind="wood", contrast=0.08, light=(0.1, 0.2))
    _openings(canvas, rng, plane, me, floors, columns, wall, unit)


def _openings(
    canvas: Canvas,
    rng: np.random.Generator,
    plane: Plane,
    me: int,
    floors: int,
    columns: int,
    wall: tuple[float, float, float],
    unit: float,
) -> None:
    door_at = int(rng.integers(0, columns))
    a, b = rng.uniform(0.45, 0.62), rng.uniform(0.6, 0.78)
    frame = grey(rng, 0.85, 0.96) if sum(wall) < 2.2 else scaled(wall, 0.45)
    glass = (rng.uniform(0.12, 0.3), rng.uniform(0.18, 0.35), rng.uniform(0.25, 0.42))
    n = 0
    for floor in range(floors):
        for column in range(columns):
            x, y = 0.25 + column + (1 - a) / 2, 0.3 + floor * 1.15
            if floor == floors - 1 and column == door_at:
                door = canvas.add("door", "lone_part", me)
                tone = apart(rng, wall, 0.35, (0.2, 0.6))
                outline = plane(rectangle(x, y + 0.02, a, 1.1))
                canvas.paint(outline, tone, door, kind="plaster", contrast=0.06, light=(0.1, 0.1))
                panel = plane(rectangle(x + a * 0.18, y + 0.14, a * 0.64, 0.35))
                canvas.paint(panel, scaled(tone, 0.8), None)
                knob = plane(rectangle(x + a * 0.82, y + 0.6, a * 0.08, a * 0.08, a * 0.04))
                canvas.paint(knob, (0.8, 0.72, 0.4), None)
                continue
            n += 1
            window = canvas.add(f"window {n}", "part", me)
            outline = plane(rectangle(x, y, a, b))
            canvas.shadow(outline, (0.02 * unit, 0.03 * unit), 0.03 * unit, 0.3)
            canvas.paint(outline, frame, window)
            bar = 0.045
            for i in range(2):
                for j in range(2):
                    pane = rectangle(
                        x + bar + i * (a - bar) / 2, y + bar + j * (b - bar) / 2, (a - 3 * bar) / 2, (b - 3 * bar) / 2
                    )
                    tone = scaled(glass, rng.uniform(0.8, 1.5))
                    canvas.paint(plane(pane), tone, window, kind="sky", contrast=0.2, light=(0.1, -0.4))
            sill = plane(rectangle(x - 0.04, y + b, a + 0.08, 0.05))
            canvas.paint(sill, scaled(wall, 0.75), None)
