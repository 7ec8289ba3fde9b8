"""Point grids and crop boxes: where the generator looks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from densecli.engine.parameters import GeneratorParameters


@dataclass(frozen=True)
class Crop:
    """One crop of the image: box as xyxy in image pixels (x1, y1 exclusive), and the crop layer it belongs to."""

    box: tuple[int, int, int, int]
    layer: int

    @property
    def width(self) -> int:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]


def point_grid(points_per_side: int) -> np.ndarray:
    """Regular grid of points, points_per_side² × 2 float64 (x, y) in [0, 1], row by row.

    Points sit in the middle of their grid cells, as in Meta's `build_point_grid`.
    """
    offset = 1 / (2 * points_per_side)
    side = np.linspace(offset, 1 - offset, points_per_side)
    x, y = np.meshgrid(side, side)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def layer_points_per_side(parameters: GeneratorParameters, layer: int) -> int:
    """Points a side in crop layer `layer`; Meta's rule, and at least 1."""
    return max(1, int(parameters.points_per_side / parameters.crop_n_points_downscale_factor**layer))


def crops(height: int, width: int, parameters: GeneratorParameters) -> list[Crop]:
    """The whole image, then layer by layer its overlapping crops, in the order of Meta's `generate_crop_boxes`.

    On images smaller than the crops are many, boxes can be empty; those are left out.
    """
    found = [Crop((0, 0, width, height), 0)]
    short_side = min(height, width)
    for layer in range(1, parameters.crop_n_layers + 1):
        n = 2**layer
        overlap = int(parameters.crop_overlap_ratio * short_side * (2 / n))
        crop_width = math.ceil((overlap * (n - 1) + width) / n)
        crop_height = math.ceil((overlap * (n - 1) + height) / n)
        x_starts = [(crop_width - overlap) * i for i in range(n)]
        y_starts = [(crop_height - overlap) * i for i in range(n)]
        for x0, y0 in product(x_starts, y_starts):
            box = (x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height))
            if box[0] < box[2] and box[1] < box[3]:
                found.append(Crop(box, layer))
    return found


def crop_points(crop: Crop, parameters: GeneratorParameters) -> np.ndarray:
    """Point prompts of one crop: n × 2 float64 (x, y) in pixels of the crop."""
    grid = point_grid(layer_points_per_side(parameters, crop.layer))
    return grid * np.array([[crop.width, crop.height]])
