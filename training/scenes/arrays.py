"""Things in rows: keyboards, shelves of books, tiles and windows. The rows are the whole, each of them an object."""

from __future__ import annotations

import numpy as np

from training.scenes import shapes
from training.scenes.canvas import Canvas
from training.scenes.labels import NOWHERE, OBJECT, PART, WHOLE
from training.scenes.textures import near, random_colour

# Key widths in units of a letter key, roughly as on real boards; the space bar is in the last row.
_KEY_ROWS = (
    (1,) * 13 + (2,),
    (1.5, *(1,) * 12, 1.5),
    (1.75, *(1,) * 11, 2.25),
    (2.25, *(1,) * 10, 2.75),
    (1.25, 1.25, 1.25, 6.25, 1.25, 1.25, 1.25, 1.25),
)


def keyboard(c: Canvas) -> None:
    """Keys of several widths with legends on a plate, seen at a slant; perhaps only a numeric block."""
    rng = c.rng
    rows = [list(row) for row in _KEY_ROWS]
    if rng.random() < 0.25:  # a numeric block, a calculator, a remote control
        rows = [[1.0] * int(rng.integers(3, 6))] * int(rng.integers(3, 7))
    elif rng.random() < 0.5:
        rows.insert(0, [1.0] * 15)
    if rng.random() < 0.3:
        rows = [row + [0.5, 1.0, 1.0, 1.0] for row in rows]
    units = max(sum(row) for row in rows)
    width = rng.uniform(0.35, 1.15) * c.size
    unit = width / units
    if unit < 9:
        unit, width = 9, 9 * units
    height = unit * len(rows) * rng.uniform(0.9, 1.15)
    frame = shapes.random_frame(rng, rng.uniform(0.3, 0.7, 2) * c.size, width * 1.06, height * 1.12, upright=0.85)
    whole = c.inside(NOWHERE, WHOLE)
    plate = random_colour(rng, c.bank) if rng.random() < 0.5 else np.full(3, rng.uniform(10, 240), np.float32)
    if not c.paint(shapes.project([shapes.round_rectangle(rng.choice([0.02, 0.06]))], frame), whole, base=plate):
        return
    contrast = rng.uniform(-60, 60)
    keys = np.clip(near(rng, plate, 5) + contrast, 0, 255) if rng.random() < 0.7 else random_colour(rng, c.bank)
    legend = np.clip(255 - keys + rng.normal(0, 20), 0, 255) if rng.random() < 0.8 else None
    radius, gap, even = rng.choice([0.1, 0.25, 0.5]), rng.uniform(0.04, 0.16), rng.random() < 0.85
    down = 2 / 1.12 / len(rows)
    for r, row in enumerate(rows):
        x = -sum(row) / units / 1.06
        cy = -1 / 1.12 + down * (r + 0.5)
        for key in row:
            wide = 2 * key / units / 1.06
            cx, x = x + wide / 2, x + wide
            if key < 1:
                continue
            rx, ry = wide / 2 - gap / units, down / 2 * (1 - gap)
            ids = c.inside(whole, OBJECT)
            shape = [shapes.round_rectangle(radius)]
            colour = near(rng, keys, 3)
            outline = shapes.project(shapes.place(shape, cx, cy, rx, ry), frame)
            if c.paint(outline, ids, base=colour, even=even, shadow=False):
                small = min(rx, ry) * rng.uniform(0.25, 0.5)
                if legend is not None and unit > 14 and key < 4:
                    mark = shapes.place(shapes.any_shape(rng), cx - rx * 0.2, cy - ry * 0.15, small, small)
                    c.paint(shapes.project(mark, frame), c.inside(ids, PART), base=legend, even=True, shadow=False)


