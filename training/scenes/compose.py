"""Whole scenes: what stands where, and how much of it."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.measure import label

from training.scenes import arrays, objects, small
from training.scenes.canvas import SIZE, Canvas
from training.scenes.finish import photographed
from training.scenes.labels import OBJECT, Scene, packed
from training.scenes.textures import Bank

_THINGS = (
    (objects.disc, 0.12),
    (objects.cup, 0.10),
    (objects.cuboid, 0.12),
    (objects.sign, 0.08),
    (objects.cutout, 0.14),
    (arrays.tiles, 0.12),
    (arrays.keyboard, 0.08),
    (arrays.shelf, 0.06),
    (small.thin, 0.06),
    (small.hand, 0.06),
    (small.clutter, 0.06),
)
# Share of all scenes; what is left are structured ones.
_PHOTO_SHARE, _LEAVES_SHARE, _KEYBOARD_SHARE = 0.55, 0.15, 0.06
_HARD_SHARE = 0.2
_MIN_PIECE = 30


def make_scene(rng: np.random.Generator, bank: Bank, size: int = SIZE) -> Scene:
    """One scene with its truth. Without photos in the bank, all of them are drawn."""
    c = Canvas(rng, bank, size)
    u = rng.random()
    photo = u < _PHOTO_SHARE and bool(bank.photos)
    split = False
    if photo:
        _on_photo(c)
    elif u < _PHOTO_SHARE + _LEAVES_SHARE:
        _leaves(c)
        split = True
    elif u < _PHOTO_SHARE + _LEAVES_SHARE + _KEYBOARD_SHARE:
        _desk(c)
    else:
        _structured(c)
    table = c.table()
    atoms = c.atoms
    if split:
        atoms, table = _pieces(atoms, table)
    atoms, table = packed(atoms, table)
    hard = rng.random() < (_HARD_SHARE / 2 if photo else _HARD_SHARE)
    if photo and not hard and rng.random() < 0.5:
        pixels = np.clip(c.pixels, 0, 255).astype(np.uint8)
    else:
        pixels = photographed(rng, c.pixels, hard)
    return Scene(pixels, atoms, table, photo)


def _anything(c: Canvas) -> None:
    things, shares = zip(*_THINGS, strict=True)
    things[c.rng.choice(len(things), p=shares)](c)


def _leaves(c: Canvas) -> None:
    """Dead leaves: shapes of all sizes, the large ones below (Lee, Mumford and Huang 2001)."""
    rng = c.rng
    objects.background(c)
    n = int(np.exp(rng.uniform(np.log(8), np.log(110))))
    for radius in np.sort(12 / np.sqrt(rng.uniform(0.003, 1, n)))[::-1] * rng.uniform(0.6, 1.4):
        objects.leaf(c, float(np.clip(radius, 6, 210)) * c.size / SIZE)
        if rng.random() < 0.05:
            _anything(c)


def _structured(c: Canvas) -> None:
    """Things in front of a background."""
    rng = c.rng
    objects.background(c)
    for _ in range(rng.integers(0, 4)):
        objects.leaf(c, rng.uniform(40, 200) * c.size / SIZE)
    for _ in range(rng.integers(2, 9)):
        _anything(c)
        if rng.random() < 0.4:
            objects.leaf(c, rng.uniform(8, 60))


def _desk(c: Canvas) -> None:
    """A keyboard on a desk, and what else lies there."""
    rng = c.rng
    objects.background(c)
    arrays.keyboard(c)
    for _ in range(rng.integers(0, 4)):
        [objects.cup, objects.cuboid, small.thin, small.hand, objects.disc][rng.integers(5)](c)


def _on_photo(c: Canvas) -> None:
    """A crop of a training photo, most of the time with cut-outs and drawn things in front."""
    rng = c.rng
    pixels, atoms, table = c.bank.photos[rng.integers(len(c.bank.photos))]
    height, width = pixels.shape[:2]
    # From the whole photo, squeezed into a square as the network will see it, down to half of either side.
    k = 1.0 if rng.random() < 0.3 else rng.uniform(0.5, 1.0)
    h, w = int(height * k), int(width * min(1.0, k * np.exp(rng.normal(0, 0.12))))
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    shrinking = cv2.INTER_AREA if h > c.size else cv2.INTER_LINEAR
    crop = np.ascontiguousarray(pixels[y : y + h, x : x + w])
    crop = cv2.resize(crop, (c.size, c.size), interpolation=shrinking).astype(np.float32)
    atoms = cv2.resize(atoms[y : y + h, x : x + w], (c.size, c.size), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        crop, atoms = crop[:, ::-1], atoms[:, ::-1]
    c.start_from(crop, atoms, table)
    if rng.random() < 0.4:
        return  # the photo as it is
    for _ in range(rng.integers(1, 7)):
        objects.cutout(c)
    for _ in range(rng.choice([0, 0, 1, 2])):
        objects.leaf(c, rng.uniform(8, 90))
    if rng.random() < 0.3:
        _anything(c)


def _pieces(atoms: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Separate pieces of one object become separate objects, as nobody could tell that they belong together."""
    table = table.astype(np.int64)
    standing_alone = (table[:, OBJECT + 1 :] == 0).all(1)  # an object of a whole is told by the whole
    names = np.where(standing_alone, table[:, OBJECT], 0)
    piece = label(names[atoms], background=0, connectivity=1)
    areas = np.bincount(piece.ravel())
    piece[areas[piece] < _MIN_PIECE] = 0
    code = piece.astype(np.int64) * len(table) + atoms
    codes, place = np.unique(code, return_inverse=True)
    rows = table[codes % len(table)].copy()
    pieces = codes // len(table)  # 0: crumbs, which keep the ids of what they were cut from
    for level in range(OBJECT + 1):
        rows[:, level] += np.where(rows[:, level] > 0, pieces * (table.max() + 1), 0)
    return place.reshape(atoms.shape), rows
