"""A bookcase before a wall, full of books and boxes."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .palette import RGB, apart, colour, grey, scaled, wood
from .shapes import Plane, polygon, rectangle


def draw(canvas: Canvas, rng: np.random.Generator) -> None:
    wall = grey(rng, 0.6, 0.88) if rng.uniform() < 0.6 else colour(rng, (0.5, 0.8), (0.1, 0.35))
    canvas.background("wall", wall, "plaster", 0.025, (rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.2)))
    boards = wood(rng) if rng.uniform() < 0.6 else grey(rng, 0.12, 0.95)
    if np.linalg.norm(np.subtract(boards, wall)) < 0.22:
        boards = apart(rng, wall, 0.35)
    rows, w = int(rng.integers(2, 5)), rng.uniform(2.2, 4.0)
    high, board = rng.uniform(0.9, 1.15), rng.uniform(0.07, 0.12)
    h = rows * (high + board) + board
    width = min(canvas.aspect * 0.9, 0.9 * w / h) * rng.uniform(0.6, 1.0)
    spare_x, spare_y = canvas.aspect - width, 1 - width * h / w
    centre = canvas.aspect / 2 + rng.uniform(-0.3, 0.3) * spare_x, 0.5 + rng.uniform(-0.2, 0.3) * spare_y
    plane = Plane.seen(rng, w, h, centre, width, tilt=(0.0, 0.08), turn=0.03, skew=0.015)
    unit = width / w
    me = canvas.add("bookcase", "whole")
    outline = plane(rectangle(0, 0, w, h))
    canvas.shadow(outline, (0.12 * unit, 0.1 * unit), 0.14 * unit, 0.45)
    canvas.paint(outline, boards, me, kind="wood", contrast=0.06, light=(0.1, -0.1))
    boxes = rng.uniform() < 0.3
    for row in range(rows):
        top = board + row * (high + board)
        inside = plane(rectangle(board, top, w - 2 * board, high))
        canvas.paint(inside, scaled(boards, 0.45), me, kind="wood", contrast=0.05, light=(0.1, 0.5))
        fill = _boxes if boxes else _books
        fill(canvas, rng, plane, me, row + 1, board, top, w - 2 * board, high, unit)


def _books(
    canvas: Canvas,
    rng: np.random.Generator,
    plane: Plane,
    me: int,
    row: int,
    left: float,
    top: float,
    w: float,
    high: float,
    unit: float,
) -> None:
    at, n = left + 0.02, 0
    end = left + w * rng.uniform(0.8, 1.0)
    while True:
        thick, tall = rng.uniform(0.1, 0.24), high * rng.uniform(0.66, 0.93)
        if at + thick > end:
            return
        n += 1
        tone = colour(rng, (0.18, 0.9), (0.05, 0.75))
        floor = top + high
        lean = 0.12 * tall if rng.uniform() < 0.05 and at + thick + 0.14 < end else 0.0
        corners = [(at + lean, floor - tall), (at + lean + thick, floor - tall), (at + thick, floor), (at, floor)]
        outline = plane(polygon(corners))
        book = canvas.add(f"book {row}-{n}", "part", me)
        canvas.shadow(outline, (0.02 * unit, 0.0), 0.03 * unit, 0.4)
        canvas.paint(outline, tone, book, kind="plaster", contrast=0.04, light=(-0.3, 0.1))
        if not lean:
            for share in rng.uniform(0.1, 0.9, int(rng.integers(0, 3))):
                band = plane(rectangle(at, floor - tall * share, thick, 0.035))
                canvas.paint(band, colour(rng, (0.2, 0.95), (0.1, 0.7)), None, opacity=0.85)
            title = plane(rectangle(at + thick * 0.38, floor - tall * 0.8, thick * 0.24, tall * 0.35))
            canvas.paint(title, (0.93, 0.9, 0.8) if sum(tone) < 1.5 else (0.1, 0.1, 0.15), None, opacity=0.6)
        at += thick + lean + rng.uniform(0.004, 0.02)


def _boxes(
    canvas: Canvas,
    rng: np.random.Generator,
    plane: Plane,
    me: int,
    row: int,
    left: float,
    top: float,
    w: float,
    high: float,
    unit: float,
) -> None:
    n = int(rng.integers(3, 6))
    room = w / n
    tone: RGB = colour(rng, (0.35, 0.85), (0.15, 0.6))
    for i in range(n):
        x, tall = left + i * room + 0.06 * room, high * rng.uniform(0.6, 0.8)
        outline = plane(rectangle(x, top + high - tall, room * 0.88, tall, 0.02))
        box = canvas.add(f"box {row}-{i + 1}", "part", me)
        canvas.shadow(outline, (0.03 * unit, 0.0), 0.05 * unit, 0.4)
        mine = tone if rng.uniform() < 0.7 else colour(rng)
        canvas.paint(outline, mine, box, kind="cloth", contrast=0.05, light=(-0.15, 0.15))
        grip = rectangle(x + room * 0.36, top + high - tall * 0.75, room * 0.16, tall * 0.12, 0.03)
        canvas.paint(plane(grip), scaled(mine, 0.35), None)
