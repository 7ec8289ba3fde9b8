"""Fields of noise that make surfaces: the same at every size of the picture, with finer detail in larger ones."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def fractal(
    rng: np.random.Generator, size: tuple[int, int], cells: Sequence[int], stretch: float = 1.0, fall: float = 0.6
) -> np.ndarray:
    """H×W float32 about 0, spread about 1: noise of several finenesses (cells along the height) on one another.

    stretch: how many times longer than high its features are. fall: weight from one fineness to the next.
    """
    height, width = size
    total = np.zeros(size, dtype=np.float32)
    weight, power = 1.0, 0.0
    for n in cells:
        across = max(2, round(n * width / height / stretch))
        grid = rng.standard_normal((max(2, n), across)).astype(np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        power += weight**2 * 0.5  # cubic interpolation halves the variance, near enough
        weight *= fall
    return total / np.float32(power**0.5)


def surface(rng: np.random.Generator, size: tuple[int, int], kind: str) -> np.ndarray:
    """H×W float32 about 0: `smooth`, `plaster`, `wood`, `cloth`, `stone`, `grass` or `sky`."""
    if kind == "smooth":
        return fractal(rng, size, (3, 6))
    if kind == "plaster":
        return fractal(rng, size, (4, 24, 160, 420), fall=0.8)
    if kind == "wood":
        rings = fractal(rng, size, (7, 15), stretch=9)
        grain = fractal(rng, size, (90, 260, 500), stretch=25, fall=0.9)
        return (np.sin(rings * 7) * 0.8 + grain).astype(np.float32)
    if kind == "cloth":
        folds = fractal(rng, size, (4, 9), stretch=0.6)
        weave = fractal(rng, size, (300, 500), fall=1.0)
        return folds + 0.5 * weave
    if kind == "stone":
        return fractal(rng, size, (8, 30, 120, 400), fall=0.9)
    if kind == "grass":
        return fractal(rng, size, (20, 100, 300, 500), stretch=0.5, fall=1.1)
    if kind == "sky":
        return fractal(rng, size, (2, 5, 12), stretch=2.5)
    raise ValueError(f"no such surface: {kind}")
