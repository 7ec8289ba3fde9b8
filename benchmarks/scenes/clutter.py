"""Small things strewn over a desk: coins, screws, pens, erasers, clips; a notebook among them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import Canvas
from .palette import RGB, apart, colour, grey, scaled, wood
from .shapes import Points, curve, ellipse, polygon, rectangle, stroke, turned


def draw(canvas: Canvas, rng: np.random.Generator) -> None:
    desk = wood(rng) if rng.uniform() < 0.5 else grey(rng, 0.3, 0.85)
    canvas.background("desk", desk, "wood" if desk[0] > desk[2] * 1.3 else "plaster", 0.05, (0.15, -0.1))
    taken: list[tuple[float, float, float]] = []
    if rng.uniform() < 0.7:
        _notebook(canvas, rng, desk, taken)
    things: list[Callable[..., None]] = [_coin, _screw, _pen, _eraser, _clip, _button, _note]
    for _ in range(int(rng.integers(12, 30))):
        reach = rng.uniform(0.012, 0.04)
        for _ in range(60):
            x, y = rng.uniform(0.06, canvas.aspect - 0.06), rng.uniform(0.06, 0.94)
            if all(np.hypot(x - a, y - b) > reach * 1.6 + r for a, b, r in taken):
                break
        else:
            continue
        taken.append((x, y, reach * 1.6))
        things[int(rng.integers(len(things)))](canvas, rng, x, y, reach, desk)


def _notebook(canvas: Canvas, rng: np.random.Generator, desk: RGB, taken: list[tuple[float, float, float]]) -> None:
    w = rng.uniform(0.25, 0.4)
    h = w * rng.uniform(1.2, 1.4)
    x = rng.uniform(0.1, canvas.aspect - w - 0.1)
    y = rng.uniform(0.05, max(0.06, 0.95 - h))
    angle, centre = rng.uniform(-0.4, 0.4), (x + w / 2, y + h / 2)
    cover = apart(rng, desk, 0.3)
    me = canvas.add("notebook", "whole")
    outline = turned(rectangle(x, y, w, h, 0.01), angle, centre)
    canvas.shadow(outline, (0.008, 0.012), 0.012, 0.5)
    canvas.paint(outline, cover, me, kind="plaster", contrast=0.04, light=(0.1, 0.1))
    band = turned(rectangle(x + w * 0.8, y, w * 0.05, h), angle, centre)
    canvas.paint(band, scaled(cover, 0.5), None)
    taken.append((*centre, float(np.hypot(w, h)) / 2))


def _placed(
    canvas: Canvas, outline: Points | list[Points], tone: RGB, name: str, reach: float, *, light: tuple[float, float]
) -> int:
    me = canvas.add(name, "small")
    first = outline if isinstance(outline, np.ndarray) else outline[0]
    canvas.shadow(first, (0.08 * reach, 0.15 * reach), 0.12 * reach, 0.5)
    canvas.paint(outline, tone, me, contrast=0.04, light=light)
    return me


def _metal(rng: np.random.Generator, desk: RGB) -> RGB:
    metal = (0.8, 0.66, 0.35) if rng.uniform() < 0.4 else grey(rng, 0.68, 0.86)
    return metal if np.linalg.norm(np.subtract(metal, desk)) > 0.22 else scaled(metal, 0.45)


def _coin(canvas: Canvas, rng: np.random.Generator, x: float, y: float, reach: float, desk: RGB) -> None:
    metal = _metal(rng, desk)
    me = _placed(canvas, ellipse(x, y, reach * 0.8, reach * 0.76), metal, "coin", reach, light=(0.3, -0.3))
    inner = ellipse(x, y, reach * 0.66, reach * 0.62)
    canvas.paint(inner, scaled(metal, 0.9), me, kind="stone", contrast=0.1, light=(-0.25, 0.25))
    canvas.paint(ellipse(x, y, reach * 0.25, reach * 0.35), scaled(metal, 1.08), None, opacity=0.7)


def _screw(canvas: Canvas, rng: np.random.Generator, x: float, y: float, reach: float, desk: RGB) -> None:
    metal = _metal(rng, desk)
    angle, centre = rng.uniform(0, 2 * np.pi), (x, y)
    side = [(-1, -0.3), (-0.75, -0.3), (-0.5, -0.12), (0.7, -0.12), (1, 0)]
    around = [*side, *((i, -j) for i, j in side[-2::-1])]
    head = polygon([(x + i * reach, y + j * reach) for i, j in around])
    _placed(canvas, turned(head, angle, centre), metal, "screw", reach, light=(0.2, -0.4))
    for k in np.arange(-0.4, 0.7, 0.12):
        mark = np.array([(x + k * reach, y - 0.12 * reach), (x + (k + 0.06) * reach, y + 0.12 * reach)])
        canvas.paint(turned(stroke(mark, 0.04 * reach), angle, centre), scaled(metal, 0.5), None, opacity=0.7)


def _pen(canvas: Canvas, rng: np.random.Generator, x: float, y: float, reach: float, desk: RGB) -> None:
    tone = apart(rng, desk, 0.35)
    angle, centre = rng.uniform(0, 2 * np.pi), (x, y)
    long = reach * 1.5
    path = np.array([(x - long, y), (x, y), (x + long * 0.9, y), (x + long, y)])
    outline = turned(stroke(path, [0.26 * reach, 0.26 * reach, 0.22 * reach, 0.08 * reach]), angle, centre)
    me = _placed(canvas, outline, tone, "pen", reach, light=(0.1, -0.2))
    cap = turned(rectangle(x - long, y - 0.13 * reach, 0.5 * reach, 0.26 * reach), angle, centre)
    canvas.paint(cap, scaled(tone, 0.6), me)


def _eraser(canvas: Canvas, rng: np.random.Generator, x: float, y: float, reach: float, desk: RGB) -> None:
    tone = apart(rng, desk, 0.3, (0.5, 0.95))
    angle, centre = rng.uniform(0, 2 * np.pi), (x, y)
    body = rectangle(x - reach, y - 0.45 * reach, 2 * reach, 0.9 * reach, 0.15 * reach)
    me = _placed(canvas, turned(body, angle, centre), tone, "eraser", reach, light=(0.1, 0.1))
    sleeve = rectangle(x - 0.2 * reach, y - 0.45 * reach, 1.2 * reach, 0.9 * reach, 0.1 * reach)
    canvas.paint(turned(sleeve, angle, centre), apart(rng, tone, 0.15, (0.3, 0.9)), me)


def _clip(canvas: Canvas, rng: np.random.Generator, x: float, y: float, reach: float, desk: RGB) -> None:
    tone = _metal(rng, desk) if rng.uniform() < 0.5 else apart(rng, desk, 0.4)
    angle, centre = rng.uniform(0, 2 * np.pi), (x, y)
    bends = [(-0.6, 0.3), (0.7, 0.3), (0.95, 0), (0.7, -0.3), (-0.7, -0.3), (-0.9, -0.08), (-0.7, 0.1), (0.5, 0.1)]
    way = curve([(x + i * reach, y + j * reach) for i, j in bends], 90)
    outline = turned(stroke(way, 0.11 * reach), angle, centre)
    me = canvas.add("clip", "small")
    canvas.shadow(outline, (0.05 * reach, 0.1 * reach), 0.06 * reach, 0.5)
    # Stroke by stroke: where the wire crosses itself it must not be a hole.
    for i in range(0, len(way) - 1, 6):
        piece = way[i : i + 8]
        canvas.paint(turned(stroke(piece, 0.11 * reach), angle, centre), tone, me, contrast=0.04)


def _button(canvas: Canvas, rng: np.random.Generator, x: float, y: float, reach: float, desk: RGB) -> None:
    tone = apart(rng, desk, 0.35)
    me = _placed(canvas, ellipse(x, y, 0.7 * reach, 0.7 * reach), tone, "button", reach, light=(0.2, -0.2))
    canvas.paint(ellipse(x, y, 0.5 * reach, 0.5 * reach), scaled(tone, 0.85), me, light=(-0.2, 0.2))
    for i, j in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        hole = ellipse(x + i * 0.14 * reach, y + j * 0.14 * reach, 0.07 * reach, 0.07 * reach)
        canvas.paint(hole, scaled(tone, 0.3), None)


def _note(canvas: Canvas, rng: np.random.Generator, x: float, y: float, reach: float, desk: RGB) -> None:
    tone = colour(rng, (0.85, 0.95), (0.3, 0.6))
    if np.linalg.norm(np.subtract(tone, desk)) < 0.25:
        tone = apart(rng, desk, 0.35, (0.6, 0.95))
    angle, centre = rng.uniform(0, 2 * np.pi), (x, y)
    body = rectangle(x - 0.9 * reach, y - 0.9 * reach, 1.8 * reach, 1.8 * reach)
    _placed(canvas, turned(body, angle, centre), tone, "note", reach, light=(0.1, 0.15))
    for i in range(4):
        line = rectangle(x - 0.7 * reach, y + (-0.6 + 0.35 * i) * reach, rng.uniform(0.6, 1.3) * reach, 0.07 * reach)
        canvas.paint(turned(line, angle, centre), (0.2, 0.2, 0.3), None, contrast=0, opacity=0.7)
