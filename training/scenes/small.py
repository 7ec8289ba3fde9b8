"""What is easily missed: thin things, small objects held in a hand, clutter."""

from __future__ import annotations

import numpy as np

from training.scenes import shapes
from training.scenes.canvas import Canvas
from training.scenes.labels import NOWHERE, OBJECT, PART, WHOLE, Ids
from training.scenes.textures import near, random_colour

_SKIN = np.array([[241, 194, 160], [224, 172, 105], [198, 134, 66], [141, 85, 36], [90, 56, 37]], np.float32)


def thin(c: Canvas) -> None:
    """A cable, pole, pencil or branch; or a net of wires."""
    rng = c.rng
    colour = random_colour(rng, c.bank)
    for _ in range(rng.choice([1, 1, 2, 3])):
        begin, end = rng.uniform(-0.1, 1.1, (2, 2)) * c.size
        line = shapes.bent_line(rng, begin, end, rng.choice([0.0, 0.08, 0.3]), 40)
        width = np.exp(rng.uniform(np.log(2.5), np.log(16)))
        taper = np.linspace(1, rng.uniform(0.4, 1), len(line))
        ids = c.inside(NOWHERE, OBJECT)
        if c.paint([shapes.band(line, width * taper)], ids, base=near(rng, colour, 12)) and rng.random() < 0.3:
            head = np.exp(rng.uniform(0.2, 1.2)) * width
            x, y = line[-1]
            tip = shapes.place([shapes.ellipse()], x, y, head, head * rng.uniform(0.6, 1))
            c.paint(tip, c.inside(ids, PART))


def hand(c: Canvas) -> None:
    """A fist of capsules around something small: the object lies over the palm and under the fingers."""
    rng = c.rng
    r = rng.uniform(0.06, 0.2) * c.size
    centre = rng.uniform(0.2, 0.8, 2) * c.size
    angle = rng.random() * 2 * np.pi
    forward = np.array([np.cos(angle), np.sin(angle)])
    aside = np.array([-forward[1], forward[0]])
    skin, even = near(rng, _SKIN[rng.integers(len(_SKIN))], 10), rng.random() < 0.8
    whole = c.inside(NOWHERE, WHOLE)  # the hand with what it holds
    palm = c.inside(whole, OBJECT)
    elbow = centre - forward * r * rng.uniform(2, 6)
    arm = shapes.bent_line(rng, elbow, centre, 0.05)
    c.paint([shapes.band(arm, np.linspace(1.5, 1.2, len(arm)) * r)], palm, base=skin, even=even)
    fist = shapes.place([shapes.round_rectangle(0.5)], centre[0], centre[1], r, r * 0.85, angle)
    c.paint(fist, palm, base=skin, even=even, shadow=False)
    _held(c, centre + forward * r * rng.uniform(0.3, 0.9), r, whole)
    covering = rng.random() < 0.8
    for k in np.linspace(-0.75, 0.75, 4):
        root = centre + aside * r * k + forward * r * 0.5
        length = r * rng.uniform(0.7, 1.3) * (1 if covering else -0.2)
        knuckle = root + forward * length * 0.6 + aside * rng.normal(0, 0.05) * r
        tip = np.linspace(knuckle, knuckle - aside * length * 0.3, 6)
        finger = shapes.band(np.concatenate([np.linspace(root, knuckle, 8), tip]), r * rng.uniform(0.34, 0.42))
        c.paint([finger], c.inside(palm, PART), base=near(rng, skin, 5), even=even)


def _held(c: Canvas, at: np.ndarray, r: float, whole: Ids) -> None:
    """A phone, pen, coin, cup, fruit or whatever."""
    rng = c.rng
    x, y = at
    ids = c.inside(whole, OBJECT)
    u, angle = rng.random(), rng.random() * np.pi
    if u < 0.3:  # a phone: a case with a screen
        rx, ry = r * rng.uniform(0.5, 0.8), r * rng.uniform(0.9, 1.5)
        case = [shapes.round_rectangle(0.15)]
        if c.paint(shapes.place(case, x, y, rx, ry, angle), ids, base=random_colour(rng, c.bank)):
            c.paint(shapes.place(case, x, y, rx * 0.88, ry * 0.85, angle), c.inside(ids, PART), shadow=False)
    elif u < 0.5:  # a pen, a stick, a fork
        tip = np.array([np.cos(angle), np.sin(angle)]) * r * rng.uniform(1.2, 2.6)
        c.paint([shapes.band(np.linspace(at - tip, at + tip, 8), r * rng.uniform(0.08, 0.25))], ids)
    else:
        k = r * rng.uniform(0.25, 0.9)
        c.paint(shapes.place(shapes.any_shape(rng), x, y, k, k * rng.uniform(0.5, 1), angle), ids)


def clutter(c: Canvas) -> None:
    """Many small things on top of each other, in a tray or lying about."""
    rng = c.rng
    w, h = rng.uniform(0.2, 0.8, 2) * c.size
    centre = rng.uniform(0.25, 0.75, 2) * c.size
    angle = rng.normal(0, 0.3)
    tray = NOWHERE
    if rng.random() < 0.6:
        tray = c.inside(NOWHERE, WHOLE)
        shape = [shapes.ellipse()] if rng.random() < 0.3 else [shapes.round_rectangle(rng.choice([0.02, 0.2]))]
        if not c.paint(shapes.place(shape, centre[0], centre[1], w / 2, h / 2, angle), tray):
            return
    alike, colour = rng.random() < 0.4, random_colour(rng, c.bank)
    family = shapes.any_shape(rng)
    size = np.exp(rng.uniform(np.log(6), np.log(26)))
    for _ in range(min(int(rng.uniform(0.3, 1.2) * w * h / (4 * size * size)), 160)):
        x, y = centre + rng.uniform(-0.42, 0.42, 2) * [w, h]
        k = size if alike else size * np.exp(rng.normal(0, 0.4))
        shape = family if alike else shapes.any_shape(rng)
        ids = c.inside(tray, OBJECT)
        base = near(rng, colour, 15) if alike else None
        placed = shapes.place(shape, x, y, k, k * rng.uniform(0.6, 1), rng.random() * 3.14)
        if c.paint(placed, ids, base=base) and k > 14 and rng.random() < 0.25:
            c.paint(shapes.place(shapes.any_shape(rng), x, y, k * 0.4, k * 0.4), c.inside(ids, PART), within=ids)
