"""Photo-like scenes whose truth is known to the pixel, to measure wholes, parts, small things and edges with.

    scene = scenes.make("keyboard", seed=3, width=1800, height=1200)
    scene.pixels            # H×W×3 uint8 RGB
    scene.objects[1].mask   # H×W bool, visible pixels

A kind and a seed are one scene: the same things at the same places at every size with the same width to height, on
every machine up to the rounding of OpenCV. Shapes are painted front over back with anti-aliased edges, gradients,
surfaces (wood, cloth, plaster, ...), soft shadows and perspective; a lens blurs, a sensor adds noise, JPEG its losses.
They are no photos: nothing is transparent, out of focus or furry, and truth is what the painter meant.

kinds: `keyboard` (keys are parts), `shelf` (a bookcase; books or boxes are parts), `tiles` (a tiled field), `house`
(windows are parts, roof and door lone parts), `mug` (a lone handle), `held_box` (a box in a hand before a shirt),
`clutter` (small things on a desk).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import clutter, held_box, house, keyboard, mug, shelf, tiles
from .canvas import Canvas
from .scene import Role, Scene, SceneObject

_DRAW: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "keyboard": keyboard.draw,
    "shelf": shelf.draw,
    "tiles": tiles.draw,
    "house": house.draw,
    "mug": mug.draw,
    "held_box": held_box.draw,
    "clutter": clutter.draw,
}
KINDS = tuple(_DRAW)


def make(kind: str, seed: int, width: int, height: int) -> Scene:
    """The scene of a kind (one of KINDS) and a seed (from 0 up), width × height pixels."""
    key = [seed, *kind.encode()]
    canvas = Canvas(key, width, height)
    rng = np.random.default_rng(key)
    _DRAW[kind](canvas, rng)
    return Scene(kind, seed, canvas.photograph(rng), canvas.objects())


__all__ = ["KINDS", "Role", "Scene", "SceneObject", "make"]
