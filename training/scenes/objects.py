"""Single things and their parts: leaves, nested rings, cups, boxes, lettered signs, cut-outs of photos."""

from __future__ import annotations

import cv2
import numpy as np

from training.scenes import shapes
from training.scenes.canvas import Canvas
from training.scenes.labels import NOWHERE, OBJECT, PART, WHOLE, Ids
from training.scenes.textures import random_colour, texture

_LETTERS = list("ABCDEFGHKLMNPRSTUXYZ0123456789abdegop")


def background(c: Canvas) -> None:
    """A wall, and perhaps floor, hills or sky in front of it."""
    rng, size = c.rng, c.size
    c.fill(c.inside(NOWHERE, OBJECT), texture(rng, c.bank, size, size))
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        x = np.linspace(-8, size + 8, 24)
        line = rng.uniform(0.15, 0.9) * size + rng.uniform(-0.3, 0.3) * (x - size / 2)
        if rng.random() < 0.6:
            for k in range(1, 5):
                line = line + rng.normal(0, 26 / k) * np.sin(k * x / size * 6.3 + rng.random() * 6.3)
        outline = np.concatenate([np.stack([x, line], 1), [[size + 8, size + 8], [-8, size + 8]]])
        if rng.random() < 0.25:
            outline = outline[:, ::-1].copy()
        c.paint([outline], c.inside(NOWHERE, OBJECT), shadow=rng.random() < 0.2)


def leaf(c: Canvas, radius: float) -> None:
    """A shape of one texture anywhere; large ones may carry patches and prints, which are its parts."""
    rng = c.rng
    cx, cy = rng.uniform(-0.05, 1.05, 2) * c.size
    stretch = np.exp(rng.normal(0, 0.35))
    angle = rng.choice([0, rng.random() * np.pi])
    ids = c.inside(NOWHERE, OBJECT)
    if not c.paint(shapes.place(shapes.any_shape(rng), cx, cy, radius * stretch, radius / stretch, angle), ids):
        return
    if radius > 22 and rng.random() < 0.3:
        for _ in range(rng.integers(1, 4)):
            decorate(c, ids, cx, cy, radius, radius)


def decorate(c: Canvas, ids: Ids, cx: float, cy: float, rx: float, ry: float) -> None:
    """A print on a thing of about this size."""
    rng = c.rng
    dx, dy = rng.normal(0, 0.35, 2)
    k = rng.uniform(0.15, 0.5) * min(rx, ry)
    outline = shapes.place(
        shapes.any_shape(rng), cx + dx * rx, cy + dy * ry, k, k * rng.uniform(0.5, 1.2), rng.random() * 3
    )
    c.paint(outline, c.inside(ids, PART), shadow=False, within=ids)


def disc(c: Canvas) -> None:
    """Wheel, plate, target, eye: nested rings."""
    rng = c.rng
    cx, cy = rng.uniform(0.1, 0.9, 2) * c.size
    r, flat, angle = np.exp(rng.uniform(np.log(10), np.log(170))), rng.uniform(0.45, 1), rng.random() * 3
    outline = shapes.ellipse(56) if rng.random() < 0.8 else shapes.round_rectangle(0.3)
    three = r > 40 and rng.random() < 0.5
    outer = c.inside(NOWHERE, WHOLE if three else OBJECT)
    inner = c.inside(outer, OBJECT if three else PART)
    k = rng.uniform(0.45, 0.88)
    if not c.paint(shapes.place([outline], cx, cy, r, r * flat, angle), outer):
        return
    c.paint(shapes.place([outline], cx, cy, r * k, r * k * flat, angle), inner, shadow=False)
    if three:
        k *= rng.uniform(0.25, 0.7)
        c.paint(shapes.place([outline], cx, cy, r * k, r * k * flat, angle), c.inside(inner, PART), shadow=False)


def cup(c: Canvas) -> None:
    rng = c.rng
    r = np.exp(rng.uniform(np.log(14), np.log(120)))
    cx, cy = rng.uniform(0.15, 0.85, 2) * c.size
    cup_ids = c.inside(NOWHERE, OBJECT)
    colour, taper = random_colour(rng, c.bank), rng.uniform(0.6, 1.0)
    height = rng.uniform(0.7, 1.5)
    circle = shapes.ellipse()
    if rng.random() < 0.8:
        hx = cx + rng.choice([-1, 1]) * r * 0.95
        ring = [circle * [r * k, r * height * h] + [hx, cy] for k, h in ((0.42, 0.5), (0.27, 0.33))]
        c.paint(ring, c.inside(cup_ids, PART), base=colour)
    bottom = (circle[:20] * [r * taper, r * 0.25] + [cx, cy + r * height])[::-1]
    wall = np.concatenate([[[cx + r, cy - r * height], [cx - r, cy - r * height]], bottom])
    body = c.inside(cup_ids, PART)
    c.paint([wall], body, base=colour)
    rim = cy - r * height
    c.paint([circle * [r, r * 0.28] + [cx, rim]], cup_ids, base=np.clip(colour + 25, 0, 255), shadow=False)
    if rng.random() < 0.7:
        c.paint([circle * [r * 0.88, r * 0.22] + [cx, rim + 2]], c.inside(cup_ids, PART), shadow=False)


