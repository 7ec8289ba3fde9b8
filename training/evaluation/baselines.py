"""What needs no network: graph segmentation and superpixels, to be set beside a model in the same table."""

from __future__ import annotations

import numpy as np
from skimage.segmentation import felzenszwalb, slic

SCALES = (100, 300, 1000)
SEGMENTS = (30, 100)


def label_maps(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Name → H×W int labels of H×W×3 uint8 RGB."""
    maps = {f"felzenszwalb, scale {s}": felzenszwalb(pixels, scale=s, sigma=0.8, min_size=100) for s in SCALES}
    maps |= {f"SLIC, {n} segments": slic(pixels, n_segments=n, start_label=0) for n in SEGMENTS}
    return maps
