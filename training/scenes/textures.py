"""Colours and textures: flat, gradients, clouds, stripes, and patches of photos."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np


@dataclass
class Bank:
    """What scenes take from photos. Everything may be empty: then scenes are drawn without.

    colours: N×3 uint8. patches: h×w×3 uint8, each inside one segment. cutouts: h×w×4 uint8, things with their alpha.
    photos: H×W×3 uint8 pixels, H×W uint16 atoms and their table (labels.combined).
    """

    colours: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    patches: list[np.ndarray] = field(default_factory=list)
    cutouts: list[np.ndarray] = field(default_factory=list)
    photos: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)


def random_colour(rng: np.random.Generator, bank: Bank) -> np.ndarray:
    """3 float32 in 0..255."""
    if len(bank.colours) and rng.random() < 0.6:
        return bank.colours[rng.integers(len(bank.colours))].astype(np.float32)
    hsv = np.array([[[rng.integers(180), int(255 * rng.random() ** 1.3), int(255 * rng.random() ** 0.6)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def near(rng: np.random.Generator, colour: np.ndarray, spread: float) -> np.ndarray:
    """A colour like this one."""
    return np.clip(colour + rng.normal(0, spread, 3), 0, 255).astype(np.float32)


def clouds(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise in 0..1, H×W float32, with bumps of about `cell` pixels."""
    rows, columns = min(int(height / cell) + 2, height + 2), min(int(width / cell) + 2, width + 2)
    small = rng.random((max(2, rows), max(2, columns)), dtype=np.float32)
    return np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def noise(rng: np.random.Generator, height: int, width: int, strength: float) -> np.ndarray:
    """H×W×1 float32 grey noise."""
    return rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(strength)


def texture(
    rng: np.random.Generator, bank: Bank, height: int, width: int, base: np.ndarray | None = None
) -> np.ndarray:
    """H×W×3 float32 in 0..255, about the colour `base` where one is given."""
    colour = random_colour(rng, bank) if base is None else base
    u = rng.random()
    if u < 0.24 or min(height, width) < 6:
        surface = np.broadcast_to(colour, (height, width, 3)).astype(np.float32)
    elif u < 0.42:
        surface = _gradient(rng, bank, height, width, colour)
    elif u < 0.58:
        other = near(rng, colour, 40)
        cells = ((rng.uniform(24, 80), 0.5), (rng.uniform(6, 20), 0.3), (rng.uniform(2, 5), 0.2))
        mixture = np.sum([clouds(rng, height, width, cell) * k for cell, k in cells], axis=0)
        surface = colour + mixture[..., None] * (other - colour)
    elif u < 0.68 or not bank.patches:
        surface = _pattern(rng, bank, height, width, colour)
    else:
        surface = _photo_patch(rng, bank, height, width, colour, keep_colour=base is None)
    if rng.random() < 0.5:
        surface = surface + noise(rng, height, width, rng.uniform(1, 7))
    return np.clip(surface, 0, 255)


def _gradient(rng: np.random.Generator, bank: Bank, height: int, width: int, colour: np.ndarray) -> np.ndarray:
    other = near(rng, colour, 35) if rng.random() < 0.7 else random_colour(rng, bank)
    a = rng.random() * 2 * np.pi
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    ramp = (x - 0.5) * np.cos(a) + (y - 0.5) * np.sin(a) + 0.5
    if rng.random() < 0.35:
        ramp = np.sqrt((x - rng.random()) ** 2 + (y - rng.random()) ** 2)
    return colour + np.clip(ramp, 0, 1)[..., None].astype(np.float32) * (other - colour)


def _pattern(rng: np.random.Generator, bank: Bank, height: int, width: int, colour: np.ndarray) -> np.ndarray:
    """Stripes, checks or dots."""
    other = near(rng, colour, 45) if rng.random() < 0.7 else random_colour(rng, bank)
    a, period = rng.random() * np.pi, rng.uniform(4, 24)
    y = np.arange(height, dtype=np.float32)[:, None] * 2 * np.pi / period
    x = np.arange(width, dtype=np.float32)[None] * 2 * np.pi / period
    wave = np.sin(x * np.cos(a) + y * np.sin(a))
    kind = rng.integers(3)
    if kind:
        across = np.sin(y * np.cos(a) - x * np.sin(a))
        wave = wave * across if kind == 1 else wave + across - 1
    return colour + np.clip(wave * rng.uniform(1, 6) + 0.5, 0, 1)[..., None].astype(np.float32) * (other - colour)


def _photo_patch(
    rng: np.random.Generator, bank: Bank, height: int, width: int, colour: np.ndarray, keep_colour: bool
) -> np.ndarray:
    """A patch of one segment of a photo, mirrored to fill."""
    patch = bank.patches[rng.integers(len(bank.patches))]
    k = rng.uniform(0.7, 2.0)
    patch = cv2.resize(patch, None, fx=k, fy=k).astype(np.float32)
    h, w = patch.shape[:2]
    above, left = int(rng.integers(h)), int(rng.integers(w))
    surface = np.pad(patch, ((above, max(0, height - h)), (left, max(0, width - w)), (0, 0)), mode="symmetric")[
        :height, :width
    ]
    if not keep_colour or rng.random() < 0.4:
        surface = surface - surface.mean((0, 1)) + colour
    return surface * np.float32(rng.uniform(0.7, 1.2))