def cuboid(c: Canvas) -> None:
    """A box with three faces."""
    rng = c.rng
    w, h = np.exp(rng.uniform(np.log(14), np.log(190), 2))
    depth = rng.uniform(0.3, 0.8) * min(w, h)
    cx, cy = rng.uniform(0.1, 0.9, 2) * c.size
    dx, dy = depth * rng.choice([-1, 1]) * rng.uniform(0.3, 1), -depth * rng.uniform(0.2, 0.8)
    x0, x1, y0, y1 = cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2
    box = c.inside(NOWHERE, OBJECT)
    colour = random_colour(rng, c.bank)
    sx = x1 if dx > 0 else x0
    faces = (
        (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), 1.0),
        (np.array([[x0, y0], [x1, y0], [x1 + dx, y0 + dy], [x0 + dx, y0 + dy]]), rng.uniform(1.1, 1.5)),
        (np.array([[sx, y0], [sx, y1], [sx + dx, y1 + dy], [sx + dx, y0 + dy]]), rng.uniform(0.45, 0.85)),
    )
    for n, (outline, light) in enumerate(faces):
        c.paint([outline], c.inside(box, PART), base=np.clip(colour * light, 0, 255), shadow=n == 0)


def sign(c: Canvas) -> None:
    """A word, on a board or on whatever is there."""
    rng = c.rng
    letters = [str(ch) for ch in rng.choice(_LETTERS, rng.integers(1, 6))]
    scale = rng.uniform(1, 4.5)
    x, y = rng.uniform(0, 0.8) * c.size, rng.uniform(0.1, 0.95) * c.size
    board = NOWHERE
    if rng.random() < 0.5:
        board = c.inside(NOWHERE, OBJECT)
        n = len(letters)
        outline = shapes.round_rectangle(0.12)
        c.paint(shapes.place([outline], x + 9.5 * n * scale, y - 10 * scale, 11.5 * n * scale, 17 * scale), board)
    colour = random_colour(rng, c.bank)
    font = cv2.FONT_HERSHEY_SIMPLEX if rng.random() < 0.7 else cv2.FONT_HERSHEY_TRIPLEX
    stroke = max(2, int(scale * rng.uniform(1.5, 4)))
    for ch in letters:
        letter(c, ch, (x, y), scale, font, stroke, colour, c.inside(board, PART if board != NOWHERE else OBJECT))
        x += 19 * scale


def letter(
    c: Canvas, ch: str, at: tuple[float, float], scale: float, font: int, stroke: int, colour: np.ndarray, ids: Ids
) -> None:
    """One letter with its base line's start at `at`."""
    (w, h), below = cv2.getTextSize(ch, font, scale, stroke)
    margin = stroke + 2
    drawn = np.zeros((h + below + 2 * margin, w + 2 * margin), np.uint8)
    cv2.putText(drawn, ch, (margin, margin + h), font, scale, 255, stroke, cv2.LINE_AA)
    paste(c, drawn, np.broadcast_to(colour, (*drawn.shape, 3)), int(at[0]) - margin, int(at[1]) - h - margin, ids)


def paste(c: Canvas, alpha: np.ndarray, surface: np.ndarray, x: int, y: int, ids: Ids, shadow: bool = False) -> None:
    """Lay a picture (alpha uint8 h×w) over the canvas, cut at its borders."""
    h, w = alpha.shape
    left, top, right, bottom = max(0, -x), max(0, -y), min(w, c.size - x), min(h, c.size - y)
    if right - left < 4 or bottom - top < 4:
        return
    part = alpha[top:bottom, left:right].astype(np.float32) / 255
    c.blend(part, x + left, y + top, surface[top:bottom, left:right].astype(np.float32), ids, shadow)


def cutout(c: Canvas) -> None:
    """A thing cut out of a training photo, resized, turned a little, mirrored, relit."""
    rng, bank = c.rng, c.bank
    if not bank.cutouts:
        return leaf(c, rng.uniform(20, 120))
    rgba = bank.cutouts[rng.integers(len(bank.cutouts))]
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    h, w = rgba.shape[:2]
    k = min(np.clip(np.exp(rng.normal(-0.2, 0.6)), 0.15, 2.2), 0.9 * c.size / max(h, w))
    angle = rng.normal(0, 12)
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), angle, k)
    cos, sin = abs(np.cos(np.radians(angle))) * k, abs(np.sin(np.radians(angle))) * k
    wide, high = int(w * cos + h * sin) + 2, int(h * cos + w * sin) + 2
    matrix[:, 2] += [wide / 2 - w / 2, high / 2 - h / 2]
    rgba = cv2.warpAffine(np.ascontiguousarray(rgba), matrix, (wide, high), flags=cv2.INTER_LINEAR)
    surface = rgba[..., :3].astype(np.float32) * np.float32(rng.uniform(0.75, 1.25)) + rng.normal(0, 8, 3)
    x, y = int(rng.uniform(-0.2, 1) * c.size), int(rng.uniform(-0.2, 1) * c.size)
    alpha = cv2.GaussianBlur(rgba[..., 3], (3, 3), 0)
    paste(c, alpha, np.clip(surface, 0, 255), x, y, c.inside(NOWHERE, OBJECT), shadow=True)
