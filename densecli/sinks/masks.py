"""`NAME_masks/0001.png` …: one black-and-white picture per mask, at the size of the image."""

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
        canvas = np.zeros(segmentation.size, dtype=np.uint8)
        for mask in segmentation.masks:
            x, y, window = mask.decode_window()
            place = canvas[y : y + window.shape[0], x : x + window.shape[1]]
            place[window] = 255
            save_png(canvas, temporary / mask_name(mask.id))
            place[:] = 0
