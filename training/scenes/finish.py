"""What light and camera do to a finished scene. None of it moves a mask."""

from __future__ import annotations

import cv2
import numpy as np

from training.scenes.textures import clouds, noise


def photographed(rng: np.random.Generator, pixels: np.ndarray, hard: bool) -> np.ndarray:
    """S×S×3 float32 to uint8: uneven light, dusk, haze, blur, camera shake, noise, JPEG. hard: more of it."""
    size = pixels.shape[0]
    if rng.random() < 0.6:
        light = clouds(rng, size, size, rng.uniform(150, 400)) - 0.5
        pixels = pixels * (1 + light * np.float32(rng.uniform(0.2, 0.9)))[..., None]
    if rng.random() < (0.45 if hard else 0.12):  # dark
        pixels = pixels * np.float32(np.exp(rng.uniform(np.log(0.12), np.log(0.6))))
    if rng.random() < (0.45 if hard else 0.12):  # low contrast: haze, a grey day
        k = np.float32(rng.uniform(0.2, 0.6))
        pixels = pixels * k + np.float32(rng.uniform(20, 220)) * (1 - k)
    if rng.random() < 0.5:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 2.4 if hard else 1.2))
    if rng.random() < (0.3 if hard else 0.05):
        pixels = cv2.filter2D(pixels, -1, _shake(rng))
    if rng.random() < (0.8 if hard else 0.4):
        pixels = pixels + noise(rng, size, size, rng.uniform(1, 18 if hard else 8))
    finished = np.clip(pixels, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35 if hard else 50, 95))]
        finished = cv2.imdecode(cv2.imencode(".jpg", finished, quality)[1], cv2.IMREAD_COLOR)
    return finished


def _shake(rng: np.random.Generator) -> np.ndarray:
    """A kernel that smears along a short line."""
    length = int(rng.integers(2, 6))
    kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
    a = rng.random() * np.pi
    for t in np.linspace(-length, length, 4 * length):
        kernel[round(length + t * np.sin(a)), round(length + t * np.cos(a))] = 1
    return kernel / kernel.sum()
