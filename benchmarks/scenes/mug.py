"""A mug with one handle on a table, and a spoon or a biscuit beside it."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .palette import apart, colour, grey, scaled, wood
from .shapes import curve, ellipse, stroke, turned


def draw(canvas: Canvas, rng: np.random.Generator) -> None:
    wall = colour(rng, (0.5, 0.85), (0.03, 0.3))
    canvas.background("wall", wall, "plaster", 0.02, (rng.uniform(-0.2, 0.2), 0.2))
    desk = wood(rng) if rng.uniform() < 0.6 else grey(rng, 0.25, 0.8)
    table = canvas.add("table", "background")
    line = rng.uniform(0.25, 0.5)
    slope = rng.normal(0, 0.02)
    flat = np.array(
        [(-0.1, line - slope), (canvas.aspect + 0.1, line + slope), (canvas.aspect + 0.1, 1.1), (-0.1, 1.1)]
    )
    canvas.paint(flat, desk, table, kind="wood", contrast=0.07, light=(rng.uniform(-0.2, 0.2), 0.25))
    height = rng.uniform(0.28, 0.62)
    radius = height * rng.uniform(0.36, 0.5)
    flare = rng.uniform(0.85, 1.08)
    squash = rng.uniform(0.22, 0.38)
    cx = canvas.aspect / 2 + rng.uniform(-0.35, 0.35) * (canvas.aspect - 3.2 * radius)
    bottom = rng.uniform(max(line + 0.15, height + 0.12), 0.9)
    top = bottom - height
    far = min(float(np.linalg.norm(np.subtract(desk, wall))), 0.4)
    tone = apart(rng, desk, 0.35, (0.3, 0.92))
    if np.linalg.norm(np.subtract(tone, wall)) < 0.18:
        tone = apart(rng, wall, 0.3 + far / 4, (0.15, 0.8))
    t = np.linspace(0, np.pi, 48)
    low_r = radius * flare
    lower = np.stack([cx + low_r * np.cos(t), bottom + low_r * squash * np.sin(t)], 1)
    upper = np.stack([cx - radius * np.cos(t), top - radius * squash * np.sin(t)], 1)
    body = np.concatenate([lower, upper])
    side = rng.choice([-1, 1])
    _beside(canvas, rng, cx - side * radius * 2.1, min(bottom + 0.02, 0.86), radius, desk)

    reach, thick = radius * rng.uniform(0.55, 0.8), radius * rng.uniform(0.16, 0.26)
    edge = cx + side * radius * 0.97
    y0, y1 = top + height * rng.uniform(0.16, 0.24), top + height * rng.uniform(0.66, 0.8)
    path = curve(
        [
            (edge - side * thick, y0),
            (edge + side * reach * 0.65, y0 - 0.01),
            (edge + side * reach, (y0 + y1) / 2 - 0.02),
            (edge + side * reach * 0.55, y1 - 0.01),
            (cx + side * low_r * 0.93, y1),
        ],
        96,
    )
    handle_outline = stroke(path, thick)
    me = canvas.add("mug", "whole")
    canvas.shadow(ellipse(cx, bottom + low_r * squash * 0.5, low_r * 1.15, low_r * squash), (0.02, 0.0), 0.03, 0.6)
    handle = canvas.add("handle", "lone_part", me)
    glaze = tone if rng.uniform() < 0.7 else apart(rng, tone, 0.25, (0.25, 0.9))
    canvas.paint(handle_outline, scaled(glaze, 0.92), handle, contrast=0.02, light=(0.1, -0.35))
    gleam = stroke(path[8:-30] - (0, thick * 0.2), thick * 0.12)
    canvas.paint(gleam, (1.0, 1.0, 1.0), None, contrast=0, opacity=0.25)
    canvas.paint(body, tone, me, contrast=0.02, light=(-0.45 * side, -0.08))
    for k in range(7):  # the round side: darker towards both edges
        for s in (-1, 1):
            strip = np.array([(cx + s * radius * (1 - 0.05 * k), 0), (cx + s * radius * 2, 0)])
            x = strip[:, 0]
            edge_of = np.array([(x[0], top), (x[1], top), (x[1], bottom + radius), (x[0], bottom + radius)])
            within = _clipped(body, edge_of)
            if within is not None:
                canvas.paint(within, (0.0, 0.0, 0.0), None, contrast=0, opacity=0.035)
    rim = ellipse(cx, top, radius, radius * squash)
    canvas.paint(rim, scaled(tone, 1.1), me, contrast=0.01)
    inside = ellipse(cx, top + radius * 0.01, radius * 0.93, radius * squash * 0.9)
    canvas.paint(inside, scaled(tone, 0.62), me, contrast=0.02, light=(0.4 * side, 0.2))
    coffee = ellipse(cx, top + radius * squash * 0.25, radius * 0.84, radius * squash * 0.62)
    canvas.paint(coffee, (0.2, 0.12, 0.07), None, contrast=0.05, light=(0.2, 0.3))


def _clipped(outline: np.ndarray, window: np.ndarray) -> np.ndarray | None:
    """The part of an outline inside a rectangle with vertical sides, cut by moving points to the sides."""
    x0, x1 = sorted((window[:, 0].min(), window[:, 0].max()))
    inside = (outline[:, 0] >= x0) & (outline[:, 0] <= x1)
    if inside.sum() < 3:
        return None
    cut = outline.copy()
    cut[:, 0] = np.clip(cut[:, 0], x0, x1)
    return cut


def _beside(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float, desk: tuple[float, float, float]
) -> None:
    if not size < x < canvas.aspect - size:
        return
    if rng.uniform() < 0.5:
        me = canvas.add("biscuit", "whole")
        outline = ellipse(x, y, size * 0.5, size * 0.26)
        tone = (0.72, 0.52, 0.3)
        if np.linalg.norm(np.subtract(tone, desk)) < 0.2:
            tone = (0.33, 0.2, 0.12) if sum(desk) > 1.4 else (0.86, 0.72, 0.5)
        canvas.shadow(outline, (0.01, 0.015), 0.012, 0.5)
        canvas.paint(outline, tone, me, kind="stone", contrast=0.1, light=(0.1, -0.1))
        return
    me = canvas.add("spoon", "whole")
    angle = rng.uniform(-0.6, 0.6)
    bowl = ellipse(x, y, size * 0.26, size * 0.17)
    path = np.stack([np.linspace(x + size * 0.2, x + size * 1.0, 24), np.full(24, y)], 1)
    grip = stroke(path, np.linspace(size * 0.05, size * 0.1, 24))
    metal = grey(rng, 0.72, 0.85) if sum(desk) < 1.9 else grey(rng, 0.25, 0.35)
    centre = (x, y)
    for shape in (grip, bowl):
        shape = turned(shape, angle, centre)
        canvas.shadow(shape, (0.006, 0.01), 0.008, 0.5)
    for shape in (grip, bowl):
        canvas.paint(turned(shape, angle, centre), metal, me, contrast=0.03, light=(0.3, -0.4))
