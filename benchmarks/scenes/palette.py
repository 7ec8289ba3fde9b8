"""Colours that a scene draws from."""

from __future__ import annotations

import colorsys

import numpy as np

RGB = tuple[float, float, float]


def colour(
    rng: np.random.Generator,
    brightness: tuple[float, float] = (0.3, 0.85),
    saturation: tuple[float, float] = (0.1, 0.7),
) -> RGB:
    """Any hue."""
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*brightness))


def grey(rng: np.random.Generator, low: float, high: float) -> RGB:
    """Nearly without hue."""
    value, warm = rng.uniform(low, high), rng.normal(0, 0.012)
    return value + warm, value, value - warm


def wood(rng: np.random.Generator) -> RGB:
    """From beech to walnut."""
    return colorsys.hsv_to_rgb(rng.uniform(0.05, 0.1), rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.75))


def skin(rng: np.random.Generator) -> RGB:
    """From dark to light."""
    t = rng.uniform()
    return 0.42 + 0.44 * t, 0.27 + 0.41 * t, 0.18 + 0.4 * t


def scaled(of: RGB, by: float) -> RGB:
    """Brighter or darker."""
    return of[0] * by, of[1] * by, of[2] * by


def apart(rng: np.random.Generator, of: RGB, least: float, brightness: tuple[float, float] = (0.15, 0.85)) -> RGB:
    """A colour at least `least` away from `of` (Euclidean, RGB from 0 to 1)."""
    best, distance = of, -1.0
    for _ in range(40):
        one = colour(rng, brightness)
        d = float(np.linalg.norm(np.subtract(one, of)))
        if d >= least:
            return one
        if d > distance:
            best, distance = one, d
    return best