def tiles(c: Canvas) -> None:
    """Windows of a house, tiles, crates, a muffin tin, pills in a blister: a grid of alike or unlike cells."""
    rng = c.rng
    w, h = rng.uniform(0.25, 1.1, 2) * c.size
    across, down = min(int(rng.integers(1, 12)), int(w / 12)), min(int(rng.integers(1, 9)), int(h / 12))
    frame = shapes.random_frame(rng, rng.uniform(0.15, 0.85, 2) * c.size, w, h)
    whole = c.inside(NOWHERE, WHOLE)
    if not c.paint(shapes.project([shapes.round_rectangle(rng.choice([0.01, 0.05, 0.15]))], frame), whole):
        return
    gap = rng.uniform(0.03, 0.5)
    corner = rng.choice([0.02, 0.15, 0.5, 1.0])
    alike, missing, marked = rng.random() < 0.6, rng.choice([0, 0, 0.15]), rng.random() < 0.35
    colour, mark = random_colour(rng, c.bank), random_colour(rng, c.bank)
    mx, my = rng.uniform(0.02, 0.15, 2)
    for j in range(down):
        for i in range(across):
            if rng.random() < missing:
                continue
            cx = -1 + mx + (2 - 2 * mx) * (i + 0.5) / across
            cy = -1 + my + (2 - 2 * my) * (j + 0.5) / down
            rx, ry = (1 - mx) / across * (1 - gap), (1 - my) / down * (1 - gap)
            shape = [shapes.ellipse()] if corner == 1.0 else [shapes.round_rectangle(corner)]
            if not alike and rng.random() < 0.4:
                shape = shapes.any_shape(rng)
            ids = c.inside(whole, OBJECT)
            base = near(rng, colour, 8) if alike else None
            outline = shapes.project(shapes.place(shape, cx, cy, rx, ry), frame)
            if c.paint(outline, ids, base=base, shadow=rng.random() < 0.5) and marked and rng.random() < 0.8:
                glyph = shapes.place(shapes.any_shape(rng), cx, cy, rx * 0.45, ry * 0.45)
                c.paint(shapes.project(glyph, frame), c.inside(ids, PART), base=mark, shadow=False)


def shelf(c: Canvas) -> None:
    """Boards with books, boxes and bottles of differing height; labels on their spines are parts."""
    rng = c.rng
    w, h = rng.uniform(0.4, 1.1, 2) * c.size
    frame = shapes.random_frame(rng, rng.uniform(0.3, 0.7, 2) * c.size, w, h, upright=0.95)
    whole = c.inside(NOWHERE, WHOLE)
    wood = random_colour(rng, c.bank)
    if not c.paint(shapes.project([shapes.round_rectangle(0.01)], frame), whole, base=np.clip(wood * 0.5, 0, 255)):
        return
    boards = int(rng.integers(1, 5))
    thick = rng.uniform(0.02, 0.06)
    for b in range(boards):
        floor, room = -1 + 2 * (b + 1) / boards - thick, 2 / boards - 2 * thick
        x = -0.96 + rng.uniform(0, 0.1)
        while x < 0.92:
            wide = min(np.exp(rng.uniform(np.log(0.04), np.log(0.25))), 0.96 - x)
            if wide * w < 14:  # less than 7 px: nothing to see
                break
            high = room * rng.uniform(0.4, 0.97)
            if rng.random() < 0.9:
                ids = c.inside(whole, OBJECT)
                cx, cy = x + wide / 2, floor - high / 2
                shape = [shapes.round_rectangle(rng.choice([0.02, 0.02, 0.2, 0.5]))]
                placed = shapes.place(shape, cx, cy, wide / 2 * 0.97, high / 2, rng.normal(0, 0.015))
                base = random_colour(rng, c.bank)
                if c.paint(shapes.project(placed, frame), ids, base=base) and rng.random() < 0.5:
                    label = shapes.place(
                        [shapes.round_rectangle(0.1)],
                        cx, floor - high * rng.uniform(0.3, 0.8), wide * 0.36, high * rng.uniform(0.05, 0.18),
                    )  # fmt: skip
                    c.paint(shapes.project(label, frame), c.inside(ids, PART), shadow=False)
            x += wide
        edge = np.array([[-1, floor], [1, floor], [1, floor + thick], [-1, floor + thick]])
        c.paint(shapes.project([edge], frame), c.inside(whole, OBJECT), base=near(rng, wood, 8), shadow=False)
