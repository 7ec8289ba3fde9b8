"""A hand holds a box before a shirt, whose colour may be near the box's."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .palette import RGB, apart, colour, scaled, skin
from .shapes import Plane, curve, ellipse, rectangle, stroke


def draw(canvas: Canvas, rng: np.random.Generator) -> None:
    room = colour(rng, (0.55, 0.9), (0.02, 0.25))
    canvas.background("room", room, "smooth", 0.04, (rng.uniform(-0.3, 0.3), 0.1))
    middle = canvas.aspect / 2 + rng.uniform(-0.1, 0.1)
    wide = min(canvas.aspect * 0.42, rng.uniform(0.42, 0.6))
    neck, shoulder = rng.uniform(-0.05, 0.08), rng.uniform(0.12, 0.24)
    cloth = apart(rng, room, 0.35, (0.15, 0.8))
    shirt = canvas.add("shirt", "whole")
    torso = curve(
        [
            (middle - wide * 0.88, 1.1),
            (middle - wide * 0.86, 0.75),
            (middle - wide, shoulder + 0.25),
            (middle - wide * 0.86, shoulder + 0.03),
            (middle - wide * 0.3, neck),
            (middle, neck + 0.06),
            (middle + wide * 0.3, neck),
            (middle + wide * 0.86, shoulder + 0.03),
            (middle + wide, shoulder + 0.25),
            (middle + wide * 0.86, 0.75),
            (middle + wide * 0.88, 1.1),
        ],
        160,
    )
    canvas.shadow(torso, (0.03, 0.02), 0.05, 0.25)
    canvas.paint(torso, cloth, shirt, kind="cloth", contrast=0.1, light=(rng.uniform(-0.25, 0.25), -0.15))
    if rng.uniform() < 0.5:
        _stripes(canvas, rng, shirt, middle, wide, shoulder, cloth)

    flesh = skin(rng)
    if np.linalg.norm(np.subtract(flesh, cloth)) < 0.2:
        flesh = scaled(flesh, 0.75)
    # From much like the shirt to quite unlike it.
    far = rng.uniform(0.16, 0.6)
    box_colour = apart(rng, cloth, far, (0.2, 0.88))
    w, h = rng.uniform(0.25, 0.48), rng.uniform(0.22, 0.42)
    cx, cy = middle + rng.uniform(-0.12, 0.12), rng.uniform(0.45, 0.58)
    plane = Plane.seen(rng, 1.0, h / w, (cx, cy), w, tilt=(0.0, 0.12), turn=0.25, skew=0.03)
    left = rng.uniform() < 0.5
    hand = canvas.add("hand", "whole")
    _palm(canvas, plane, hand, flesh, left, h / w)
    box = canvas.add("box", "whole")
    outline = plane(rectangle(0, 0, 1.0, h / w, 0.015))
    canvas.shadow(outline, (0.015, 0.025), 0.025, 0.5)
    canvas.paint(outline, box_colour, box, kind="plaster", contrast=0.03, light=(0.12, -0.15))
    label = canvas.add("label", "lone_part", box)
    print_ = apart(rng, box_colour, 0.3, (0.2, 0.95))
    at, tall = rng.uniform(0.2, 0.35), h / w
    canvas.paint(plane(rectangle(at, tall * 0.25, 0.45, tall * 0.4, 0.02)), print_, label, contrast=0.02)
    ink = (0.1, 0.1, 0.12) if sum(print_) > 1.4 else (0.94, 0.94, 0.9)
    for i in range(int(rng.integers(2, 5))):
        line = rectangle(at + 0.05, tall * (0.31 + 0.08 * i), rng.uniform(0.15, 0.35), tall * 0.035)
        canvas.paint(plane(line), ink, None, contrast=0, opacity=0.85)
    _fingers(canvas, rng, plane, hand, flesh, left, tall)


def _stripes(
    canvas: Canvas, rng: np.random.Generator, shirt: int, middle: float, wide: float, shoulder: float, cloth: RGB
) -> None:
    tone = scaled(cloth, rng.choice([0.75, 1.2]))
    step = rng.uniform(0.06, 0.14)
    for y in np.arange(shoulder + 0.18, 1.05, step):
        x = np.linspace(middle - wide * 1.1, middle + wide * 1.1, 24)
        path = np.stack([x, y + 0.02 * np.sin((x - middle) * 6)], 1)
        canvas.paint(stroke(path, step * 0.3), tone, None, kind="cloth", contrast=0.1, opacity=0.9, on=shirt)


def _palm(canvas: Canvas, plane: Plane, hand: int, flesh: RGB, left: bool, tall: float) -> None:
    """What is behind the box: the palm and the arm, which comes in from below."""
    edge = 0.0 if left else 1.0
    out = -1 if left else 1
    arm = curve(
        [(edge + out * 0.02, tall * 0.55), (edge + out * 0.16, tall * 0.95), (edge + out * 0.3, tall * 2.6)], 40
    )
    arm = plane(arm)
    canvas.paint(stroke(arm, np.linspace(0.13, 0.16, len(arm))), flesh, hand, contrast=0.03, light=(0.25 * out, 0.0))
    palm = plane(ellipse(edge + out * 0.03, tall * 0.55, 0.2, 0.22))
    canvas.paint(palm, flesh, hand, contrast=0.03, light=(0.2 * out, -0.1))


def _fingers(
    canvas: Canvas, rng: np.random.Generator, plane: Plane, hand: int, flesh: RGB, left: bool, tall: float
) -> None:
    """Over the edge of the box, in front of it."""
    edge = 0.0 if left else 1.0
    into = 1 if left else -1
    thick = 0.085
    for i in range(4):
        y = tall * 0.28 + i * thick * 1.02
        long = (0.17, 0.21, 0.2, 0.15)[i] * rng.uniform(0.9, 1.1)
        finger = [
            (edge - into * 0.12, y + 0.02),
            (edge + into * 0.02, y),
            (edge + into * long, y + rng.normal(0, 0.01)),
        ]
        path = plane(curve(finger, 30))
        width = thick * np.linalg.norm(plane(np.array([(1.0, 0.0)])) - plane(np.array([(0.0, 0.0)])))
        outline = stroke(path, np.linspace(width, width * 0.85, len(path)))
        canvas.shadow(outline, (0.003, 0.008), 0.008, 0.45)
        canvas.paint(outline, scaled(flesh, rng.uniform(0.94, 1.04)), hand, contrast=0.03, light=(0.05, -0.25))
        nail = plane(ellipse(edge + into * (long - 0.005), y, 0.025, 0.022))
        canvas.paint(nail, scaled(flesh, 1.12), None, contrast=0, opacity=0.8)
