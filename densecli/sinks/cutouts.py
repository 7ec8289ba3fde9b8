"""`NAME_cutouts/0001.png` …: each mask's pixels on transparent ground (RGBA), cut to the mask's box."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densecli.files import complete_folder
from densecli.masks import Segmentation
from densecli.output_names import mask_name
from densecli.sinks import WriteOptions
from densecli.sinks.images import save_png


def write(segmentation: Segmentation, path: Path, options: WriteOptions) -> None:
    with complete_folder(path) as temporary:
        for mask in segmentation.masks:
            x, y, window = mask.decode_window()
            h, w = window.shape
            cutout = np.zeros((h, w, 4), dtype=np.uint8)
            cutout[window, :3] = segmentation.pixels[y : y + h, x : x + w][window]
            cutout[window, 3] = 255
            save_png(cutout, temporary / mask_name(mask.id))
